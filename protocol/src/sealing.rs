//! Memfds of a fixed size. Both processes can map such a memfd, and neither process can take pages away from the other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memfd::{FileSeal, Memfd, MemfdOptions};

use crate::syscall::syscall_error;

/// An empty memfd that can be sealed and is closed on exec.
pub(crate) fn create(name: &str) -> io::Result<Memfd> {
    let options = MemfdOptions::new().allow_sealing(true).close_on_exec(true);
    options.create(name).map_err(into_io).map_err(syscall_error("memfd_create"))
}

/// Seals `file` against every change of its bytes, its size and its seals.
///
/// # Errors
/// The kernel refuses while a writable mapping of the file exists in any process.
pub(crate) fn seal_all(file: &Memfd) -> io::Result<()> {
    seal(file, &[FileSeal::SealWrite, FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
}

fn seal(file: &Memfd, seals: &[FileSeal]) -> io::Result<()> {
    file.add_seals(seals).map_err(into_io).map_err(syscall_error("fcntl(F_ADD_SEALS)"))
}

fn into_io(error: memfd::Error) -> io::Error {
    match error {
        memfd::Error::Create(error) | memfd::Error::AddSeals(error) | memfd::Error::GetSeals(error) => error,
    }
}

/// A memfd whose size can no longer change.
///
/// A mapping of it therefore never loses a page. Access to a mapped page beyond the end of a file raises SIGBUS.
#[derive(Debug)]
pub(crate) struct FixedSizeMemfd {
    file: Memfd,
    bytes: usize,
}

impl FixedSizeMemfd {
    /// Makes a memfd of `bytes` zeros, sealed against growing and shrinking. It uses no memory until it is written.
    pub(crate) fn create(name: &str, bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let file = create(name)?;
        file.as_file().set_len(bytes).map_err(syscall_error("ftruncate"))?;
        seal(&file, &[FileSeal::SealShrink, FileSeal::SealGrow])?;
        Ok(Self { file, bytes: length })
    }

    /// Checks that `file` is a memfd of `bytes` bytes, sealed against growing and shrinking.
    ///
    /// # Errors
    /// What is missing, as the end of a sentence about the file.
    pub(crate) fn check(file: OwnedFd, bytes: u64) -> Result<Self, String> {
        let file = Memfd::try_from_file(File::from(file)).map_err(|_| "it is no memfd".to_owned())?;
        let seals = file.seals().map_err(|error| error.to_string())?;
        if !(seals.contains(&FileSeal::SealShrink) && seals.contains(&FileSeal::SealGrow)) {
            return Err(format!("its seals are {seals:?}"));
        }
        let size = file.as_file().metadata().map_err(|error| error.to_string())?.len();
        if size != bytes {
            return Err(format!("it has {size} bytes, not {bytes}"));
        }
        let length = usize::try_from(bytes).map_err(|error| error.to_string())?;
        Ok(Self { file, bytes: length })
    }

    /// Forbids further seals.
    pub(crate) fn seal_seals(&self) -> io::Result<()> {
        seal(&self.file, &[FileSeal::SealSeal])
    }

    /// Forbids writing through anything but the mappings that exist now, and further seals (`F_SEAL_FUTURE_WRITE`, kernel
    /// 5.1).
    pub(crate) fn seal_future_writes(&self) -> io::Result<()> {
        seal(&self.file, &[FileSeal::SealFutureWrite, FileSeal::SealSeal])
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }
}

impl AsFd for FixedSizeMemfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}
