//! Reading the state store without a round trip: [`StateReader`] opens it, and each job takes one [`Snapshot`].

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

use std::path::Path;
use std::sync::Arc;

use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::state::{self, BlockRecord, LayoutError, VersionKey};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::error::StateError;

/// A table of the store.
pub type Table = Database<Bytes, Bytes>;

/// The state store, open for reading. One process can open a store once, for reading or for writing.
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
    /// The store's files are mapped into memory. Only LMDB may change them, or this process may crash. No caller can prevent
    /// other processes from writing to the files, so this is not an `unsafe fn`. Keep the directory writable for its owner only.
    ///
    /// # Errors
    /// [`StateError`] if there is no store, it has another format, or it cannot be opened.
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
        // The table handles outlive the transaction only if it is committed (lmdb.h, mdb_dbi_open).
        txn.commit().map_err(open)?;
        Ok(Self { env, meta, blocks, values, path })
    }

    /// A reader of the tables `meta`, `blocks` and `values` through an environment that this process has already opened. `path` is
    /// for messages.
    pub fn of(env: Env<WithoutTls>, [meta, blocks, values]: [Table; 3], path: Arc<Path>) -> Self {
        Self { env, meta, blocks, values, path }
    }

    /// Hash of the profile of the results in the store.
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

    /// The parts of the profile of the results in the store; none in a store that was made before stores kept these parts.
    ///
    /// # Errors
    /// [`StateError::Read`].
    pub fn profile_parts(&self) -> Result<Option<Profile>, StateError> {
        let parts = self.meta(state::PROFILE_PARTS_KEY, "reading the parts of the profile")?;
        Ok(parts.as_deref().and_then(Profile::decode))
    }

    /// The name of the network of the blocks in the store, if it is known.
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

    /// The LMDB environment of the reader.
    pub fn environment(&self) -> &Env<WithoutTls> {
        &self.env
    }

    /// The state now. The snapshot stays the same while the supervisor commits more.
    ///
    /// # Errors
    /// [`StateError::Read`], for example if all reader slots are in use ([`state::MAX_READERS`]).
    pub fn snapshot(&self) -> Result<Snapshot, StateError> {
        let txn = self.env.clone().static_read_txn().map_err(|source| StateError::Read {
            path: self.path.to_path_buf(),
            doing: "taking a snapshot",
            source,
        })?;
        Ok(Snapshot { txn, blocks: self.blocks, values: self.values, path: Arc::clone(&self.path) })
    }
}

/// The state at one moment. It borrows nothing and can move between threads, so a wasmtime `Store` can hold it.
pub struct Snapshot {
    txn: RoTxn<'static, WithoutTls>,
    blocks: Table,
    values: Table,
    path: Arc<Path>,
}

impl Snapshot {
    /// Height of the newest committed block; none if no block was committed.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn tip(&self) -> Result<Option<u32>, StateError> {
        let last =
            self.blocks.last(&self.txn).map_err(|source| self.read_error("reading the tip", source))?;
        last.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// Height of the oldest committed block; none if no block was committed.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn first(&self) -> Result<Option<u32>, StateError> {
        let first = self.blocks.first(&self.txn);
        let first = first.map_err(|source| self.read_error("reading the first block", source))?;
        first.map(|(key, _)| state::block_height(key)).transpose().map_err(|source| self.damaged(source))
    }

    /// The record of the block at `height`; none if no such block was committed.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read.
    pub fn block(&self, height: u32) -> Result<Option<BlockRecord>, StateError> {
        let bytes = self.blocks.get(&self.txn, &height.to_be_bytes());
        let bytes = bytes.map_err(|source| self.read_error("reading a block's record", source))?;
        let record = bytes.map(|bytes| BlockRecord::decode(height, bytes)).transpose();
        record.map_err(|source| self.damaged(source))
    }

    /// The newest value of `key` at or below the height `at_most`; none if no block up to that height wrote the key. A block may have
    /// written an empty value.
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

/// Refuses a directory in which LMDB would make a lock file. On a read-only file system LMDB uses no lock file. The supervisor then
/// has to make sure that nobody writes to the store.
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
    // Without TLS a reader slot belongs to the transaction and not to the thread, so a snapshot can move between threads.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(state::MAP_BYTES).max_dbs(state::TABLES);
    // SAFETY: LMDB calls neither flag unsafe. A read-only map cannot damage the store. Reads are scattered, so reading ahead would
    // only evict pages that are needed (lmdb.h, MDB_NORDAHEAD).
    unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the map is sound while only LMDB changes data.mdb. The only writer is the supervisor, which locks the directory
    // against a second one. Both sides use LMDB's locks, and heed refuses to open a directory twice in one process. If somebody
    // truncates the file, reads raise SIGBUS, and this process ends alone.
    unsafe { options.open(dir) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A store of `count` values at height 1, as the supervisor writes it. It is closed again, because a process can open it only
    /// once. The tests of the writer cover two processes with one store.
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

    /// A key such as an indexer makes: a path, a hash, a number with zeros. Every fiftieth is longer than LMDB allows.
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
    fn a_snapshot_can_be_held_by_a_wasmtime_store() {
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
