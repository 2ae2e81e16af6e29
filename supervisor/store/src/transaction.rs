//! Committing blocks: several blocks and their pairs are written in one LMDB transaction, all of them or none.

use std::fmt;

use cofferdam_protocol::state::{self, BlockRecord, VersionKey};
use cofferdam_protocol::writes::Writes;
use heed::{RoTxn, RwTxn};

use crate::error::StoreError;
use crate::failure::write_error;
use crate::store::Store;
use crate::store_faults::StoreCall;
use crate::tree_feature;
use crate::undo_list::{self, UndoList};

/// Blocks that are written but not committed. Dropping the transaction discards them and leaves the store unchanged.
#[must_use = "nothing is stored before `commit`"]
pub struct Transaction<'s> {
    store: &'s Store,
    txn: RwTxn<'s>,
    /// Height of the newest block in the transaction, for messages.
    height: u32,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("height", &self.height).finish_non_exhaustive()
    }
}

impl Store {
    /// Commits a block and its pairs, both or neither. If several pairs have the same key, the last pair is stored. The record
    /// is stored as it is given: the caller has to make sure that it matches the pairs.
    ///
    /// # Errors
    /// [`StoreError::NotAboveTip`]; [`StoreError::NotWritten`], for example if the disk is full. In both cases the store is
    /// unchanged and can still be used.
    pub fn commit(&self, record: &BlockRecord, writes: &Writes) -> Result<(), StoreError> {
        self.commit_all(&[(record, writes)])
    }

    /// Commits blocks and their pairs, all or none. Like [`Store::commit`] for each block, but with one sync to disk.
    ///
    /// # Errors
    /// The same as [`Store::commit`]. [`StoreError::NotWritten`] names the last block that was written; no block was
    /// committed.
    pub fn commit_all(&self, blocks: &[(&BlockRecord, &Writes)]) -> Result<(), StoreError> {
        let Some((first, _)) = blocks.first() else { return Ok(()) };
        let mut transaction = self.begin(first.height)?;
        for (record, writes) in blocks {
            transaction = transaction.put(record, writes)?;
        }
        transaction.commit()
    }

    /// Begins a transaction for blocks from `height` on. Other writers wait until the transaction ends.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`].
    pub fn begin(&self, height: u32) -> Result<Transaction<'_>, StoreError> {
        let fail = |source| self.not_written(height, source);
        self.inject_fault(StoreCall::Begin).map_err(fail)?;
        let txn = self.env.write_txn().map_err(fail)?;
        Ok(Transaction { store: self, txn, height })
    }

    fn not_written(&self, height: u32, source: heed::Error) -> StoreError {
        StoreError::NotWritten { path: self.path.clone(), height, source: write_error(&self.path, source) }
    }

    fn check_above_tip(&self, txn: &RoTxn<'_>, height: u32) -> Result<(), StoreError> {
        let last = self.blocks.last(txn).map_err(|source| self.lmdb("reading the tip", source))?;
        let Some((key, _)) = last else { return Ok(()) };
        let tip = state::block_height(key).map_err(|source| self.damaged(source))?;
        if height > tip {
            return Ok(());
        }
        Err(StoreError::NotAboveTip { path: self.path.clone(), height, tip })
    }

    fn put_pairs(&self, txn: &mut RwTxn<'_>, height: u32, pairs: &[(&[u8], &[u8])]) -> heed::Result<()> {
        let mut list = (self.undo_depth > 0).then(|| UndoList::new(height));
        for (key, value) in pairs {
            let version = VersionKey::new(key, height);
            self.values.put(txn, version.as_bytes(), &version.stored(value))?;
            if let Some(list) = &mut list {
                list.push(self.undo, txn, &version)?;
            }
        }
        let Some(list) = list else { return Ok(()) };
        list.finish(self.undo, txn)?;
        undo_list::prune(self.undo, txn, height, self.undo_depth)
    }
}

impl Transaction<'_> {
    /// Writes one more block and its pairs. If several pairs have the same key, the last pair is stored. An error discards
    /// everything that was written in this transaction.
    ///
    /// # Errors
    /// The same as [`Store::commit`].
    pub fn put(mut self, record: &BlockRecord, writes: &Writes) -> Result<Self, StoreError> {
        let (store, height) = (self.store, record.height);
        self.height = height;
        store.check_above_tip(&self.txn, height)?;
        let pairs = last_write_per_key(writes);
        let put = store.put_pairs(&mut self.txn, height, &pairs);
        let put = put.and_then(|()| store.inject_fault(StoreCall::Write));
        let put = put.and_then(|()| store.blocks.put(&mut self.txn, &height.to_be_bytes(), &record.encode()));
        put.map_err(|source| store.not_written(height, source))?;
        tree_feature::apply(store.tree, &mut self.txn, &store.path, height, &pairs)?;
        Ok(self)
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`]; then nothing of this transaction is committed.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { store, txn, height } = self;
        let committed = store.inject_fault(StoreCall::Commit).and_then(|()| txn.commit());
        committed.map_err(|source| store.not_written(height, source))
    }
}

/// The last pair of each key, in the order of the keys. In this order neighbouring keys go into the same page of LMDB's tree,
/// which makes a commit a quarter faster with ten million stored pairs. Short keys are stored in exactly this order, long keys
/// nearly so.
pub fn last_write_per_key(writes: &Writes) -> Vec<(&[u8], &[u8])> {
    let mut pairs: Vec<_> = writes.iter().collect();
    pairs.reverse();
    pairs.sort_by_key(|&(key, _)| key);
    pairs.dedup_by_key(|&mut (key, _)| key);
    pairs
}
