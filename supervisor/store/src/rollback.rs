//! Rolling blocks back, which a reorganisation of the chain needs.
//!
//! Each value is stored under the height of its block, so a block does not overwrite older values. To roll a block back, it is
//! enough to delete the values that the block wrote. A block with an undo list is rolled back by that list
//! ([`crate::undo_list`]). A block without a list (it is older than the lists that are kept, or was committed without lists) is
//! rolled back by looking at every value in the store.

use std::ops::Bound;

use cofferdam_protocol::state::{self, BlockRecord};
use heed::{RoTxn, RwTxn};

use crate::error::StoreError;
use crate::failure::write_error;
use crate::store::Store;
use crate::store_faults::StoreCall;
use crate::tree_feature;
use crate::undo_list;

/// The most pairs that one step of a rollback removes; a single block with more pairs is a step of its own. [`STEP_BLOCKS`]
/// limits the blocks of a step. In the worst case each pair changes a page of 4 KiB, and LMDB keeps the changed pages in memory
/// until the step is committed. For this number of pairs that is 128 MiB.
const STEP_PAIRS: u64 = 32_768;
const STEP_BLOCKS: usize = 1_000;

/// How many stored keys are collected in memory before they are deleted, when every value is looked at.
const DELETE_BATCH: usize = 16_384;

impl Store {
    /// Rolls back every block above `to`, or every block if `to` is none. Afterwards the store is as it was after the block at
    /// `to`. Returns how many blocks were rolled back.
    ///
    /// The rollback runs in steps. Each step is one transaction of whole blocks. So a rollback of many blocks needs no more
    /// memory than one step. If an error or the end of the process interrupts the rollback between two steps, the store is as it
    /// was after one of its blocks. A reader whose read transaction began before the rollback still sees the old values.
    ///
    /// # Errors
    /// [`StoreError::TooDeep`] if there are more than `at_most` blocks above `to`; then no block was rolled back.
    /// [`StoreError::NotRolledBack`], [`StoreError::Lmdb`], [`StoreError::Damaged`], and `StoreError::Tree` if the store
    /// has a state tree.
    pub fn roll_back(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let mut rolled_back = 0;
        loop {
            match self.roll_back_step(to, at_most - rolled_back)? {
                0 => return Ok(rolled_back),
                blocks => rolled_back += blocks,
            }
        }
    }

    /// Rolls back the newest of the blocks above `to`: as many as fit into one transaction. Returns the number of removed blocks,
    /// at most `at_most`. The number is 0 if there are no blocks above `to`.
    ///
    /// # Errors
    /// The same as [`Store::roll_back`]. The store is then as it was before this step.
    pub fn roll_back_step(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let fail = |source| self.not_rolled_back(to, source);
        self.inject_fault(StoreCall::Begin).map_err(fail)?;
        let mut txn = self.env.write_txn().map_err(fail)?;
        self.check_depth(&txn, to, at_most)?;
        let heights = self.newest_above(&txn, to)?;
        let Some(lowest) = heights.last().copied() else { return Ok(0) };
        let mut all_listed = true;
        for height in &heights {
            all_listed &=
                undo_list::delete_listed(self.undo, self.values, &mut txn, *height).map_err(fail)?;
            self.blocks.delete(&mut txn, &height.to_be_bytes()).map_err(fail)?;
        }
        self.inject_fault(StoreCall::Write).map_err(fail)?;
        if !all_listed {
            self.delete_values_from(&mut txn, lowest).map_err(fail)?;
        }
        undo_list::delete_from(self.undo, &mut txn, lowest).map_err(fail)?;
        tree_feature::roll_back(self.tree, &mut txn, &self.path, lowest, fail)?;
        self.inject_fault(StoreCall::Commit).map_err(fail)?;
        txn.commit().map_err(fail)?;
        Ok(u32::try_from(heights.len()).unwrap_or(u32::MAX))
    }

    fn not_rolled_back(&self, to: Option<u32>, source: heed::Error) -> StoreError {
        StoreError::NotRolledBack { path: self.path.clone(), to, source: write_error(&self.path, source) }
    }

    /// Fails if there are more than `at_most` blocks above `to`.
    fn check_depth(&self, txn: &RoTxn<'_>, to: Option<u32>, at_most: u32) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("counting the blocks to roll back", source);
        let mut blocks = self.blocks.rev_iter(txn).map_err(fail)?;
        let allowed = usize::try_from(at_most).unwrap_or(usize::MAX);
        let Some(entry) = blocks.nth(allowed) else { return Ok(()) };
        let (key, _) = entry.map_err(fail)?;
        let height = state::block_height(key).map_err(|source| self.damaged(source))?;
        if to.is_some_and(|to| height <= to) {
            return Ok(());
        }
        Err(StoreError::TooDeep { path: self.path.clone(), to, at_most })
    }

    /// The heights of the newest blocks above `to`, newest first: as many as one step rolls back.
    fn newest_above(&self, txn: &RoTxn<'_>, to: Option<u32>) -> Result<Vec<u32>, StoreError> {
        let fail = |source| self.lmdb("reading the blocks to roll back", source);
        let (mut heights, mut pairs) = (Vec::new(), 0u64);
        for entry in self.blocks.rev_iter(txn).map_err(fail)? {
            let (key, bytes) = entry.map_err(fail)?;
            let record = state::block_height(key).and_then(|height| BlockRecord::decode(height, bytes));
            let record = record.map_err(|source| self.damaged(source))?;
            pairs = pairs.saturating_add(record.writes);
            let is_full = pairs > STEP_PAIRS || heights.len() >= self.step_blocks();
            if to.is_some_and(|to| record.height <= to) || (is_full && !heights.is_empty()) {
                break;
            }
            heights.push(record.height);
        }
        Ok(heights)
    }

    /// How many blocks one step rolls back at most.
    fn step_blocks(&self) -> usize {
        self.faults.as_ref().and_then(|faults| faults.rollback_step_blocks()).unwrap_or(STEP_BLOCKS)
    }

    /// Deletes every value of a block at or above `lowest`, by looking at every value in the store.
    fn delete_values_from(&self, txn: &mut RwTxn<'_>, lowest: u32) -> heed::Result<()> {
        let mut last: Vec<u8> = Vec::new();
        loop {
            let mut batch = Vec::new();
            let from = if last.is_empty() { Bound::Unbounded } else { Bound::Excluded(last.as_slice()) };
            let range: (Bound<&[u8]>, Bound<&[u8]>) = (from, Bound::Unbounded);
            for entry in self.values.range(txn, &range)? {
                let (key, _) = entry?;
                if state::version_height(key).is_some_and(|height| height >= lowest) {
                    batch.push(key.to_vec());
                }
                if batch.len() >= DELETE_BATCH {
                    break;
                }
            }
            for key in &batch {
                self.values.delete(txn, key)?;
            }
            if batch.len() < DELETE_BATCH {
                return Ok(());
            }
            last = batch.pop().unwrap_or_default();
        }
    }
}
