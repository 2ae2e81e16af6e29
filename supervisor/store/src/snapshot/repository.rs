//! A directory of snapshots. The directory has one writer at a time. A new writer removes incomplete snapshots that a killed
//! writer left, and can keep only the newest snapshots.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::error::SnapshotError;
use super::manifest::Manifest;
use super::transfer::sync_directory;
use crate::directory::create_durable;

const LOCK: &str = ".lock";
/// The snapshot that is being written, and the snapshot that is being removed. Nothing reads them.
const TAKING: &str = ".taking";
const REMOVING: &str = ".removing";

/// A directory of snapshots that only this process writes to.
#[derive(Debug)]
pub(super) struct Repository {
    path: PathBuf,
    lock: File,
}

impl Drop for Repository {
    fn drop(&mut self) {
        // Closing the file is not enough if another thread has just forked a child that has not called exec yet: the child still
        // holds the lock. If unlocking fails, the file is only closed.
        let _closing_remains = self.lock.unlock();
    }
}

impl Repository {
    /// Creates the directory if it does not exist, locks it, and removes what a killed writer left in it.
    pub(super) fn lock(path: &Path) -> Result<Self, SnapshotError> {
        let path = create_durable(path).map_err(SnapshotError::file(path, "it cannot be created"))?;
        let name = path.join(LOCK);
        let failed = SnapshotError::file(&name, "it cannot be created and locked");
        let lock = File::options().create(true).truncate(false).write(true).open(&name).map_err(&failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SnapshotError::Busy { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let this = Self { path, lock };
        for name in [TAKING, REMOVING] {
            if this.clear(name)? {
                tracing::info!("{}: removed an incomplete snapshot of an earlier run", this.path.display());
            }
        }
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the temporary directory for a new snapshot.
    pub(super) fn begin(&self) -> Result<IncompleteSnapshot<'_>, SnapshotError> {
        let path = self.path.join(TAKING);
        DirBuilder::new().create(&path).map_err(SnapshotError::file(&path, "it cannot be created"))?;
        Ok(IncompleteSnapshot { repository: self, path })
    }

    /// Removes all but the newest `keep` snapshots of the profile that the snapshot `newest` has. The snapshot `newest` always
    /// stays. Snapshots of other profiles, and anything that is not a snapshot, are left alone. Returns the removed snapshots.
    pub(super) fn prune(&self, newest: &Path, keep: NonZeroUsize) -> Result<Vec<PathBuf>, SnapshotError> {
        let profile = Manifest::read(newest)?.profile;
        let mut others = self.list()?;
        others.retain(|(path, manifest)| manifest.profile == profile && path != newest);
        // The snapshots are sorted by the time at which they were made, and not by their height. After a reorganisation, the
        // newer snapshot is the one to keep, even if its height is lower.
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
            // A link to a snapshot in another place is ignored, because this directory may not remove that snapshot.
            let is_ours = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let manifest = is_ours.then(|| Manifest::read(&entry.path()).ok()).flatten()?;
            (entry.file_name().to_str() == Some(&name_of(&manifest))).then(|| (entry.path(), manifest))
        };
        Ok(entries.into_iter().filter_map(snapshot).collect())
    }

    /// Removes a snapshot. The snapshot is renamed first, so that an incomplete snapshot never has a final name.
    fn remove(&self, path: &Path) -> Result<(), SnapshotError> {
        let removing = self.path.join(REMOVING);
        fs::rename(path, &removing).map_err(SnapshotError::file(path, "it cannot be removed"))?;
        self.clear(REMOVING).map(drop)
    }

    /// Removes the entry `name`. Returns whether there was one.
    fn clear(&self, name: &str) -> Result<bool, SnapshotError> {
        let path = self.path.join(name);
        match fs::remove_dir_all(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => {
                let problem = "this incomplete snapshot cannot be removed";
                Err(SnapshotError::File { path, problem, source })
            }
        }
    }
}

/// A snapshot that is being written. Dropping it before [`IncompleteSnapshot::finish`] removes it.
#[derive(Debug)]
pub(super) struct IncompleteSnapshot<'r> {
    repository: &'r Repository,
    path: PathBuf,
}

impl IncompleteSnapshot<'_> {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the snapshot to its final name. The files in it must be synced to disk.
    pub(super) fn finish(self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let path = self.repository.path.join(name_of(manifest));
        sync_directory(&self.path)?;
        fs::rename(&self.path, &path)
            .map_err(SnapshotError::file(&path, "the new snapshot cannot be renamed to this name"))?;
        sync_directory(&self.repository.path)?;
        Ok(path)
    }
}

impl Drop for IncompleteSnapshot<'_> {
    fn drop(&mut self) {
        // After `finish` there is no entry of this name. If the removal fails, the next writer removes the entry, or reports
        // why it cannot.
        let _next_time = self.repository.clear(TAKING);
    }
}

/// The final name of a snapshot. The height has as many digits as the greatest height, so the names sort by height.
fn name_of(manifest: &Manifest) -> String {
    name(manifest.height, manifest.digest.short().as_str())
}

pub(super) fn name(height: u32, digest: &str) -> String {
    format!("snapshot-{height:010}-{digest}")
}
