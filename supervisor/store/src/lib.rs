//! The embedded state store, as its one writer sees it.
//!
//! Every committed block is one LMDB transaction: its pairs, each under the block's height, and its record. So a store
//! is always the state after some block, whatever ended the process, and the state at every earlier height stays
//! readable. Workers read the same files without a round trip (`cofferdam_worker::state`); the bytes that both agree on
//! are described in [`cofferdam_protocol::state`].
//!
//! Put a store on a local file system: LMDB's locks and map do not work over a network one (lmdb.h, "Caveats").

mod contents;
mod copy;
mod error;
mod fault;
mod open;
#[cfg(test)]
mod processes;
#[cfg(feature = "tree")]
mod proofs;
#[cfg(not(feature = "tree"))]
#[path = "no_proofs.rs"]
mod proofs;
mod readable;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod transaction;
#[cfg(feature = "tree")]
pub mod tree;
mod trouble;
mod undo;
mod vacant;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_protocol::profile::{Hash, Profile};
pub use cofferdam_protocol::state::BlockRecord;
use cofferdam_protocol::state::{self, LayoutError, VersionKey};
use cofferdam_protocol::writes::Writes;
use cofferdam_worker::state::{StateReader, Table};
use heed::{Env, RoTxn, WithoutTls};
use sha2::{Digest, Sha256};

pub use contents::{Contents, ContentsError, contents, tip};
pub use copy::StoreCopy;
pub use error::StoreError;
#[doc(hidden)]
pub use fault::{StoreCall, StoreFaults};
pub(crate) use open::make_lasting;
#[cfg(feature = "tree")]
pub use proofs::Proven;
pub use readable::Readable;
pub use transaction::{Transaction, last_by_key};
pub use trouble::Trouble;
pub(crate) use trouble::advice_io;
pub use vacant::Vacant;

use self::proofs::Tree;
use self::trouble::of_write;

/// What a store belongs to. Results of two identities are never mixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hash of the profile that the results depend on.
    pub profile: Hash,
    /// Name of the network that the blocks are of, once that is known; see [`Store::set_network`].
    pub network: Option<String>,
}

/// What a finished commit withstands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A loss of power: every block is synced to disk before its commit returns.
    Block,
    /// The end of every process, but not of the machine, after which the store may be torn: for a directory that is
    /// made for the run.
    None,
}

/// The state store, open for writing. Commits come from one thread at a time, reads from any.
#[derive(Debug)]
pub struct Store {
    // The fields are dropped in this order: the lock is released after the environment is closed.
    env: Env<WithoutTls>,
    meta: Table,
    blocks: Table,
    values: Table,
    undo: Table,
    /// The tree over the newest values, in a store that was made with one.
    tree: Option<Tree>,
    /// For how many of the newest blocks lists are kept by which they can be taken back; see [`Store::with_undo`].
    undo_depth: u32,
    /// Failures that a test has planted.
    faults: Option<Arc<StoreFaults>>,
    path: PathBuf,
    _writer_lock: open::WriterLock,
}

impl Store {
    /// Opens the store in `dir`, or makes it there. A process can have a store open once.
    ///
    /// # Errors
    /// [`StoreError`] if the store is of another profile, network or format, if it has another writer, if the directory
    /// holds something else, or if it cannot be opened.
    pub fn open(dir: &Path, identity: &Identity, durability: Durability) -> Result<Self, StoreError> {
        Self::open_sized(dir, identity, durability, state::MAP_BYTES)
    }

    /// As [`Store::open`], and keeps in the store what the profile consists of. If the store is of another profile, the error says
    /// which part differs.
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
                // The store is closed again, and can be read by anybody.
                let reader = StateReader::open(&path).and_then(|reader| reader.profile_parts());
                let parts = reader.ok().flatten().map(|parts| Box::new([parts, profile.clone()]));
                StoreError::Profile { path, stored, wanted, parts }
            }
            error => error,
        })?;
        if let Err(error) = store.keep_parts(profile) {
            // Only the words of a later message depend on it.
            tracing::warn!(
                "the store in {} does not say what its profile consists of: {error}",
                store.path.display()
            );
        }
        Ok(store)
    }

    /// Keeps what the profile consists of, if the store does not have that yet.
    fn keep_parts(&self, profile: &Profile) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("keeping the parts of the profile", of_write(&self.path, source));
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

    fn open_sized(
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

    /// Keeps, from now on, what it takes to roll so many blocks back quickly. Without, which is the default, a rollback
    /// looks at every value.
    #[must_use]
    pub fn with_undo(mut self, blocks: u32) -> Self {
        self.undo_depth = blocks;
        self
    }

    /// The store's directory, absolute: what a worker opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads of this process, as a guest makes them. It must not outlive the store: what is open stays open until the last
    /// reader is gone.
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
        self.strike(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let Some((key, bytes)) = self.blocks.last(&txn).map_err(fail)? else { return Ok(None) };
        let record = state::block_height(key).and_then(|height| BlockRecord::decode(height, bytes));
        record.map(Some).map_err(|source| self.damaged(source))
    }

    /// The lowest height that is committed; none in a new store.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn first_height(&self) -> Result<Option<u32>, StoreError> {
        let fail = |source| self.lmdb("reading the first block", source);
        self.strike(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let first = self.blocks.first(&txn).map_err(fail)?;
        first.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// The record of the block at `height`, of a store that was made by following one chain: none only if there is no block
    /// at or below `height`.
    ///
    /// # Errors
    /// [`StoreError::NoBlock`] if there are blocks below `height`; [`StoreError::Damaged`], [`StoreError::Lmdb`].
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

    /// How many versions of values are stored, and bytes of the file that they are in.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn size(&self) -> Result<(u64, u64), StoreError> {
        let fail = |source| self.lmdb("counting values", source);
        let txn = self.env.read_txn().map_err(fail)?;
        let values = self.values.len(&txn).map_err(fail)?;
        Ok((values, self.env.real_disk_size().map_err(fail)?))
    }

    /// The record of the block at `height`, if it was committed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn block(&self, height: u32) -> Result<Option<BlockRecord>, StoreError> {
        let fail = |source| self.lmdb("reading a block's record", source);
        self.strike(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let bytes = self.blocks.get(&txn, &height.to_be_bytes()).map_err(fail)?;
        let record = bytes.map(|bytes| BlockRecord::decode(height, bytes)).transpose();
        record.map_err(|source| self.damaged(source))
    }

    /// Commits a block and its pairs, both or neither. Of pairs with equal keys the last one counts. The record is
    /// stored as given: that it fits the pairs is the caller's business.
    ///
    /// # Errors
    /// [`StoreError::NotAboveTip`]; [`StoreError::NotWritten`] if for instance the disk is full. Either leaves the store
    /// as it was, and usable.
    pub fn commit(&self, record: &BlockRecord, writes: &Writes) -> Result<(), StoreError> {
        self.commit_all(&[(record, writes)])
    }

    /// Commits blocks and their pairs, all or none: as [`Store::commit`], with one wait for the disk.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`StoreError::NotWritten`] names the last block that was written, and none of them was
    /// committed.
    pub fn commit_all(&self, blocks: &[(&BlockRecord, &Writes)]) -> Result<(), StoreError> {
        let Some((first, _)) = blocks.first() else { return Ok(()) };
        let mut transaction = self.begin(first.height)?;
        for (record, writes) in blocks {
            transaction = transaction.put(record, writes)?;
        }
        transaction.commit()
    }

    /// The network's name, if it is noted.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn network(&self) -> Result<Option<String>, StoreError> {
        let fail = |source| self.lmdb("reading the network", source);
        self.strike(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        let name = self.meta.get(&txn, state::NETWORK_KEY).map_err(fail)?;
        Ok(name.map(|name| String::from_utf8_lossy(name).into_owned()))
    }

    /// Notes the network's name, once it is known; noting the same again does nothing.
    ///
    /// # Errors
    /// [`StoreError::Network`] if another one is noted; [`StoreError::Lmdb`].
    pub fn set_network(&self, name: &str) -> Result<(), StoreError> {
        let fail = |source| self.lmdb("noting the network", of_write(&self.path, source));
        self.strike(StoreCall::Begin).map_err(fail)?;
        let mut txn = self.env.write_txn().map_err(fail)?;
        open::note_network(self.meta, &mut txn, name, &self.path)?;
        self.strike(StoreCall::Commit).map_err(fail)?;
        txn.commit().map_err(fail)
    }

    /// The newest value of `key` at or below the height `at_most`. A value of no bytes is one that a block wrote.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn get(&self, key: &[u8], at_most: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = |source| self.lmdb("reading a value", source);
        self.strike(StoreCall::Read).map_err(fail)?;
        let txn = self.env.read_txn().map_err(fail)?;
        self.get_in(&txn, key, at_most)
    }

    fn get_in(&self, txn: &RoTxn<'_>, key: &[u8], at_most: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = |source| self.lmdb("reading a value", source);
        let version = VersionKey::new(key, at_most);
        let found = self.values.get_greater_than_or_equal_to(txn, version.as_bytes()).map_err(fail)?;
        let Some((found, stored)) = found else { return Ok(None) };
        let value = version.value(found, stored).map_err(|source| self.damaged(source))?;
        Ok(value.map(<[u8]>::to_vec))
    }

    /// SHA-256 over every stored key and value in order, each after its length (u64 little-endian): equal for equal
    /// histories, whichever runs they came about in. Reads the whole store.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn content_hash(&self) -> Result<Hash, StoreError> {
        let fail = |source| self.lmdb("hashing its content", source);
        let txn = self.env.read_txn().map_err(fail)?;
        hash_values(self.values, &txn).map_err(fail)
    }

    /// Frees the reader slots of processes that have ended, and returns how many there were. To be called after a
    /// worker died: the snapshot it may have held would keep old pages from being reused for ever.
    ///
    /// # Errors
    /// [`StoreError::Lmdb`].
    pub fn clear_stale_readers(&self) -> Result<usize, StoreError> {
        self.env
            .clear_stale_readers()
            .map_err(|source| self.lmdb("clearing the slots of dead readers", source))
    }

    fn lmdb(&self, doing: &'static str, source: heed::Error) -> StoreError {
        StoreError::Lmdb { path: self.path.clone(), doing, source }
    }

    fn damaged(&self, source: LayoutError) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), source }
    }
}

/// What [`Store::content_hash`] gives.
fn hash_values(values: Table, txn: &RoTxn<'_>) -> heed::Result<Hash> {
    let mut hasher = Sha256::new();
    for entry in values.iter(txn)? {
        let (key, value) = entry?;
        for field in [key, value] {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    Ok(Hash(hasher.finalize().into()))
}
