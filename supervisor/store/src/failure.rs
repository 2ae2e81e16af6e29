//! What a failure of the disk means: whether a retry can succeed, and what the operator can do. Every writer uses this module, so
//! that all writers retry after the same failures and stop after the same failures.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use heed::MdbError;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use crate::file_names::{DATA_FILE, PROBE_FILE};

/// Whether a failed call can succeed when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// There is no space: the disk is full, a quota is used up, or a file size limit is reached. The same call can succeed
    /// once somebody makes room.
    NoSpace,
    /// The failure does not go away by itself: a failing disk, a read-only file system, damaged data, missing permission, or a
    /// full map (which cannot be enlarged while the store is open).
    Permanent,
}

impl FailureKind {
    /// The kind of an error of the operating system.
    pub fn of_io(error: &io::Error) -> Self {
        match errno(error) {
            Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Self::NoSpace,
            _ => Self::Permanent,
        }
    }

    /// The kind of an error of LMDB.
    pub fn of(error: &heed::Error) -> Self {
        match error {
            heed::Error::Io(error) => Self::of_io(error),
            _ => Self::Permanent,
        }
    }
}

/// What to do about an error of the operating system, as the end of a message. Empty for errors without known advice.
pub(crate) fn advice_io(error: &io::Error) -> &'static str {
    match errno(error) {
        Errno::ENOSPC => ". Make room on the disk",
        Errno::EDQUOT => ". Make room on the disk, or raise the quota of this user",
        Errno::EFBIG => ". Make room on the disk, or raise the file size limit of this process (ulimit -f)",
        Errno::EIO => {
            ". The disk fails: see the kernel's log (dmesg), then restore a snapshot on another disk"
        }
        Errno::EROFS => {
            ". The file system is read-only: mount it for writing. If the kernel made it read-only after an error, the \
             kernel's log (dmesg) says why"
        }
        Errno::EACCES | Errno::EPERM => {
            ". Give this user the directory and its files (chown -R, chmod -R u+rwX), or run as their owner"
        }
        Errno::EEXIST | Errno::ENOTDIR => {
            ". The path names a file, or a link whose target does not exist: name a directory, or a path that does not exist"
        }
        Errno::ENOMEM => {
            ". The machine has too little free memory: stop another program, or give the machine more memory"
        }
        _ => "",
    }
}

/// What to do about an error of LMDB, as the end of a message. Empty for errors without known advice.
pub(crate) fn advice(error: &heed::Error) -> &'static str {
    match error {
        heed::Error::Io(error) => advice_io(error),
        heed::Error::Mdb(MdbError::MapFull) => {
            ". The store has grown to the largest size that can be mapped: index into a new directory"
        }
        heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound | MdbError::Panic) => {
            ". The data is damaged, or a write failed before: start again, and if the error remains, restore a snapshot or \
             index into a new directory"
        }
        heed::Error::Mdb(MdbError::ReadersFull) => {
            ". Too many processes read this store at the same time: stop some of them"
        }
        _ => "",
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// Returns the true cause of the error of a failed write to the store in `dir`. LMDB reports EIO both when the disk failed and
/// when the kernel wrote only a part of the data (mdb.c, mdb_page_flush: "short write, filesystem full?"). This function
/// distinguishes the two cases by trying another write. If there is no space for the other write, the lack of space is the cause.
pub(crate) fn write_error(dir: &Path, error: heed::Error) -> heed::Error {
    match error {
        heed::Error::Io(error) if errno(&error) == Errno::EIO => {
            heed::Error::Io(find_lack_of_space(dir).unwrap_or(error))
        }
        error => error,
    }
}

/// How many bytes [`write_probe`] writes. A write that was cut short has used up all space, so any number of bytes shows the lack
/// of space. The number is more than one page because some file systems reserve their last pages.
const PROBE_BYTES: usize = 1 << 20;

/// The error that says why `dir` has no space; none if it has space.
fn find_lack_of_space(dir: &Path) -> Option<io::Error> {
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    let data = fs::metadata(dir.join(DATA_FILE));
    if data.is_ok_and(|data| data.len().saturating_add(PROBE_BYTES as u64) > limit) {
        return Some(io::Error::from(Errno::EFBIG));
    }
    write_probe(dir).err().filter(|error| FailureKind::of_io(error) == FailureKind::NoSpace)
}

/// Creates a file, removes its name at once, then writes and syncs its bytes. When the file is closed, nothing of it is left.
fn write_probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROBE_FILE);
    let mut file = File::create(&path)?;
    let removed = fs::remove_file(&path);
    file.write_all(&vec![0xc0; PROBE_BYTES])?;
    file.sync_all()?;
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_of_space_can_be_retried() {
        let kind = |errno: Errno| FailureKind::of(&heed::Error::Io(errno.into()));
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            assert_eq!(kind(errno), FailureKind::NoSpace, "{errno}");
            assert!(advice_io(&errno.into()).contains("Make room"));
        }
        for errno in [Errno::EIO, Errno::EROFS, Errno::EACCES, Errno::ENOMEM, Errno::EBADF, Errno::ENODEV] {
            assert_eq!(kind(errno), FailureKind::Permanent, "{errno}");
            assert!(!advice_io(&errno.into()).contains("Make room"));
        }
        for error in
            [MdbError::MapFull, MdbError::Corrupted, MdbError::Panic, MdbError::Invalid, MdbError::TxnFull]
        {
            assert_eq!(FailureKind::of(&heed::Error::Mdb(error)), FailureKind::Permanent, "{error}");
        }
    }

    #[test]
    fn a_failing_disk_that_has_space_is_not_reported_as_full() {
        let dir = tempfile::tempdir().unwrap();
        let eio = || heed::Error::Io(Errno::EIO.into());
        let found = write_error(dir.path(), eio());
        assert!(matches!(&found, heed::Error::Io(error) if errno(error) == Errno::EIO), "{found}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "the probe leaves no file");
    }
}
