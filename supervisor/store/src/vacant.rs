//! A place for a store that comes from elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{StoreError, open};

/// A directory that has no store yet, kept for one: nobody else opens or makes a store there while this exists. What is
/// unfinished when it is dropped is removed.
#[derive(Debug)]
pub struct Vacant {
    path: PathBuf,
    _writer_lock: open::WriterLock,
}

impl Vacant {
    /// What the data is to be called until it is whole. A store is not opened beside it.
    const UNFINISHED: &str = "restoring.mdb";

    /// Claims the directory, which is made if there is none, and removes what an earlier claim left unfinished.
    ///
    /// # Errors
    /// [`StoreError::NotVacant`] if there is anything else in it, [`StoreError::InUse`] if somebody else has it,
    /// [`StoreError::Directory`] if it cannot be made, locked or listed.
    pub fn claim(dir: &Path) -> Result<Self, StoreError> {
        let path = open::make_directory(dir)?;
        check_vacant(&path)?;
        let writer_lock = open::lock(&path)?;
        // Again, for somebody may have made a store and closed it meanwhile.
        check_vacant(&path)?;
        let vacant = Self { path, _writer_lock: writer_lock };
        vacant.clear().map_err(|source| StoreError::Directory {
            path: vacant.path.clone(),
            doing: "what an earlier restore left there cannot be removed",
            source,
        })?;
        Ok(vacant)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where to put the data.
    pub fn unfinished(&self) -> PathBuf {
        self.path.join(Self::UNFINISHED)
    }

    /// Makes what is at [`Vacant::unfinished`], which was synced to disk, the store's data.
    ///
    /// # Errors
    /// [`StoreError::Directory`].
    pub fn fill(self) -> Result<PathBuf, StoreError> {
        let named = fs::rename(self.unfinished(), self.path.join(open::DATA_FILE));
        named.map_err(|source| StoreError::Directory {
            path: self.path.clone(),
            doing: "the restored data cannot be given its name",
            source,
        })?;
        open::sync_names(&self.path)?;
        Ok(self.path.clone())
    }

    fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.unfinished()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Vacant {
    fn drop(&mut self) {
        // If it was filled there is nothing of that name, and if this fails the next claim removes it.
        let _next_time = self.clear();
    }
}

fn check_vacant(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = entries.map_err(|source| StoreError::Directory {
        path: path.to_owned(),
        doing: "it cannot be listed",
        source,
    })?;
    let known =
        |name: &OsStr| name == Vacant::UNFINISHED || open::NOT_FOREIGN.iter().any(|known| name == *known);
    match entries.into_iter().map(|entry| entry.file_name()).find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(StoreError::NotVacant { path: path.to_owned(), found: name.display().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_claimed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("made/by/claim");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("restoring.mdb"), "left by a restore that was killed").unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        let vacant = Vacant::claim(&dir).unwrap();
        assert!(!vacant.unfinished().exists());
        assert!(matches!(Vacant::claim(&dir), Err(StoreError::InUse { .. })));
        drop(vacant);
        for name in ["data.mdb", "anything"] {
            fs::write(dir.join(name), "").unwrap();
            let error = Vacant::claim(&dir).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("empty"), "{error}");
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}
