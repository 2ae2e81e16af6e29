//! Taking blocks back: what each recent block put into the store, so that a reorganisation can delete exactly that.
//!
//! Values are stored by height, so taking a block back is deleting what it put: nothing older was overwritten. The list of a
//! block's stored keys is written in its own transaction, and kept for as many blocks as a reorganisation may be deep. A block
//! without a list (it is older, or was committed without lists) can be taken back too, by a look at every value.

use std::ops::Bound;

use cofferdam_protocol::state::{self, VersionKey};
use heed::{RoTxn, RwTxn};

use super::{Store, StoreError, Table};

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
    /// Takes back every block above `to`, all of them if it is none, in one transaction: afterwards the store is as it was
    /// after the block at `to`. Returns how many blocks that were.
    ///
    /// Snapshots that were taken before keep what they see.
    ///
    /// # Errors
    /// [`StoreError::NotRolledBack`]; the store is then as it was.
    pub fn roll_back(&self, to: Option<u32>) -> Result<u64, StoreError> {
        let fail = |source| StoreError::NotRolledBack { path: self.path.clone(), to, source };
        let mut txn = self.env.write_txn().map_err(fail)?;
        let heights = self.heights_above(&txn, to)?;
        let Some(lowest) = heights.last().copied() else { return Ok(0) };
        let mut lists = true;
        for height in &heights {
            let keys = listed_keys(self.undo, &txn, *height).map_err(fail)?;
            lists &= keys.is_some();
            for key in keys.unwrap_or_default() {
                self.values.delete(&mut txn, &key).map_err(fail)?;
            }
            self.blocks.delete(&mut txn, &height.to_be_bytes()).map_err(fail)?;
        }
        if !lists {
            self.delete_values_from(&mut txn, lowest).map_err(fail)?;
        }
        let from = state::undo_key(lowest, 0);
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&from), Bound::Unbounded);
        self.undo.delete_range(&mut txn, &range).map_err(fail)?;
        if let Some(tree) = self.tree {
            tree.rollback(&mut txn, to).map_err(|source| self.tree_error(lowest, source))?;
        }
        txn.commit().map_err(fail)?;
        Ok(heights.len() as u64)
    }

    /// Forgets how to undo blocks that are older than is kept, now that `tip` is the newest.
    pub(super) fn prune_undo(&self, txn: &mut RwTxn<'_>, tip: u32) -> heed::Result<()> {
        let Some(kept_from) = tip.checked_sub(self.undo_depth.saturating_sub(1)) else { return Ok(()) };
        let end = state::undo_key(kept_from, 0);
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Excluded(&end));
        self.undo.delete_range(txn, &range).map(drop)
    }

    /// Heights of the blocks above `to`, newest first.
    fn heights_above(&self, txn: &RoTxn<'_>, to: Option<u32>) -> Result<Vec<u32>, StoreError> {
        let fail = |source| self.lmdb("reading the blocks to take back", source);
        let mut heights = Vec::new();
        for entry in self.blocks.rev_iter(txn).map_err(fail)? {
            let (key, _) = entry.map_err(fail)?;
            let height = state::block_height(key).map_err(|source| self.damaged(source))?;
            if to.is_some_and(|to| height <= to) {
                break;
            }
            heights.push(height);
        }
        Ok(heights)
    }

    /// Deletes every value of a block at or above `lowest`, by a look at all.
    fn delete_values_from(&self, txn: &mut RwTxn<'_>, lowest: u32) -> heed::Result<()> {
        let mut doomed = Vec::new();
        for entry in self.values.iter(txn)? {
            let (key, _) = entry?;
            if state::version_height(key).is_some_and(|height| height >= lowest) {
                doomed.push(key.to_vec());
            }
        }
        for key in doomed {
            self.values.delete(txn, &key)?;
        }
        Ok(())
    }
}

/// The stored keys that the block at `height` put; none if it has no list.
fn listed_keys(table: Table, txn: &RoTxn<'_>, height: u32) -> heed::Result<Option<Vec<Vec<u8>>>> {
    let mut keys = None;
    for entry in table.prefix_iter(txn, &height.to_be_bytes())? {
        let (_, mut bytes) = entry?;
        let keys: &mut Vec<Vec<u8>> = keys.get_or_insert_default();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let Some((key, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
                // Cut short by something that is not ours: every value is looked at instead.
                return Ok(None);
            };
            keys.push(key.to_vec());
            bytes = rest;
        }
    }
    Ok(keys)
}
