//! Bytes of a snapshot from one place to another, hashed and counted on the way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam_protocol::profile::Hash;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};

use super::{SnapshotError, Step, Watch, tell};

/// Bytes at a time: after each, the transfer can be given up.
const CHUNK_BYTES: usize = 1 << 20;

/// Bytes after which what was written is synced. Otherwise gigabytes would wait in memory for one sync at the end, which
/// cannot be given up, and which everybody else's syncs to this disk, such as a node's commits, wait for.
const SYNC_BYTES: u64 = 32 << 20;

/// Room to be left on the disk, for whoever else writes there.
const SPARE_BYTES: u64 = 16 << 20;

/// What was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transferred {
    pub(super) bytes: u64,
    pub(super) sha256: Hash,
}

/// Where the bytes come from and go to, with the paths for messages.
pub(super) struct Transfer<'t> {
    pub(super) source: &'t mut dyn Read,
    pub(super) from: &'t Path,
    /// None if they are only to be hashed.
    pub(super) target: Option<(&'t File, &'t Path)>,
    /// Bytes to expect.
    pub(super) total: u64,
}

impl Transfer<'_> {
    /// Reads to the end. What was written is then on the disk.
    pub(super) fn run(self, watch: Watch<'_>) -> Result<Transferred, SnapshotError> {
        let (mut hasher, mut bytes, mut synced) = (Sha256::new(), 0, 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            tell(watch, Step::Data { done: bytes, total: self.total.max(bytes) })?;
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
    // Nobody reads it soon, and the store that is in use wants the memory. A hint.
    let _hint = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(())
}

/// Makes sure that `needed` bytes fit into the directory `path`, before the disk is filled to find out.
pub(super) fn check_room(path: &Path, needed: u64) -> Result<(), SnapshotError> {
    let room = statvfs(path)
        .map_err(|error| SnapshotError::file(path, "its free space cannot be found out")(error.into()))?;
    let available = room.blocks_available().saturating_mul(room.fragment_size());
    let needed = needed.saturating_add(SPARE_BYTES);
    if available >= needed {
        return Ok(());
    }
    Err(SnapshotError::NoRoom { path: path.to_owned(), needed, available })
}

/// Bytes of a file that is open.
pub(super) fn length(file: &File, path: &Path) -> Result<u64, SnapshotError> {
    Ok(file.metadata().map_err(SnapshotError::file(path, "it cannot be examined"))?.size())
}

/// Makes the names in a directory last.
pub(super) fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(SnapshotError::file(path, "it cannot be synced to disk"))
}
