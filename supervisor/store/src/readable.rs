//! A store that somebody else made or writes, before it is read: whether its files are there and can be opened, and that
//! nobody writes it where readers cannot take part in its locks.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::{StoreError, open};

/// A store that can be opened for reading (`cofferdam_worker::state`), by this process and by its workers, for as long as this
/// exists.
#[derive(Debug)]
pub struct Readable {
    path: PathBuf,
    /// Keeps writers out of a store whose readers they would not see.
    _no_writer: Option<File>,
}

impl Readable {
    /// Looks at the store in `dir`. A store that was moved without its `lock.mdb` gets one. To be called before this process
    /// opens the store.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] if there is none; [`StoreError::Directory`] if a file cannot be opened;
    /// [`StoreError::WrittenElsewhere`] if it lies on a read-only file system, and somebody writes it.
    pub fn check(dir: &Path) -> Result<Self, StoreError> {
        let refused = |doing| move |source| StoreError::Directory { path: dir.to_owned(), doing, source };
        let data = dir.join(open::DATA_FILE);
        let opened = File::open(&data).and_then(|file| file.metadata());
        let data = match opened {
            Ok(data) if data.is_file() => data,
            Ok(_) => return Err(StoreError::NoStore { path: dir.to_owned() }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::NoStore { path: dir.to_owned() });
            }
            Err(error) => return Err(refused("data.mdb cannot be opened for reading")(error)),
        };
        let path = dir.canonicalize().map_err(refused("it cannot be found"))?;
        match open_lock_file(&path, &data) {
            Ok(()) => Ok(Self { path, _no_writer: None }),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                let no_writer = keep_writers_out(&path)?;
                Ok(Self { path, _no_writer: no_writer })
            }
            Err(error) => Err(refused("lock.mdb cannot be opened for writing, which readers must")(error)),
        }
    }

    /// The store's directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens lock.mdb as every reader does, and makes it if there is none.
fn open_lock_file(path: &Path, data: &fs::Metadata) -> io::Result<()> {
    let name = path.join(open::LOCK_FILE);
    match File::options().read(true).write(true).open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    let made = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name)?;
    if made.metadata()?.uid() != data.uid() {
        // It must not keep the store's owner out. If it cannot be given away, the owner hears of that.
        let _not_ours = fchown(&made, Some(data.uid()), Some(data.gid()));
    }
    Ok(())
}

/// Keeps writers out, where no reader can be seen by them: on a read-only file system LMDB reads without lock.mdb, and a writer
/// who has the same files mounted for writing would use pages again that are being read.
fn keep_writers_out(path: &Path) -> Result<Option<File>, StoreError> {
    let file = match File::open(path.join(open::WRITER_LOCK)) {
        Ok(file) => file,
        // Nobody has ever written it here: it was copied without.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::Directory {
                path: path.to_owned(),
                doing: "writer.lock cannot be opened",
                source,
            });
        }
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::WrittenElsewhere { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StoreError::Directory {
            path: path.to_owned(),
            doing: "writer.lock cannot be locked",
            source,
        }),
    }
}
