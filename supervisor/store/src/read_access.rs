//! The checks that a process makes before it reads a store that another process made or is writing. The files of the store must
//! exist, and this process must be able to open them. If readers cannot register in LMDB's lock file, no process may be writing
//! the store.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::directory;
use crate::error::StoreError;
use crate::file_names::{DATA_FILE, LOCK_FILE, WRITER_LOCK};

/// While a value of this type exists, this process and its workers can open the store for reading (`cofferdam_worker::state`).
#[derive(Debug)]
pub struct ReadAccess {
    path: PathBuf,
    /// The shared lock on `writer.lock`, which keeps writers out. It is held if readers cannot register in the store's lock file.
    _no_writer: Option<File>,
}

impl ReadAccess {
    /// Checks the store in `dir`. A store that was moved without its `lock.mdb` gets a new one. Must be called before this
    /// process opens the store.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] if there is no store; [`StoreError::Directory`] if a file cannot be opened;
    /// [`StoreError::WrittenElsewhere`] if the store is on a read-only file system and another process writes it.
    pub fn check(dir: &Path) -> Result<Self, StoreError> {
        let failed = |problem| directory::error(dir, problem);
        let opened = File::open(dir.join(DATA_FILE)).and_then(|file| file.metadata());
        let data = match opened {
            Ok(data) if data.is_file() => data,
            Ok(_) => return Err(StoreError::NoStore { path: dir.to_owned() }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::NoStore { path: dir.to_owned() });
            }
            Err(error) => return Err(failed("data.mdb cannot be opened for reading")(error)),
        };
        let path = dir.canonicalize().map_err(failed("its absolute path cannot be found"))?;
        match open_lock_file(&path, &data) {
            Ok(()) => Ok(Self { path, _no_writer: None }),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let no_writer = keep_writers_out(&path)?;
                Ok(Self { path, _no_writer: no_writer })
            }
            Err(error) => Err(failed("lock.mdb cannot be opened for writing, which readers need too")(error)),
        }
    }

    /// The store's directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens lock.mdb as every reader does, and creates the file if it does not exist.
fn open_lock_file(path: &Path, data: &fs::Metadata) -> io::Result<()> {
    let name = path.join(LOCK_FILE);
    match File::options().read(true).write(true).open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    let made = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name)?;
    if made.metadata()?.uid() != data.uid() {
        // The file must not keep the store's owner out. If this process may not change the owner of the file, the store's owner
        // later gets an error about the file.
        let _not_ours = fchown(&made, Some(data.uid()), Some(data.gid()));
    }
    Ok(())
}

/// Keeps writers out of a store on a read-only file system. There LMDB reads without lock.mdb, so writers do not see the
/// readers. A writer that has the same files mounted for writing would reuse pages that are being read.
fn keep_writers_out(path: &Path) -> Result<Option<File>, StoreError> {
    let failed = |problem| directory::error(path, problem);
    let file = match File::open(path.join(WRITER_LOCK)) {
        Ok(file) => file,
        // The store was copied here without the file, so no process has ever written this copy.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("writer.lock cannot be opened")(source)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::WrittenElsewhere { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed("writer.lock cannot be locked")(source)),
    }
}
