//! Taking blocks back: what each recent block put into the store, so that a reorganisation can delete exactly that.
//!
//! Values are stored by height, so taking a block back is deleting what it put: nothing older was overwritten. The list of a
//! block's stored keys is written in its own transaction, and kept for as many blocks as a reorganisation may be deep. A block
//! without a list (it is older, or was committed without lists) can be taken back too, by a look at every value.

use std::ops::Bound;

use cofferdam_protocol::state::{self, BlockRecord, VersionKey};
use heed::{RoTxn, RwTxn};

use super::fault::StoreCall;
use super::trouble::of_write;
use super::{Store, StoreError, Table};

/// What one step of a rollback takes back, at most: so many pairs, unless one block has more, and so many blocks. A pair
/// changes a page of 4 KiB, at worst, which LMDB keeps in memory until the step is committed: 128 MiB.
const STEP_PAIRS: u64 = 32_768;
const STEP_BLOCKS: usize = 1_000;

/// How many stored keys are held in memory while all are looked at.
const DOOMED: usize = 16_384;

/// Bytes of one entry of a list. Larger ones need more neighbouring pages, smaller ones more entries.
const CHUNK_BYTES: usize = 60 << 10;

/// The list of one block's stored keys, while it is made.
#[derive(Debug)]
pub(super) struct UndoList {
    height: u32,
    chunk: u32,
    bytes: Vec<u8>,
}

impl UndoList {
    pub(super) fn new(height: u32) -> Self {
        Self { height, chunk: 0, bytes: Vec::new() }
    }

    pub(super) fn push(
        &mut self,
        table: Table,
        txn: &mut RwTxn<'_>,
        key: &VersionKey<'_>,
    ) -> heed::Result<()> {
        let key = key.as_bytes();
        if self.bytes.len() + 2 + key.len() > CHUNK_BYTES {
            self.write(table, txn)?;
        }
        // At most 511: state::KEY_LIMIT.
        let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(key);
        Ok(())
    }

    /// Writes what is left, so that a block that put nothing has a list too.
    pub(super) fn finish(mut self, table: Table, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        self.write(table, txn)
    }

    fn write(&mut self, table: Table, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        table.put(txn, &state::undo_key(self.height, self.chunk), &self.bytes)?;
        self.bytes.clear();
        self.chunk += 1;
        Ok(())
    }
}

impl Store {
    /// Takes back every block above `to`, all of them if it is none: afterwards the store is as it was after the block at
    /// `to`. Returns how many blocks that were.
    ///
    /// That is done in steps, each a transaction of whole blocks, so that it takes the memory of one step however many blocks
    /// there are. Cut short between two of them, by an error or by the end of the process, the store is as it was after one of
    /// its blocks. Snapshots that were taken before keep what they see.
    ///
    /// # Errors
    /// [`StoreError::TooDeep`] if there are more than `at_most` blocks above `to`; nothing was taken back then.
    /// [`StoreError::NotRolledBack`], [`StoreError::Tree`], [`StoreError::Lmdb`], [`StoreError::Damaged`].
    pub fn roll_back(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let mut taken = 0;
        loop {
            match self.roll_back_step(to, at_most - taken)? {
                0 => return Ok(taken),
                more => taken += more,
            }
        }
    }

    /// Takes back the newest of the blocks above `to`, as many as one transaction should have. Returns how many blocks that
    /// were: at most `at_most`, and none if there are none above `to`.
    ///
    /// # Errors
    /// As [`Store::roll_back`]; the store is then as it was before this step.
    pub fn roll_back_step(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let fail = |source| self.not_rolled_back(to, source);
        self.strike(StoreCall::Begin).map_err(fail)?;
        let mut txn = self.env.write_txn().map_err(fail)?;
        self.check_depth(&txn, to, at_most)?;
        let heights = self.newest_above(&txn, to)?;
        let Some(lowest) = heights.last().copied() else { return Ok(0) };
        let mut lists = true;
        for height in &heights {
            lists &= self.delete_listed(&mut txn, *height).map_err(fail)?;
            self.blocks.delete(&mut txn, &height.to_be_bytes()).map_err(fail)?;
        }
        self.strike(StoreCall::Write).map_err(fail)?;
        if !lists {
            self.delete_values_from(&mut txn, lowest).map_err(fail)?;
        }
        let from = state::undo_key(lowest, 0);
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Unbounded);
        self.undo.delete_range(&mut txn, &range).map_err(fail)?;
        self.roll_tree_back(&mut txn, lowest, |source| self.not_rolled_back(to, source))?;
        self.strike(StoreCall::Commit).map_err(fail)?;
        txn.commit().map_err(fail)?;
        Ok(u32::try_from(heights.len()).unwrap_or(u32::MAX))
    }

    fn not_rolled_back(&self, to: Option<u32>, source: heed::Error) -> StoreError {
        StoreError::NotRolledBack { path: self.path.clone(), to, source: of_write(&self.path, source) }
    }

    /// Whether there are no more than `at_most` blocks above `to`.
    fn check_depth(&self, txn: &RoTxn<'_>, to: Option<u32>, at_most: u32) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("counting the blocks to take back", source);
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

    /// Heights of the newest blocks above `to`, newest first: of as many as one step takes back.
    fn newest_above(&self, txn: &RoTxn<'_>, to: Option<u32>) -> Result<Vec<u32>, StoreError> {
        let fail = |source| self.lmdb("reading the blocks to take back", source);
        let (mut heights, mut pairs) = (Vec::new(), 0u64);
        for entry in self.blocks.rev_iter(txn).map_err(fail)? {
            let (key, bytes) = entry.map_err(fail)?;
            let record = state::block_height(key).and_then(|height| BlockRecord::decode(height, bytes));
            let record = record.map_err(|source| self.damaged(source))?;
            pairs = pairs.saturating_add(record.writes);
            let is_full = pairs > STEP_PAIRS || heights.len() >= self.step_blocks(STEP_BLOCKS);
            if to.is_some_and(|to| record.height <= to) || (is_full && !heights.is_empty()) {
                break;
            }
            heights.push(record.height);
        }
        Ok(heights)
    }

    /// Deletes what the block at `height` put, by its list; whether there is a whole one.
    fn delete_listed(&self, txn: &mut RwTxn<'_>, height: u32) -> heed::Result<bool> {
        for chunk in 0.. {
            let entry = self.undo.get(txn, &state::undo_key(height, chunk))?.map(<[u8]>::to_vec);
            let Some(entry) = entry else { return Ok(chunk > 0) };
            let mut bytes = entry.as_slice();
            while let Some((length, rest)) = bytes.split_first_chunk() {
                let Some((key, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
                else {
                    // Cut short by something that is not ours: every value is looked at instead.
                    return Ok(false);
                };
                self.values.delete(txn, key)?;
                bytes = rest;
            }
        }
        Ok(true)
    }

    /// Forgets how to undo blocks that are older than is kept, now that `tip` is the newest.
    pub(super) fn prune_undo(&self, txn: &mut RwTxn<'_>, tip: u32) -> heed::Result<()> {
        let Some(kept_from) = tip.checked_sub(self.undo_depth.saturating_sub(1)) else { return Ok(()) };
        let end = state::undo_key(kept_from, 0);
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Excluded(&end));
        self.undo.delete_range(txn, &range).map(drop)
    }

    /// Deletes every value of a block at or above `lowest`, by a look at all.
    fn delete_values_from(&self, txn: &mut RwTxn<'_>, lowest: u32) -> heed::Result<()> {
        let mut last: Vec<u8> = Vec::new();
        loop {
            let mut doomed = Vec::new();
            let from = if last.is_empty() { Bound::Unbounded } else { Bound::Excluded(last.as_slice()) };
            let range: (Bound<&[u8]>, Bound<&[u8]>) = (from, Bound::Unbounded);
            for entry in self.values.range(txn, &range)? {
                let (key, _) = entry?;
                if state::version_height(key).is_some_and(|height| height >= lowest) {
                    doomed.push(key.to_vec());
                }
                if doomed.len() >= DOOMED {
                    break;
                }
            }
            for key in &doomed {
                self.values.delete(txn, key)?;
            }
            if doomed.len() < DOOMED {
                return Ok(());
            }
            last = doomed.pop().unwrap_or_default();
        }
    }
}
