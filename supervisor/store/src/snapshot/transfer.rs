//! Copies or reads the data of a snapshot, and hashes and counts the bytes at the same time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam_protocol::profile::Hash;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};

use super::error::SnapshotError;
use super::progress::{Observer, Step, report};

/// Bytes per step. The transfer can be cancelled after each step.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes after which the written data is synced. Otherwise gigabytes would wait in memory for one sync at the end. That sync
/// could not be cancelled, and all other syncs to the same disk, such as a node's commits, would wait for it.
const SYNC_BYTES: u64 = 32 << 20;

/// Bytes of disk space that are left free for other programs.
const SPARE_BYTES: u64 = 16 << 20;

/// The length and hash of the transferred data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transferred {
    pub(super) bytes: u64,
    pub(super) sha256: Hash,
}

/// The source and target of the bytes, with their paths for messages.
pub(super) struct Transfer<'t> {
    pub(super) source: &'t mut dyn Read,
    pub(super) from: &'t Path,
    /// None if the bytes are only hashed.
    pub(super) target: Option<(&'t File, &'t Path)>,
    /// The expected number of bytes.
    pub(super) total: u64,
}

impl Transfer<'_> {
    /// Reads the source to its end. Afterwards the written data is synced to disk.
    pub(super) fn run(self, observer: Observer<'_>) -> Result<Transferred, SnapshotError> {
        let (mut hasher, mut bytes, mut synced) = (Sha256::new(), 0, 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            report(observer, Step::Data { done: bytes, total: self.total.max(bytes) })?;
            let read = match self.source.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(SnapshotError::file(self.from, "it cannot be read")(source)),
            };
            hasher.update(&chunk[..read]);
            bytes += read as u64;
            if let Some((mut file, path)) = self.target {
                let write = file.write_all(&chunk[..read]);
                write.map_err(SnapshotError::file(path, "it cannot be written"))?;
                if bytes - synced >= SYNC_BYTES {
                    sync(file, path)?;
                    synced = bytes;
                }
            }
        }
        if let Some((file, path)) = self.target {
            sync(file, path)?;
        }
        Ok(Transferred { bytes, sha256: Hash(hasher.finalize().into()) })
    }
}

fn sync(file: &File, path: &Path) -> Result<(), SnapshotError> {
    file.sync_all().map_err(SnapshotError::file(path, "it cannot be synced to disk"))?;
    // Nothing reads the snapshot soon, and the store that is in use needs the page cache. This is only a hint.
    let _hint = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(())
}

/// Checks that `needed` bytes fit into the directory `path`, before writing fills the disk.
pub(super) fn check_space(path: &Path, needed: u64) -> Result<(), SnapshotError> {
    let space = statvfs(path)
        .map_err(|error| SnapshotError::file(path, "its free space cannot be determined")(error.into()))?;
    let available = space.blocks_available().saturating_mul(space.fragment_size());
    let needed = needed.saturating_add(SPARE_BYTES);
    if available >= needed {
        return Ok(());
    }
    Err(SnapshotError::NoSpace { path: path.to_owned(), needed, available })
}

/// The length of an open file in bytes.
pub(super) fn length(file: &File, path: &Path) -> Result<u64, SnapshotError> {
    Ok(file.metadata().map_err(SnapshotError::file(path, "it cannot be examined"))?.size())
}

/// Syncs the names in a directory.
pub(super) fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(SnapshotError::file(path, "it cannot be synced to disk"))
}
