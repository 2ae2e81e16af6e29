//! What a guest reads of the state store: snapshots, taken by the worker itself and without a round trip.
//!
//! The supervisor writes the store ([`cofferdam_protocol::state`] describes its bytes); a worker opens it read-only
//! and takes one [`Snapshot`] a job. A snapshot holds a slot in LMDB's table of readers, which lives in `lock.mdb`; so
//! that file is opened and mapped for writing even here, and only `data.mdb` is out of a worker's reach: somebody who has
//! taken over a worker could hold up commits, and change nothing that is stored. A worker that dies leaves its slot
//! behind, until the supervisor clears stale readers.
//!
//! # Opening and the sandbox
//! Open the store before limits and filters are applied, and close no descriptor afterwards: LMDB keeps two, and its
//! `fcntl(2)` locks are lost if this process closes any descriptor of `lock.mdb`. Opening makes and grows no file.
//! It takes and gives back one snapshot, because the first one of a process makes system calls (a lock on
//! `lock.mdb`) that later ones do not. Later ones make none, save `futex(2)` when two processes meet.
//!
//! A snapshot keeps the pages that it sees from being reused, so one that is held while blocks are committed lets the
//! file grow: take one per job, and drop it.

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_protocol::arena::ArenaError;
use cofferdam_protocol::layer::LayerError;
use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::state::{self, BlockRecord, LayoutError, VersionKey};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};
use nix::sys::statvfs::{FsFlags, statvfs};
use thiserror::Error;

/// A table of the store.
pub type Table = Database<Bytes, Bytes>;

/// Why the state could not be read.
#[derive(Error)]
pub enum StateError {
    /// One of LMDB's two files is not there. A reader must not make it.
    #[error("no state store at {}: {file} is missing; the supervisor makes it before it starts a worker", path.display())]
    Missing {
        /// The store's directory.
        path: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// LMDB refused to open the store.
    #[error("the state store at {} cannot be opened for reading: {source}", path.display())]
    Open {
        /// The store's directory.
        path: PathBuf,
        /// What LMDB said.
        source: heed::Error,
    },
    /// The store is of another format, or no store of Cofferdam.
    #[error(
        "the store at {} has format {found:?}; this worker reads format {}: run one build for supervisor and workers",
        path.display(),
        state::FORMAT
    )]
    Format {
        /// The store's directory.
        path: PathBuf,
        /// The format found, if there is one.
        found: Option<u32>,
    },
    /// A snapshot could not be taken or read.
    #[error("the state store at {}: {doing}: {source}", path.display())]
    Read {
        /// The store's directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What LMDB said.
        source: heed::Error,
    },
    /// Stored bytes do not decode.
    #[error("the state store at {} is damaged: {source}; index into a new directory", path.display())]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        source: LayoutError,
    },
    /// The store does not say which profile its results are of.
    #[error("the state store at {} does not say which profile its results are of; index into a new directory", path.display())]
    NoProfile {
        /// The store's directory.
        path: PathBuf,
    },
    /// A layer over the store is not where the supervisor said.
    #[error("a layer over the state: {0}")]
    LayerPlace(#[from] ArenaError),
    /// A layer over the store does not parse.
    #[error("a layer over the state: {0}")]
    Layer(#[from] LayerError),
}

cofferdam_protocol::debug_as_display!(StateError);

/// The state store, open for reading. One process can open a store once, be it for reading or for writing.
#[derive(Clone, Debug)]
pub struct StateReader {
    env: Env<WithoutTls>,
    meta: Table,
    blocks: Table,
    values: Table,
    path: Arc<Path>,
}

impl StateReader {
    /// Opens the store in `dir`, which the supervisor has made.
    ///
    /// # Errors
    /// [`StateError`] if there is none, it is of another format or cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        check_files(dir)?;
        let path: Arc<Path> = dir.into();
        let open = |source| StateError::Open { path: dir.to_owned(), source };
        let env = open_env(dir).map_err(open)?;

        let txn = env.read_txn().map_err(open)?;
        let table = |name| env.open_database::<Bytes, Bytes>(&txn, Some(name)).map_err(open);
        let (meta, blocks, values) = (table(state::META)?, table(state::BLOCKS)?, table(state::VALUES)?);
        let (Some(meta), Some(blocks), Some(values)) = (meta, blocks, values) else {
            return Err(StateError::Format { path: dir.to_owned(), found: None });
        };
        check_format(dir, meta.get(&txn, state::FORMAT_KEY).map_err(open)?)?;
        // Only a commit makes the table handles outlive the transaction (lmdb.h, mdb_dbi_open).
        txn.commit().map_err(open)?;
        Ok(Self { env, meta, blocks, values, path })
    }

    /// Reads the tables `meta`, `blocks` and `values` through an environment that this process has open already. `path` is
    /// for messages.
    pub fn of(env: Env<WithoutTls>, [meta, blocks, values]: [Table; 3], path: Arc<Path>) -> Self {
        Self { env, meta, blocks, values, path }
    }

    /// Hash of the profile that the results in the store are of.
    ///
    /// # Errors
    /// [`StateError::NoProfile`], [`StateError::Read`].
    pub fn profile(&self) -> Result<Hash, StateError> {
        let read =
            |source| StateError::Read { path: self.path.to_path_buf(), doing: "reading the profile", source };
        let txn = self.env.read_txn().map_err(read)?;
        let stored = self.meta.get(&txn, state::PROFILE_KEY).map_err(read)?;
        let hash = stored.and_then(|bytes| bytes.try_into().ok()).map(Hash);
        hash.ok_or_else(|| StateError::NoProfile { path: self.path.to_path_buf() })
    }

    /// What that profile consists of; none in a store that was made before stores kept it.
    ///
    /// # Errors
    /// [`StateError::Read`].
    pub fn profile_parts(&self) -> Result<Option<Profile>, StateError> {
        let parts = self.meta(state::PROFILE_PARTS_KEY, "reading the parts of the profile")?;
        Ok(parts.as_deref().and_then(Profile::decode))
    }

    /// The name of the network that the blocks in the store are of, if it is known.
    ///
    /// # Errors
    /// [`StateError::Read`].
    pub fn network(&self) -> Result<Option<String>, StateError> {
        let name = self.meta(state::NETWORK_KEY, "reading the network")?;
        Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// An entry about the store as a whole.
    fn meta(&self, key: &[u8], doing: &'static str) -> Result<Option<Vec<u8>>, StateError> {
        let read = |source| StateError::Read { path: self.path.to_path_buf(), doing, source };
        let txn = self.env.read_txn().map_err(read)?;
        Ok(self.meta.get(&txn, key).map_err(read)?.map(<[u8]>::to_vec))
    }

    /// The store's directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The environment that it reads through, for who knows LMDB.
    pub fn environment(&self) -> &Env<WithoutTls> {
        &self.env
    }

    /// The state as of now, which stays as it is while the supervisor commits more.
    ///
    /// # Errors
    /// [`StateError::Read`]; for instance when every reader slot is taken ([`state::MAX_READERS`]).
    pub fn snapshot(&self) -> Result<Snapshot, StateError> {
        let txn = self.env.clone().static_read_txn().map_err(|source| StateError::Read {
            path: self.path.to_path_buf(),
            doing: "a snapshot cannot be taken",
            source,
        })?;
        Ok(Snapshot { txn, blocks: self.blocks, values: self.values, path: Arc::clone(&self.path) })
    }
}

/// The state at one moment. Owns all it needs and can move between threads, so a wasmtime `Store` can keep it.
pub struct Snapshot {
    txn: RoTxn<'static, WithoutTls>,
    blocks: Table,
    values: Table,
    path: Arc<Path>,
}

impl Snapshot {
    /// Height of the newest committed block; none if there is no block yet.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn tip(&self) -> Result<Option<u32>, StateError> {
        let last =
            self.blocks.last(&self.txn).map_err(|source| self.read_error("reading the tip", source))?;
        last.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// Height of the oldest committed block; none if there is no block yet.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn first(&self) -> Result<Option<u32>, StateError> {
        let first = self.blocks.first(&self.txn);
        let first = first.map_err(|source| self.read_error("reading the first block", source))?;
        first.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// The record of the block at `height`, if it was committed.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn block(&self, height: u32) -> Result<Option<BlockRecord>, StateError> {
        let bytes = self.blocks.get(&self.txn, &height.to_be_bytes());
        let bytes = bytes.map_err(|source| self.read_error("reading a block's record", source))?;
        let record = bytes.map(|bytes| BlockRecord::decode(height, bytes)).transpose();
        record.map_err(|source| self.damaged(source))
    }

    /// The newest value of `key` at or below the height `at_most`; none if it was never written up to there. A value
    /// of no bytes is one that a block wrote.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn get(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        let version = VersionKey::new(key, at_most);
        let found = self
            .values
            .get_greater_than_or_equal_to(&self.txn, version.as_bytes())
            .map_err(|source| self.read_error("reading a value", source))?;
        let Some((found, stored)) = found else { return Ok(None) };
        version.value(found, stored).map_err(|source| self.damaged(source))
    }

    #[cold]
    fn read_error(&self, doing: &'static str, source: heed::Error) -> StateError {
        StateError::Read { path: self.path.to_path_buf(), doing, source }
    }

    #[cold]
    fn damaged(&self, source: LayoutError) -> StateError {
        StateError::Damaged { path: self.path.to_path_buf(), source }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("path", &self.path)
            .field("txn", &self.txn.id())
            .finish_non_exhaustive()
    }
}

/// Refuses a directory that LMDB would put a lock file into. On a read-only file system it does without one: that nobody writes
/// there meanwhile is the supervisor's business.
fn check_files(dir: &Path) -> Result<(), StateError> {
    let is_read_only = || statvfs(dir).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    let is_needed = |file: &&str| *file == "data.mdb" || !is_read_only();
    let missing =
        ["data.mdb", "lock.mdb"].into_iter().find(|file| !dir.join(file).is_file() && is_needed(file));
    missing.map_or(Ok(()), |file| Err(StateError::Missing { path: dir.to_owned(), file }))
}

fn check_format(dir: &Path, stored: Option<&[u8]>) -> Result<(), StateError> {
    let found = stored.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    if found == Some(state::FORMAT) {
        return Ok(());
    }
    Err(StateError::Format { path: dir.to_owned(), found })
}

fn open_env(dir: &Path) -> heed::Result<Env<WithoutTls>> {
    // Without TLS a reader slot belongs to the transaction and not to the thread, so a snapshot can move.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(state::MAP_BYTES).max_dbs(state::TABLES);
    // SAFETY: neither flag is one that LMDB calls unsafe. A read-only map cannot damage the store, and reads are
    // scattered, so that reading ahead only evicts what is needed (lmdb.h, MDB_NORDAHEAD).
    unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the map is sound while nothing changes data.mdb but LMDB. Its one writer is the supervisor, which locks
    // the directory against a second one; both sides keep LMDB's locks on, and heed refuses to open a directory twice
    // in one process. Somebody who truncates the file makes reads fault with SIGBUS: this process ends, none else.
    unsafe { options.open(dir) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A store of `count` values at height 1, as the supervisor writes it, closed again: a process can have it open
    /// only once. What two processes see of one store is tested where the writer is.
    fn store(count: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EnvOpenOptions::new();
        options.map_size(1 << 30).max_dbs(state::TABLES);
        // SAFETY: a new directory of this test's own.
        let env = unsafe { options.open(dir.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let [meta, blocks, values]: [Table; 3] = [state::META, state::BLOCKS, state::VALUES]
            .map(|name| env.create_database(&mut txn, Some(name)).unwrap());
        meta.put(&mut txn, state::FORMAT_KEY, &state::FORMAT.to_le_bytes()).unwrap();
        blocks.put(&mut txn, &1u32.to_be_bytes(), b"not read here").unwrap();
        for number in 0..count {
            let key = key(number);
            let version = VersionKey::new(&key, 1);
            values.put(&mut txn, version.as_bytes(), &version.stored(&number.to_le_bytes())).unwrap();
        }
        txn.commit().unwrap();
        drop(env);
        dir
    }

    /// A key as an indexer makes them: a path, a hash, a number with zeros; every fiftieth is longer than LMDB allows.
    fn key(number: u32) -> Vec<u8> {
        let spread = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let tail = if number.is_multiple_of(50) { 600 } else { 40 };
        [b"/index/".as_slice(), &spread, &vec![7; tail], &number.to_be_bytes()].concat()
    }

    #[test]
    fn values_are_read_at_and_above_their_height() {
        let dir = store(100);
        let snapshot = StateReader::open(dir.path()).unwrap().snapshot().unwrap();
        assert_eq!(snapshot.tip().unwrap(), Some(1));
        for number in 0..100u32 {
            let value = number.to_le_bytes();
            assert_eq!(snapshot.get(&key(number), 1).unwrap(), Some(value.as_slice()));
            assert_eq!(snapshot.get(&key(number), u32::MAX).unwrap(), Some(value.as_slice()));
            assert_eq!(snapshot.get(&key(number), 0).unwrap(), None);
        }
        assert_eq!(snapshot.get(b"", 1).unwrap(), None);
        assert_eq!(snapshot.get(&[0xff; 700], 1).unwrap(), None);
    }

    #[test]
    fn a_snapshot_can_be_kept_in_a_store() {
        fn check<T: Send + 'static>() {}
        check::<Snapshot>();
        check::<StateReader>();
    }

    #[test]
    fn opening_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = StateReader::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("data.mdb is missing"), "{error}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn another_format_is_refused() {
        let dir = store(0);
        // SAFETY: a directory of this test's own.
        let env = unsafe { EnvOpenOptions::new().max_dbs(1).open(dir.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let meta: Table = env.open_database(&txn, Some(state::META)).unwrap().unwrap();
        meta.put(&mut txn, state::FORMAT_KEY, &2u32.to_le_bytes()).unwrap();
        txn.commit().unwrap();
        drop(env);
        let error = StateReader::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Format { found: Some(2), .. }), "{error}");
    }

    #[test]
    #[ignore = "a measurement, for a release build"]
    fn measure_snapshots_and_reads() {
        let count = 400_000;
        let dir = store(count);
        let reader = StateReader::open(dir.path()).unwrap();
        let keys: Vec<_> = (0..count).map(|number| key(number.wrapping_mul(7919) % count)).collect();
        let per = |start: Instant, times: u32| start.elapsed().as_secs_f64() * 1e6 / f64::from(times);

        let start = Instant::now();
        (0..count).for_each(|_| drop(reader.snapshot().unwrap()));
        println!("snapshot taken and dropped: {:.2} µs", per(start, count));

        let snapshot = reader.snapshot().unwrap();
        for round in ["first", "second"] {
            let start = Instant::now();
            keys.iter().for_each(|key| assert!(snapshot.get(key, 5).unwrap().is_some()));
            println!("get of {count} values, {round} round: {:.2} µs", per(start, count));
        }
        let start = Instant::now();
        let bytes: usize = keys.iter().map(|key| VersionKey::new(key, 5).as_bytes().len()).sum();
        println!("of it encoding the key ({bytes} bytes): {:.2} µs", per(start, count));
    }
}
