//! The directory of a store: creating it, listing it, locking it for one writer, and syncing the names in it.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::file_names::WRITER_LOCK;

/// The lock that makes its holder the only writer of a store. LMDB's own lock would only make two writers write in turn. Each
/// writer would then go on from a tip that the other writer has changed. The kernel releases the lock when the process ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct WriterLock(File);

impl WriterLock {
    /// Locks the store in `path`.
    pub(crate) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let failed = error(path, "writer.lock cannot be created and locked");
        let file = File::options().create(true).truncate(false).write(true).open(path.join(WRITER_LOCK));
        let file = file.map_err(&failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing the file is not enough if another thread has just forked a child that has not called exec yet: the child still
        // holds the open file, and with it the lock (flock(2)). If unlocking fails, the file is only closed.
        let _closing_remains = self.0.unlock();
    }
}

/// Makes a function for `map_err`. The function makes the error that `problem` is wrong with the directory `path`.
pub(crate) fn error(path: &Path, problem: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Directory { path: path.to_owned(), problem, source }
}

/// Creates the store's directory `dir` like [`create_durable`], and returns its absolute path.
pub(crate) fn create(dir: &Path) -> Result<PathBuf, StoreError> {
    create_durable(dir).map_err(error(dir, "the directory cannot be created"))
}

/// Creates the directory `dir` and its parents where they do not exist, and syncs their names, so that they survive a loss of
/// power. Returns the absolute path.
pub(crate) fn create_durable(dir: &Path) -> io::Result<PathBuf> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).count();
    fs::create_dir_all(dir)?;
    let path = dir.canonicalize()?;
    path.ancestors().skip(1).take(missing).try_for_each(sync_directory)?;
    Ok(path)
}

/// The names of the entries in the directory `path`.
pub(crate) fn list(path: &Path) -> Result<Vec<OsString>, StoreError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(error(path, "the directory cannot be listed"))?;
    Ok(entries.into_iter().map(|entry| entry.file_name()).collect())
}

/// Syncs the names in the directory `path`. LMDB syncs its data, but not the directory entry that leads to the data.
pub(crate) fn sync_names(path: &Path) -> Result<(), StoreError> {
    sync_directory(path).map_err(error(path, "the directory cannot be synced to disk"))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path) {
        // This user may enter the directory, but not list it. So this process cannot sync the directory alone, and syncs all file
        // systems.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            nix::unistd::sync();
            Ok(())
        }
        opened => opened?.sync_all(),
    }
}
