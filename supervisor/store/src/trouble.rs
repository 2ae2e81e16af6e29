//! What a failure of the disk means: whether it passes once somebody makes room, and what to do about it. Everybody who
//! writes asks here, so that all of them wait for the same things, and end for the same things.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use heed::MdbError;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

/// Whether a failure passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no room: on the disk, in a quota, below a file size limit. It passes once somebody makes room, so
    /// the same write can be tried again.
    NoRoom,
    /// It does not pass by itself: a disk that fails, a file system that is read-only, damaged data, missing permission, a map
    /// that is full (nobody can make it larger while the store is open).
    Lasting,
}

impl Trouble {
    /// What an error of the kernel's means.
    pub fn of_io(error: &io::Error) -> Self {
        match errno(error) {
            Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Self::NoRoom,
            _ => Self::Lasting,
        }
    }

    /// What an error of LMDB's means.
    pub fn of(error: &heed::Error) -> Self {
        match error {
            heed::Error::Io(error) => Self::of_io(error),
            _ => Self::Lasting,
        }
    }
}

/// What to do about an error of the kernel's, as the end of a message; empty where that is not known.
pub(crate) fn advice_io(error: &io::Error) -> &'static str {
    match errno(error) {
        Errno::ENOSPC => ". Make room on the disk",
        Errno::EDQUOT => ". Make room on the disk, or raise the quota of this user",
        Errno::EFBIG => ". Make room on the disk, or raise the file size limit of this process (ulimit -f)",
        Errno::EIO => {
            ". The disk fails: the kernel's log (dmesg) says more. Restore a snapshot on another disk"
        }
        Errno::EROFS => {
            ". The file system is read-only: mount it for writing. If the kernel made it read-only after an error, the \
             kernel's log (dmesg) says why"
        }
        Errno::EACCES | Errno::EPERM => {
            ". Give this user the directory and the files in it (chown -R, chmod -R u+rwX), or run as their owner"
        }
        Errno::EEXIST | Errno::ENOTDIR => {
            ". A file has this name, or a link that leads nowhere: name a directory, or a place where there is none yet"
        }
        Errno::ENOMEM => ". The machine has no memory left for this: stop something else, or give it more",
        _ => "",
    }
}

/// What to do about an error of LMDB's, as the end of a message; empty where that is not known.
pub(crate) fn advice(error: &heed::Error) -> &'static str {
    match error {
        heed::Error::Io(error) => advice_io(error),
        heed::Error::Mdb(MdbError::MapFull) => {
            ". It has grown to the most that can be mapped: index into a new directory"
        }
        heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound | MdbError::Panic) => {
            ". The data is damaged, or was after a failed write: if a new start says the same, restore a snapshot, or index \
             into a new directory"
        }
        heed::Error::Mdb(MdbError::ReadersFull) => {
            ". Too many processes read this store at a time: stop some of them"
        }
        _ => "",
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// The error of a failed write to the store in `dir`, with its true cause. LMDB says EIO where the kernel wrote a part of what
/// it was given (mdb.c, mdb_page_flush: "short write, filesystem full?"), and where the disk failed. Which of the two it was is
/// found out right here: whether there is room for another write.
pub(super) fn of_write(dir: &Path, error: heed::Error) -> heed::Error {
    match error {
        heed::Error::Io(error) if errno(&error) == Errno::EIO => {
            heed::Error::Io(lacks_room(dir).unwrap_or(error))
        }
        error => error,
    }
}

/// Bytes of the other write. A write that was cut short has used up all the room that there was, so any number shows it; some
/// file systems keep the last pages for themselves.
const PROBE_BYTES: usize = 1 << 20;

/// Why there is no room in `dir`, if there is none.
fn lacks_room(dir: &Path) -> Option<io::Error> {
    let data = dir.join(super::open::DATA_FILE);
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft);
    if fs::metadata(data).is_ok_and(|data| data.len().saturating_add(PROBE_BYTES as u64) > limit) {
        return Some(io::Error::from(Errno::EFBIG));
    }
    probe(dir).err().filter(|error| Trouble::of_io(error) == Trouble::NoRoom)
}

/// Writes a file that nobody sees, and that is gone when this returns.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(super::open::PROBE_FILE);
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
    fn only_want_of_room_passes() {
        let trouble = |errno: Errno| Trouble::of(&heed::Error::Io(errno.into()));
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            assert_eq!(trouble(errno), Trouble::NoRoom, "{errno}");
            assert!(advice_io(&errno.into()).contains("Make room"));
        }
        for errno in [Errno::EIO, Errno::EROFS, Errno::EACCES, Errno::ENOMEM, Errno::EBADF, Errno::ENODEV] {
            assert_eq!(trouble(errno), Trouble::Lasting, "{errno}");
            assert!(!advice_io(&errno.into()).contains("Make room"));
        }
        for error in
            [MdbError::MapFull, MdbError::Corrupted, MdbError::Panic, MdbError::Invalid, MdbError::TxnFull]
        {
            assert_eq!(Trouble::of(&heed::Error::Mdb(error)), Trouble::Lasting, "{error}");
        }
    }

    #[test]
    fn a_failing_disk_with_room_is_no_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let eio = || heed::Error::Io(Errno::EIO.into());
        let found = of_write(dir.path(), eio());
        assert!(matches!(&found, heed::Error::Io(error) if errno(error) == Errno::EIO), "{found}");
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "the probe leaves nothing");
    }
}
