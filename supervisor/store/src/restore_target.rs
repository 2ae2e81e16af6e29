//! The directory that a restored store is written into.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::{self, WriterLock};
use crate::error::StoreError;
use crate::file_names::{self, DATA_FILE, RESTORING_FILE};

/// An empty directory that is reserved for a restored store. While this exists, no other process opens or creates a store
/// there. Dropping it removes incomplete data.
#[derive(Debug)]
pub struct RestoreTarget {
    path: PathBuf,
    _writer_lock: WriterLock,
}

impl RestoreTarget {
    /// Reserves the directory, creates it if it does not exist, and removes what an interrupted restore left in it.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] if the directory contains anything else, [`StoreError::InUse`] if another process has
    /// reserved it or writes a store there, [`StoreError::Directory`] if it cannot be created, locked or listed.
    pub fn reserve(dir: &Path) -> Result<Self, StoreError> {
        let path = directory::create(dir)?;
        check_empty(&path)?;
        let writer_lock = WriterLock::acquire(&path)?;
        // Checked again: another process may have created and closed a store before the lock was acquired.
        check_empty(&path)?;
        let target = Self { path, _writer_lock: writer_lock };
        let failed = directory::error(&target.path, "the data of an interrupted restore cannot be removed");
        target.remove_incomplete().map_err(failed)?;
        Ok(target)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path for the data while the data is incomplete.
    pub fn incomplete(&self) -> PathBuf {
        self.path.join(RESTORING_FILE)
    }

    /// Turns the file at [`RestoreTarget::incomplete`] into the store's data, and returns the store's directory. The caller
    /// must have synced the file to disk.
    ///
    /// # Errors
    /// [`StoreError::Directory`] if the file cannot be renamed, or the directory cannot be synced.
    pub fn complete(self) -> Result<PathBuf, StoreError> {
        fs::rename(self.incomplete(), self.path.join(DATA_FILE))
            .map_err(directory::error(&self.path, "the restored data cannot be renamed to data.mdb"))?;
        directory::sync_names(&self.path)?;
        Ok(self.path.clone())
    }

    fn remove_incomplete(&self) -> io::Result<()> {
        match fs::remove_file(self.incomplete()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for RestoreTarget {
    fn drop(&mut self) {
        // After `complete` there is no such file. If the removal fails, the next `reserve` removes the file.
        let _next_time = self.remove_incomplete();
    }
}

fn check_empty(path: &Path) -> Result<(), StoreError> {
    let names = directory::list(path)?;
    match names.into_iter().find(|name| name != RESTORING_FILE && !file_names::is_ignored(name)) {
        None => Ok(()),
        Some(name) => Err(StoreError::NotEmpty { path: path.to_owned(), found: name.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_reserved() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/by/reserve");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("restoring.mdb"), "left by a restore that was killed").unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        let target = RestoreTarget::reserve(&dir).unwrap();
        assert!(!target.incomplete().exists());
        assert!(matches!(RestoreTarget::reserve(&dir), Err(StoreError::InUse { .. })));
        drop(target);
        for name in ["data.mdb", "anything"] {
            fs::write(dir.join(name), "").unwrap();
            let error = RestoreTarget::reserve(&dir).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("empty"), "{error}");
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}
