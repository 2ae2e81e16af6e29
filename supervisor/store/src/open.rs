//! Opening a store for writing. This module checks that the directory is a store or empty, that no other process writes the
//! store, and that the store belongs to the identity that was asked for.

#![allow(
    unsafe_code,
    reason = "heed's open is unsafe because LMDB maps a file into memory; its descriptor is then borrowed by number"
)]

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state;
use cofferdam_worker::memory::address_space::limit;
use cofferdam_worker::state::Table;
use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RwTxn, WithoutTls};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, fallocate, fcntl};

use crate::directory::{self, WriterLock};
use crate::error::StoreError;
use crate::failure::write_error;
use crate::file_names::{self, DATA_FILE, LOCK_FILE};
use crate::identity::{Durability, Identity};
use crate::tree_feature::{self, Tree};

/// An LMDB environment that only this process writes.
pub(crate) struct Opened {
    pub env: Env<WithoutTls>,
    pub meta: Table,
    pub blocks: Table,
    pub values: Table,
    pub undo: Table,
    /// The state tree, in a store that was made with one.
    pub tree: Option<Tree>,
    /// Absolute, so that a worker with another working directory finds the store.
    pub path: PathBuf,
    pub writer_lock: WriterLock,
}

/// Opens the store in `dir`, or creates one there. The store may grow to `map_bytes` bytes.
pub(crate) fn open(
    dir: &Path,
    identity: &Identity,
    durability: Durability,
    map_bytes: usize,
) -> Result<Opened, StoreError> {
    let path = directory::create(dir)?;
    let is_new = check_directory(&path)?;
    let writer_lock = WriterLock::acquire(&path)?;
    allocate_lock_file(&path)?;
    let env = open_env(&path, durability, map_bytes).map_err(|source| open_error(&path, source))?;
    close_on_exec(&path.join(DATA_FILE))
        .map_err(directory::error(&path, "data.mdb cannot be kept from child processes"))?;
    let ([meta, blocks, values, undo], tree) = open_tables(&env, &path, identity)?;
    if durability == Durability::Block {
        directory::sync_names(&path)?;
    }
    if let (Durability::Block, true, Some(parent)) = (durability, is_new, path.parent()) {
        // If somebody else created the directory, its name may not be synced yet.
        directory::sync_names(parent)?;
    }
    Ok(Opened { env, meta, blocks, values, undo, tree, path, writer_lock })
}

/// Refuses a directory that holds something else, before anything is written into it. Returns whether there is no store yet.
fn check_directory(path: &Path) -> Result<bool, StoreError> {
    let names = directory::list(path)?;
    if names.iter().any(|name| name == DATA_FILE) {
        return Ok(false);
    }
    match names.iter().find(|name| !file_names::is_ignored(name)) {
        None => Ok(true),
        Some(name) => Err(not_a_store(path, format!("it contains {} but no {DATA_FILE}", name.display()))),
    }
}

/// Makes the file system allocate the space of lock.mdb. LMDB maps that file and writes into the map, and on a full disk a write
/// into a hole of the file ends the process (SIGBUS).
fn allocate_lock_file(path: &Path) -> Result<(), StoreError> {
    // LMDB needs 64 bytes per reader, and two pages are enough for the rest (mdb.c, MDB_reader and MDB_txninfo).
    const BYTES: i64 = 64 * state::MAX_READERS as i64 + 8192;
    let name = path.join(LOCK_FILE);
    // The same mode that heed gives to the file.
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(name);
    let file = file.map_err(directory::error(path, "lock.mdb cannot be created, or opened for writing"))?;
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, BYTES) {
        // Some file systems cannot allocate ahead; LMDB then grows the file as it always does.
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(directory::error(path, "there is no space for lock.mdb")(errno.into())),
    }
}

fn open_env(path: &Path, durability: Durability, map_bytes: usize) -> heed::Result<Env<WithoutTls>> {
    // Without thread-local storage one thread may have several read transactions, and each frees its slot when it ends.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_dbs(state::TABLES).max_readers(state::MAX_READERS);
    let sync = match durability {
        Durability::Block => EnvFlags::empty(),
        Durability::None => EnvFlags::NO_SYNC,
    };
    // SAFETY: NO_READ_AHEAD is only a hint, given because reads are scattered. With NO_SYNC, a failure of the machine can lose or
    // corrupt the store, but the end of a process cannot (lmdb.h, MDB_NOSYNC). A caller that asks for `Durability::None` does not
    // use the store after a failure of the machine.
    unsafe { options.flags(sync | EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the map is sound while only LMDB changes data.mdb. `writer.lock` keeps a second writer out, readers open the
    // file read-only, LMDB's own locks are on, and heed refuses to open a directory twice in one process.
    unsafe { options.open(path) }
}

/// Closes data.mdb in every program that this process starts. LMDB marks its other descriptors close-on-exec, but not this
/// one, which can write (mdb.c, mdb_fopen). heed does not expose the descriptor, so it is looked up in /proc.
fn close_on_exec(file: &Path) -> io::Result<()> {
    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let wanted = inode(file)?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A descriptor that was closed meanwhile is skipped: LMDB keeps its own descriptor open.
        if inode(&entry.path()).is_ok_and(|found| found == wanted) {
            // SAFETY: this is a descriptor of data.mdb, and the environment keeps it open beyond this call.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
    }
    Ok(())
}

/// Opens the tables, or creates them in a new store, and checks or records the identity. All of this is one transaction, so a
/// store that has an identity has all tables.
fn open_tables(
    env: &Env<WithoutTls>,
    path: &Path,
    identity: &Identity,
) -> Result<([Table; 4], Option<Tree>), StoreError> {
    let fail = |source| open_error(path, source);
    let mut txn = env.write_txn().map_err(fail)?;
    let is_new = env.open_database::<Bytes, Bytes>(&txn, Some(state::META)).map_err(fail)?.is_none();
    if is_new {
        check_empty(env, &txn, path)?;
    }
    let mut table = |name| env.create_database::<Bytes, Bytes>(&mut txn, Some(name)).map_err(fail);
    // A store that an older build made without the undo table gets that table here.
    let tables = [table(state::META)?, table(state::BLOCKS)?, table(state::VALUES)?, table(state::UNDO)?];
    let meta = tables[0];
    if is_new {
        meta.put(&mut txn, state::FORMAT_KEY, &state::FORMAT.to_le_bytes()).map_err(fail)?;
        meta.put(&mut txn, state::PROFILE_KEY, &identity.profile.0).map_err(fail)?;
    }
    check_format(meta.get(&txn, state::FORMAT_KEY).map_err(fail)?, path)?;
    check_profile(meta.get(&txn, state::PROFILE_KEY).map_err(fail)?, identity.profile, path)?;
    if let Some(network) = &identity.network {
        record_network(meta, &mut txn, network, path)?;
    }
    let tree = tree_feature::open(env, &mut txn, meta, fail, path)?;
    txn.commit().map_err(fail)?;
    Ok((tables, tree))
}

/// Refuses an environment that has entries but none of our tables.
fn check_empty(env: &Env<WithoutTls>, txn: &RwTxn<'_>, path: &Path) -> Result<(), StoreError> {
    let fail = |source| open_error(path, source);
    let entries = match env.open_database::<Bytes, Bytes>(txn, None).map_err(fail)? {
        Some(unnamed) => unnamed.len(txn).map_err(fail)?,
        None => 0,
    };
    if entries == 0 {
        return Ok(());
    }
    Err(not_a_store(path, format!("{DATA_FILE} is the LMDB database of another program")))
}

fn check_format(stored: Option<&[u8]>, path: &Path) -> Result<(), StoreError> {
    let found = stored.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    match found {
        Some(state::FORMAT) => Ok(()),
        Some(found) => Err(StoreError::Format { path: path.to_owned(), found }),
        None => Err(not_a_store(path, format!("{DATA_FILE} does not record its format"))),
    }
}

fn check_profile(stored: Option<&[u8]>, wanted: Hash, path: &Path) -> Result<(), StoreError> {
    let stored = stored.and_then(|bytes| bytes.try_into().ok()).map(Hash);
    let stored =
        stored.ok_or_else(|| not_a_store(path, format!("{DATA_FILE} does not record its profile")))?;
    if stored == wanted {
        return Ok(());
    }
    Err(StoreError::Profile { path: path.to_owned(), stored, wanted, parts: None })
}

/// Records the network's name in a store that has none yet. Refuses a name that differs from the recorded one.
pub(crate) fn record_network(
    meta: Table,
    txn: &mut RwTxn<'_>,
    wanted: &str,
    path: &Path,
) -> Result<(), StoreError> {
    let fail = |operation| move |source| StoreError::Lmdb { path: path.to_owned(), operation, source };
    let stored = meta.get(txn, state::NETWORK_KEY).map_err(fail("reading the network"))?;
    let stored = stored.map(|name| String::from_utf8_lossy(name).into_owned());
    match stored {
        Some(stored) if stored == wanted => Ok(()),
        Some(stored) => Err(StoreError::Network { path: path.to_owned(), stored, wanted: wanted.to_owned() }),
        None => meta.put(txn, state::NETWORK_KEY, wanted.as_bytes()).map_err(fail("recording the network")),
    }
}

fn open_error(path: &Path, source: heed::Error) -> StoreError {
    match source {
        // Not LMDB data, data of another version of LMDB, or a plain entry with the name of one of our tables.
        heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch | MdbError::Incompatible) => {
            not_a_store(path, format!("{DATA_FILE} was not written by Cofferdam ({source})"))
        }
        heed::Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory && limit().is_some() => {
            StoreError::Addresses { path: path.to_owned(), limit: limit().unwrap_or(u64::MAX) }
        }
        heed::Error::EnvAlreadyOpened => StoreError::InUse { path: path.to_owned() },
        // The file is data.mdb, because lock.mdb was opened before.
        heed::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            directory::error(path, "data.mdb cannot be opened for writing")(source)
        }
        source => StoreError::Lmdb {
            path: path.to_owned(),
            operation: "opening it",
            source: write_error(path, source),
        },
    }
}

fn not_a_store(path: &Path, reason: String) -> StoreError {
    StoreError::NotAStore { path: path.to_owned(), reason }
}
