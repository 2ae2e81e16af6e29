//! The store, as its one writer sees it: opening it, and reading what is committed. Other files add commits, rollbacks and
//! proofs to [`Store`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::state::{self, BlockRecord, LayoutError, VersionKey};
use cofferdam_worker::state::{StateReader, Table};
use heed::{Env, RoTxn, WithoutTls};

use crate::content_hash::content_hash;
use crate::directory::WriterLock;
use crate::error::StoreError;
use crate::failure::write_error;
use crate::identity::{Durability, Identity};
use crate::open;
use crate::store_faults::{StoreCall, StoreFaults};
use crate::tree_feature::Tree;

/// A state store that is open for writing. Only one thread at a time can commit; any thread can read.
#[derive(Debug)]
pub struct Store {
    // The fields are dropped in this order, so the writer's lock is released after the environment is closed.
    pub(crate) env: Env<WithoutTls>,
    pub(crate) meta: Table,
    pub(crate) blocks: Table,
    pub(crate) values: Table,
    pub(crate) undo: Table,
    /// The tree over the newest values, in a store that was made with one.
    pub(crate) tree: Option<Tree>,
    /// The number of newest blocks whose undo lists are kept; see [`Store::with_undo`].
    pub(crate) undo_depth: u32,
    /// Failures that a test injects.
    pub(crate) faults: Option<Arc<StoreFaults>>,
    pub(crate) path: PathBuf,
    _writer_lock: WriterLock,
}

impl Store {
    /// Opens the store in `dir`, or creates one there. A process can have a store open once.
    ///
    /// # Errors
    /// [`StoreError`] if the store has another profile, network or format, if another process writes it, if the directory
    /// holds something else, or if a file cannot be opened.
    pub fn open(dir: &Path, identity: &Identity, durability: Durability) -> Result<Self, StoreError> {
        Self::open_with_map(dir, identity, durability, state::MAP_BYTES)
    }

    /// Opens a store as [`Store::open`] does, and keeps the parts of the profile in the store. If the store has another profile, the
    /// error says which part differs.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_profile(
        dir: &Path,
        profile: &Profile,
        network: Option<String>,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let identity = Identity { profile: profile.hash(), network };
        let store = Self::open(dir, &identity, durability).map_err(|error| match error {
            StoreError::Profile { path, stored, wanted, .. } => {
                // The failed open has closed the store, so that a reader can open it.
                let reader = StateReader::open(&path).and_then(|reader| reader.profile_parts());
                let parts = reader.ok().flatten().map(|parts| Box::new([parts, profile.clone()]));
                StoreError::Profile { path, stored, wanted, parts }
            }
            error => error,
        })?;
        if let Err(error) = store.keep_profile_parts(profile) {
            // Only the text of a later error depends on the parts.
            tracing::warn!("the store in {} lacks the parts of its profile: {error}", store.path.display());
        }
        Ok(store)
    }

    /// Stores the parts of the profile, if the store does not have them yet.
    fn keep_profile_parts(&self, profile: &Profile) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("storing the parts of the profile", write_error(&self.path, source));
        let is_kept = {
            let txn = self.env.read_txn().map_err(fail)?;
            self.meta.get(&txn, state::PROFILE_PARTS_KEY).map_err(fail)?.is_some()
        };
        if is_kept {
            return Ok(());
        }
        let mut txn = self.env.write_txn().map_err(fail)?;
        self.meta.put(&mut txn, state::PROFILE_PARTS_KEY, &profile.encode()).map_err(fail)?;
        txn.commit().map_err(fail)
    }

    /// Like [`Store::open`], for a store that can grow to `map_bytes` bytes.
    pub(crate) fn open_with_map(
        dir: &Path,
        identity: &Identity,
        durability: Durability,
        map_bytes: usize,
    ) -> Result<Self, StoreError> {
        let open::Opened { env, meta, blocks, values, undo, tree, path, writer_lock } =
            open::open(dir, identity, durability, map_bytes)?;
        let (undo_depth, faults) = (0, None);
        Ok(Self {
            env,
            meta,
            blocks,
            values,
            undo,
            tree,
            undo_depth,
            faults,
            path,
            _writer_lock: writer_lock,
        })
    }

    /// From now on keeps an undo list for each of the newest `blocks` blocks, so that a rollback deletes exactly what those
    /// blocks stored. The default is none: a rollback then reads every value of the store.
    #[must_use]
    pub fn with_undo(mut self, blocks: u32) -> Self {
        self.undo_depth = blocks;
        self
    }

    /// Makes calls of this store fail, as `faults` determines. For tests only.
    #[doc(hidden)]
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<StoreFaults>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// The store's directory, as an absolute path. Workers open the store by this path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A reader of the store in this process. The guest of a worker reads the store through such a reader, too. A reader keeps
    /// the environment open, so it must not outlive the store.
    pub fn reader(&self) -> StateReader {
        let tables = [self.meta, self.blocks, self.values];
        StateReader::of(self.env.clone(), tables, self.path.as_path().into())
    }

    /// The newest committed block; none in a new store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn tip(&self) -> Result<Option<BlockRecord>, StoreError> {
        let fail = |source| self.lmdb("reading the tip", source);
        self.inject_fault(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let Some((key, bytes)) = self.blocks.last(&txn).map_err(fail)? else { return Ok(None) };
        let record = state::block_height(key).and_then(|height| BlockRecord::decode(height, bytes));
        record.map(Some).map_err(|source| self.damaged(source))
    }

    /// The lowest committed height; none in a new store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn first_height(&self) -> Result<Option<u32>, StoreError> {
        let fail = |source| self.lmdb("reading the first block", source);
        self.inject_fault(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let first = self.blocks.first(&txn).map_err(fail)?;
        first.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// The record of the block at `height`, if it was committed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn block(&self, height: u32) -> Result<Option<BlockRecord>, StoreError> {
        let fail = |source| self.lmdb("reading a block's record", source);
        self.inject_fault(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let bytes = self.blocks.get(&txn, &height.to_be_bytes()).map_err(fail)?;
        let record = bytes.map(|bytes| BlockRecord::decode(height, bytes)).transpose();
        record.map_err(|source| self.damaged(source))
    }

    /// The record of the block at `height`, for a store that was made by following one chain and so has no gap. Returns none
    /// only if the store has no block at or below `height`.
    ///
    /// # Errors
    /// [`StoreError::NoBlock`] if there are blocks below `height` but none at `height`; [`StoreError::Damaged`],
    /// [`StoreError::Lmdb`].
    pub fn indexed(&self, height: u32) -> Result<Option<BlockRecord>, StoreError> {
        let record = self.block(height)?;
        if record.is_some() {
            return Ok(record);
        }
        match (self.first_height()?, self.tip()?) {
            (Some(first), Some(BlockRecord { height: tip, .. })) if first <= height => {
                Err(StoreError::NoBlock { path: self.path.clone(), height, first, tip })
            }
            _ => Ok(None),
        }
    }

    /// How many versions of values are stored, and the size of the data file in bytes.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn size(&self) -> Result<(u64, u64), StoreError> {
        let fail = |source| self.lmdb("counting values", source);
        let txn = self.env.read_txn().map_err(fail)?;
        let values = self.values.len(&txn).map_err(fail)?;
        Ok((values, self.env.real_disk_size().map_err(fail)?))
    }

    /// The network's name, if it is recorded.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn network(&self) -> Result<Option<String>, StoreError> {
        let fail = |source| self.lmdb("reading the network", source);
        self.inject_fault(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let name = self.meta.get(&txn, state::NETWORK_KEY).map_err(fail)?;
        Ok(name.map(|name| String::from_utf8_lossy(name).into_owned()))
    }

    /// Records the network's name, once it is known. Recording the same name again does nothing.
    ///
    /// # Errors
    /// [`StoreError::Network`] if another name is recorded; [`StoreError::Lmdb`].
    pub fn set_network(&self, name: &str) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("recording the network", write_error(&self.path, source));
        self.inject_fault(StoreCall::Begin).map_err(fail)?;
        let mut txn = self.env.write_txn().map_err(fail)?;
        open::record_network(self.meta, &mut txn, name, &self.path)?;
        self.inject_fault(StoreCall::Commit).map_err(fail)?;
        txn.commit().map_err(fail)
    }

    /// The newest value of `key` at or below the height `at_most`; none if no block up to that height wrote a value of `key`. A
    /// value of zero bytes is a value.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn get(&self, key: &[u8], at_most: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = |source| self.lmdb("reading a value", source);
        self.inject_fault(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        self.get_in(&txn, key, at_most)
    }

    /// Like [`Store::get`], in a transaction that is open already.
    pub(crate) fn get_in(
        &self,
        txn: &RoTxn<'_>,
        key: &[u8],
        at_most: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = |source| self.lmdb("reading a value", source);
        let version = VersionKey::new(key, at_most);
        let found = self.values.get_greater_than_or_equal_to(txn, version.as_bytes()).map_err(fail)?;
        let Some((found, stored)) = found else { return Ok(None) };
        let value = version.value(found, stored).map_err(|source| self.damaged(source))?;
        Ok(value.map(<[u8]>::to_vec))
    }

    /// SHA-256 over every stored key and value in the order of the keys, each after its length (u64 little-endian). Equal
    /// histories have equal hashes, even if they were indexed in different runs. Reads the whole store.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn content_hash(&self) -> Result<Hash, StoreError> {
        let fail = |source| self.lmdb("hashing its content", source);
        let txn = self.env.read_txn().map_err(fail)?;
        content_hash(self.values, &txn).map_err(fail)
    }

    /// Frees the reader slots of processes that have ended, and returns how many it freed. Call this after a worker died. If the
    /// worker had a read transaction open, its slot would otherwise keep LMDB from ever reusing old pages.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn clear_stale_readers(&self) -> Result<usize, StoreError> {
        self.env
            .clear_stale_readers()
            .map_err(|source| self.lmdb("freeing the slots of dead readers", source))
    }

    pub(crate) fn lmdb(&self, operation: &'static str, source: heed::Error) -> StoreError {
        StoreError::Lmdb { path: self.path.clone(), operation, source }
    }

    pub(crate) fn damaged(&self, source: LayoutError) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), source }
    }

    /// Fails if a test has chosen this call to fail.
    pub(crate) fn inject_fault(&self, call: StoreCall) -> heed::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.inject(call))
    }
}
