//! A directory of snapshots: one writer at a time, what a killed one left behind, and which are kept.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::SnapshotError;
use super::manifest::Manifest;
use super::transfer::sync_directory;
use crate::make_lasting;

const LOCK: &str = ".lock";
/// The snapshot that is being written, and the one that is being removed. They are never looked into.
const TAKING: &str = ".taking";
const REMOVING: &str = ".removing";

/// A directory of snapshots that this process alone writes to.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing alone would leave it locked while a child that was forked just now has not called exec. If it fails,
        // closing is what remains.
        let _closing_remains = self.lock.unlock();
    }
}

impl Directory {
    /// Makes the directory if there is none, locks it, and removes what a killed writer left there.
    pub(super) fn lock(path: &Path) -> Result<Self, SnapshotError> {
        let path = make_lasting(path).map_err(SnapshotError::file(path, "it cannot be made"))?;
        let name = path.join(LOCK);
        let refused = SnapshotError::file(&name, "it cannot be made and locked");
        let lock = File::options().create(true).truncate(false).write(true).open(&name).map_err(&refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SnapshotError::Busy { path }),
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        let this = Self { path, lock };
        for name in [TAKING, REMOVING] {
            if this.clear(name)? {
                tracing::info!("{}: removed what an earlier snapshot left unfinished", this.path.display());
            }
        }
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A place for a snapshot that is being written.
    pub(super) fn begin(&self) -> Result<Unfinished<'_>, SnapshotError> {
        let path = self.path.join(TAKING);
        DirBuilder::new().create(&path).map_err(SnapshotError::file(&path, "it cannot be made"))?;
        Ok(Unfinished { directory: self, path })
    }

    /// Removes all but the newest `keep` of the snapshots that are of the same profile as `newest`, which stays. Those of
    /// others, and what is none, are left alone.
    pub(super) fn prune(&self, newest: &Path, keep: NonZeroUsize) -> Result<Vec<PathBuf>, SnapshotError> {
        let profile = Manifest::read(newest)?.profile;
        let mut others = self.list()?;
        others.retain(|(path, manifest)| manifest.profile == profile && path != newest);
        // By when they were made and not by height: after a reorganisation the lower one is the one to keep.
        others.sort_by(|(_, a), (_, b)| (&b.made, b.height).cmp(&(&a.made, a.height)));
        let mut removed = Vec::new();
        for (path, _) in others.into_iter().skip(keep.get() - 1) {
            self.remove(&path)?;
            removed.push(path);
        }
        Ok(removed)
    }

    fn list(&self) -> Result<Vec<(PathBuf, Manifest)>, SnapshotError> {
        let list = || fs::read_dir(&self.path)?.collect::<io::Result<Vec<_>>>();
        let entries = list().map_err(SnapshotError::file(&self.path, "it cannot be listed"))?;
        let snapshot = |entry: fs::DirEntry| {
            // A link to a snapshot elsewhere is somebody's own.
            let is_ours = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let manifest = is_ours.then(|| Manifest::read(&entry.path()).ok()).flatten()?;
            (entry.file_name().to_str() == Some(&name_of(&manifest))).then(|| (entry.path(), manifest))
        };
        Ok(entries.into_iter().filter_map(snapshot).collect())
    }

    /// Removes a snapshot so that at no moment a part of it bears its name.
    fn remove(&self, path: &Path) -> Result<(), SnapshotError> {
        let doomed = self.path.join(REMOVING);
        fs::rename(path, &doomed).map_err(SnapshotError::file(path, "it cannot be removed"))?;
        self.clear(REMOVING).map(drop)
    }

    /// Removes what is of that name; whether there was anything.
    fn clear(&self, name: &str) -> Result<bool, SnapshotError> {
        let path = self.path.join(name);
        match fs::remove_dir_all(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => {
                Err(SnapshotError::File { path, doing: "what is left of it cannot be removed", source })
            }
        }
    }
}

/// A snapshot that is being written; removed if it does not get its name.
#[derive(Debug)]
pub(super) struct Unfinished<'d> {
    directory: &'d Directory,
    path: PathBuf,
}

impl Unfinished<'_> {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, now that all of it is on the disk.
    pub(super) fn finish(self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let path = self.directory.path.join(name_of(manifest));
        sync_directory(&self.path)?;
        fs::rename(&self.path, &path).map_err(SnapshotError::file(&path, "it cannot be given this name"))?;
        sync_directory(&self.directory.path)?;
        Ok(path)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // If this fails the next one removes it, or says why it cannot. After `finish` there is nothing of the name.
        let _next_time = self.directory.clear(TAKING);
    }
}

/// The name of a snapshot. Heights have as many digits as the highest one, so that names sort by them.
pub(super) fn name_of(manifest: &Manifest) -> String {
    name(manifest.height, manifest.digest.short().as_str())
}

pub(super) fn name(height: u32, digest: &str) -> String {
    format!("snapshot-{height:010}-{digest}")
}
