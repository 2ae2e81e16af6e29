//! Opening a store: whose directory it is, that nobody else writes it, and that it holds what is asked for.

#![allow(
    unsafe_code,
    reason = "heed's open is unsafe: LMDB maps a file into memory; its descriptor is then looked up"
)]

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state;
use cofferdam_worker::memory::addresses::limit;
use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, MdbError, RwTxn, WithoutTls};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, fallocate, fcntl};

use super::proofs::{self, Tree};
use super::trouble::of_write;
use super::{Durability, Identity, StoreError, Table};

pub(super) const DATA_FILE: &str = "data.mdb";
pub(super) const LOCK_FILE: &str = "lock.mdb";
pub(super) const WRITER_LOCK: &str = "writer.lock";
/// Made and removed at once, to find out whether there is room; see [`super::trouble`].
pub(super) const PROBE_FILE: &str = "room.probe";
/// What may be in a directory without data: our own files, left by a start that was cut short, and what mke2fs(8) puts
/// into the root of a new file system.
pub(super) const NOT_FOREIGN: [&str; 4] = [LOCK_FILE, WRITER_LOCK, PROBE_FILE, "lost+found"];

/// An environment that this process alone writes.
pub(super) struct Opened {
    pub env: Env<WithoutTls>,
    pub meta: Table,
    pub blocks: Table,
    pub values: Table,
    pub undo: Table,
    /// In a store that was made with one.
    pub tree: Option<Tree>,
    /// Absolute, so that a worker with another working directory finds it too.
    pub path: PathBuf,
    pub writer_lock: WriterLock,
}

/// Makes its holder the store's one writer. LMDB would only make two writers take turns, each of them believing that
/// the tip is its own. The kernel releases the lock of a process that ends, however it ends.
#[derive(Debug)]
pub(super) struct WriterLock(File);

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing would do, were it not for a child that another thread has forked and that has not called exec yet: it
        // still holds the open file, and with it the lock (flock(2)). If this fails, closing is what remains.
        let _closing_remains = self.0.unlock();
    }
}

/// Opens or makes the store in `dir`, which may grow to `map_bytes`.
pub(super) fn open(
    dir: &Path,
    identity: &Identity,
    durability: Durability,
    map_bytes: usize,
) -> Result<Opened, StoreError> {
    let path = make_directory(dir)?;
    let is_new = check_directory(&path)?;
    let writer_lock = lock(&path)?;
    allocate_lock_file(&path)?;
    let env = open_env(&path, durability, map_bytes).map_err(|source| open_error(&path, source))?;
    close_on_exec(&path.join(DATA_FILE)).map_err(|source| StoreError::Directory {
        path: path.clone(),
        doing: "data.mdb cannot be kept from child processes",
        source,
    })?;
    let ([meta, blocks, values, undo], tree) = open_tables(&env, &path, identity)?;
    if durability == Durability::Block {
        sync_names(&path)?;
    }
    if let (Durability::Block, true, Some(parent)) = (durability, is_new, path.parent()) {
        // Whoever made the directory need not have done it.
        sync_names(parent)?;
    }
    Ok(Opened { env, meta, blocks, values, undo, tree, path, writer_lock })
}

pub(super) fn make_directory(dir: &Path) -> Result<PathBuf, StoreError> {
    make_lasting(dir).map_err(|source| StoreError::Directory {
        path: dir.to_owned(),
        doing: "it cannot be made",
        source,
    })
}

/// Makes a directory, and those above it, if there is none; their names withstand a loss of power then. Its absolute path.
pub(crate) fn make_lasting(dir: &Path) -> io::Result<PathBuf> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    fs::create_dir_all(dir)?;
    let path = dir.canonicalize()?;
    path.ancestors().skip(1).take(missing).try_for_each(sync_directory)?;
    Ok(path)
}

/// Refuses a directory of somebody else's before anything is put into it. Whether there is no store yet.
fn check_directory(path: &Path) -> Result<bool, StoreError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(|source| StoreError::Directory {
        path: path.to_owned(),
        doing: "it cannot be listed",
        source,
    })?;
    let names: Vec<OsString> = entries.into_iter().map(|entry| entry.file_name()).collect();
    if names.iter().any(|name| name == DATA_FILE) {
        return Ok(false);
    }
    match names.iter().find(|name| !NOT_FOREIGN.iter().any(|known| name == known)) {
        None => Ok(true),
        Some(name) => Err(not_a_store(path, format!("it has {} and no {DATA_FILE}", name.display()))),
    }
}

pub(super) fn lock(path: &Path) -> Result<WriterLock, StoreError> {
    let name = path.join(WRITER_LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let refused = |source| StoreError::Directory {
        path: path.to_owned(),
        doing: "writer.lock cannot be made and locked",
        source,
    };
    let file = file.map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(WriterLock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

/// Has the file system set aside what lock.mdb takes: LMDB maps that file and writes into the map, and where the disk is full a
/// write into a hole of the file ends the process (SIGBUS).
pub(super) fn allocate_lock_file(path: &Path) -> Result<(), StoreError> {
    // Of readers LMDB keeps 64 bytes each, and two pages are enough for the rest (mdb.c, MDB_reader and MDB_txninfo).
    const BYTES: i64 = 64 * state::MAX_READERS as i64 + 8192;
    let name = path.join(LOCK_FILE);
    // The mode that heed gives to it.
    let file = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(name);
    let refused = |doing| move |source| StoreError::Directory { path: path.to_owned(), doing, source };
    let file = file.map_err(refused("lock.mdb cannot be made, or opened for writing"))?;
    match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, BYTES) {
        // Where a file system knows no such thing, LMDB's way is what remains.
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(refused("there is no room for lock.mdb")(errno.into())),
    }
}

fn open_env(path: &Path, durability: Durability, map_bytes: usize) -> heed::Result<Env<WithoutTls>> {
    // Without TLS one thread may have several read transactions, and its slot is free again when each ends.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_dbs(state::TABLES).max_readers(state::MAX_READERS);
    let sync = match durability {
        Durability::Block => EnvFlags::empty(),
        Durability::None => EnvFlags::NO_SYNC,
    };
    // SAFETY: reads are scattered, so NO_READ_AHEAD is a hint only. NO_SYNC can lose and tear the store when the machine
    // fails, though not when a process does (lmdb.h, MDB_NOSYNC): who asks for `Durability::None` throws it away then.
    unsafe { options.flags(sync | EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the map is sound while nothing changes data.mdb but LMDB. `writer.lock` keeps a second writer out, readers
    // open it read-only, LMDB's own locks are on, and heed refuses to open a directory twice in one process.
    unsafe { options.open(path) }
}

/// Keeps data.mdb from every program that this process starts. LMDB marks its other descriptors close-on-exec and leaves
/// this one, which can write, to the program (mdb.c, mdb_fopen); heed does not hand it out, so it is looked up.
fn close_on_exec(file: &Path) -> io::Result<()> {
    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let wanted = inode(file)?;
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A descriptor that is gone by now was not LMDB's.
        if inode(&entry.path()).is_ok_and(|found| found == wanted) {
            // SAFETY: a descriptor of data.mdb, which the environment keeps open beyond this call.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
    }
    Ok(())
}

/// Opens the tables, makes them in a new store, and checks or notes whose it is, all in one transaction: a store
/// that says of itself what it is has all tables.
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
    // A store that was made without the last one gets it.
    let tables = [table(state::META)?, table(state::BLOCKS)?, table(state::VALUES)?, table(state::UNDO)?];
    let meta = tables[0];
    if is_new {
        meta.put(&mut txn, state::FORMAT_KEY, &state::FORMAT.to_le_bytes()).map_err(fail)?;
        meta.put(&mut txn, state::PROFILE_KEY, &identity.profile.0).map_err(fail)?;
    }
    check_format(meta.get(&txn, state::FORMAT_KEY).map_err(fail)?, path)?;
    check_profile(meta.get(&txn, state::PROFILE_KEY).map_err(fail)?, identity.profile, path)?;
    if let Some(network) = &identity.network {
        note_network(meta, &mut txn, network, path)?;
    }
    let tree = proofs::open(env, &mut txn, meta, fail, path)?;
    txn.commit().map_err(fail)?;
    Ok((tables, tree))
}

/// An environment without our tables must have no others.
fn check_empty(env: &Env<WithoutTls>, txn: &RwTxn<'_>, path: &Path) -> Result<(), StoreError> {
    let fail = |source| open_error(path, source);
    let entries = match env.open_database::<Bytes, Bytes>(txn, None).map_err(fail)? {
        Some(unnamed) => unnamed.len(txn).map_err(fail)?,
        None => 0,
    };
    if entries == 0 {
        return Ok(());
    }
    Err(not_a_store(path, format!("{DATA_FILE} is another program's LMDB database")))
}

fn check_format(stored: Option<&[u8]>, path: &Path) -> Result<(), StoreError> {
    let found = stored.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    match found {
        Some(state::FORMAT) => Ok(()),
        Some(found) => Err(StoreError::Format { path: path.to_owned(), found }),
        None => Err(not_a_store(path, format!("{DATA_FILE} does not say which format it has"))),
    }
}

fn check_profile(stored: Option<&[u8]>, wanted: Hash, path: &Path) -> Result<(), StoreError> {
    let stored = stored.and_then(|bytes| bytes.try_into().ok()).map(Hash);
    let stored =
        stored.ok_or_else(|| not_a_store(path, format!("{DATA_FILE} does not say which profile it has")))?;
    if stored == wanted {
        return Ok(());
    }
    Err(StoreError::Profile { path: path.to_owned(), stored, wanted, parts: None })
}

/// Notes the network's name in a store that has none yet; refuses another than it has.
pub(super) fn note_network(
    meta: Table,
    txn: &mut RwTxn<'_>,
    wanted: &str,
    path: &Path,
) -> Result<(), StoreError> {
    let fail = |doing| move |source| StoreError::Lmdb { path: path.to_owned(), doing, source };
    let stored = meta.get(txn, state::NETWORK_KEY).map_err(fail("reading the network"))?;
    let stored = stored.map(|name| String::from_utf8_lossy(name).into_owned());
    match stored {
        Some(stored) if stored == wanted => Ok(()),
        Some(stored) => Err(StoreError::Network { path: path.to_owned(), stored, wanted: wanted.to_owned() }),
        None => meta.put(txn, state::NETWORK_KEY, wanted.as_bytes()).map_err(fail("noting the network")),
    }
}

/// Makes the files' names last: LMDB syncs its data, and not the directory that leads to it.
pub(super) fn sync_names(path: &Path) -> Result<(), StoreError> {
    sync_directory(path).map_err(|source| StoreError::Directory {
        path: path.to_owned(),
        doing: "it cannot be synced to disk",
        source,
    })
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path) {
        // A directory that this user may pass and not list cannot be synced by itself.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            nix::unistd::sync();
            Ok(())
        }
        opened => opened?.sync_all(),
    }
}

fn open_error(path: &Path, source: heed::Error) -> StoreError {
    match source {
        // Not LMDB at all, of another version of it, or a plain entry where a table of ours is looked for.
        heed::Error::Mdb(MdbError::Invalid | MdbError::VersionMismatch | MdbError::Incompatible) => {
            not_a_store(path, format!("{DATA_FILE} is not what Cofferdam writes ({source})"))
        }
        heed::Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory && limit().is_some() => {
            StoreError::Addresses { path: path.to_owned(), limit: limit().unwrap_or(u64::MAX) }
        }
        heed::Error::EnvAlreadyOpened => StoreError::InUse { path: path.to_owned() },
        // It is the one that LMDB opens, for lock.mdb was opened before.
        heed::Error::Io(source)
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            StoreError::Directory {
                path: path.to_owned(),
                doing: "data.mdb cannot be opened for writing",
                source,
            }
        }
        source => StoreError::Lmdb {
            path: path.to_owned(),
            doing: "it cannot be opened",
            source: of_write(path, source),
        },
    }
}

pub(super) fn not_a_store(path: &Path, reason: String) -> StoreError {
    StoreError::NotAStore { path: path.to_owned(), reason }
}
