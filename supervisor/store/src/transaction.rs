//! Blocks on their way into the store: in one LMDB transaction, all or none.

use std::fmt;

use cofferdam_protocol::state::{self, BlockRecord, VersionKey};
use cofferdam_protocol::writes::Writes;
use heed::{RoTxn, RwTxn};

use super::fault::StoreCall;
use super::trouble::of_write;
use super::undo::UndoList;
use super::{Store, StoreError};

/// Blocks that are written and not committed. Dropped, they are forgotten, and the store is as it was.
#[must_use = "nothing is kept before `commit`"]
pub struct Transaction<'s> {
    store: &'s Store,
    txn: RwTxn<'s>,
    /// The newest height in it, for messages.
    height: u32,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("height", &self.height).finish_non_exhaustive()
    }
}

impl Store {
    /// Begins to write blocks, from `height` on. Until that is over, nobody else writes.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`].
    pub fn begin(&self, height: u32) -> Result<Transaction<'_>, StoreError> {
        let fail = |source| self.not_written(height, source);
        self.strike(StoreCall::Begin).map_err(fail)?;
        let txn = self.env.write_txn().map_err(fail)?;
        Ok(Transaction { store: self, txn, height })
    }

    fn not_written(&self, height: u32, source: heed::Error) -> StoreError {
        StoreError::NotWritten { path: self.path.clone(), height, source: of_write(&self.path, source) }
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
        match list {
            Some(list) => list.finish(self.undo, txn).and_then(|()| self.prune_undo(txn, height)),
            None => Ok(()),
        }
    }
}

impl Transaction<'_> {
    /// Writes one more block and its pairs. Of pairs with equal keys the last one counts. After an error everything that was
    /// written is forgotten.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn put(mut self, record: &BlockRecord, writes: &Writes) -> Result<Self, StoreError> {
        let (store, height) = (self.store, record.height);
        self.height = height;
        store.check_above_tip(&self.txn, height)?;
        let pairs = last_by_key(writes);
        let put = store.put_pairs(&mut self.txn, height, &pairs);
        let put = put.and_then(|()| store.strike(StoreCall::Write));
        let put = put.and_then(|()| store.blocks.put(&mut self.txn, &height.to_be_bytes(), &record.encode()));
        put.map_err(|source| store.not_written(height, source))?;
        store.apply_to_tree(&mut self.txn, height, &pairs)?;
        Ok(self)
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`]; nothing of it is committed then.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { store, txn, height } = self;
        let committed = store.strike(StoreCall::Commit).and_then(|()| txn.commit());
        committed.map_err(|source| store.not_written(height, source))
    }
}

/// The last pair of each key, in the order of keys: neighbours then go into the same page of the tree, which with ten
/// million pairs stored takes a quarter off a commit. Short keys are stored in this very order, long ones nearly so.
pub fn last_by_key(writes: &Writes) -> Vec<(&[u8], &[u8])> {
    let mut pairs: Vec<_> = writes.iter().collect();
    pairs.reverse();
    pairs.sort_by_key(|&(key, _)| key);
    pairs.dedup_by_key(|&mut (key, _)| key);
    pairs
}
