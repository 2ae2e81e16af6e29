//! A shared mapping of a memfd: the one place of this crate where memory is touched through raw pointers.
#![allow(unsafe_code, reason = "maps memfds that both processes share")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, munmap};

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// `length` bytes of a file, mapped shared, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: NonZeroUsize,
    access: Access,
}

// SAFETY: a `Mapping` owns its range of addresses and has no tie to a thread. It is not `Sync`-relevant in itself:
// writes need `&mut self`, and what another process does is argued for at each access.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` only allows reads and the base address; see above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `file`, which the caller has checked to be at least that long and sealed
    /// against shrinking (a page beyond the end of a file is a SIGBUS).
    pub(crate) fn shared(file: impl AsFd, length: usize, access: Access) -> io::Result<Self> {
        let length = NonZeroUsize::new(length)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a mapping of no bytes"))?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: no address is asked for, so the kernel picks a free range and nothing of ours is replaced.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { base: base.cast(), length, access })
    }

    pub(crate) fn len(&self) -> usize {
        self.length.get()
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The bytes `[offset, offset + length)`, or none if they are not all inside.
    ///
    /// The caller's protocol must say that nobody writes them while the slice lives.
    pub(crate) fn get(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.check(offset, length)?;
        // SAFETY: the range was checked to lie inside the mapping, which lives as long as `self`; u8 has no
        // alignment and no invalid values; absence of writers is the caller's protocol (see `arena`).
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), length) })
    }

    /// The bytes `[offset, offset + length)` for writing, or none if they are not all inside or not writable.
    pub(crate) fn get_mut(&mut self, offset: usize, length: usize) -> Option<&mut [u8]> {
        self.check(offset, length)?;
        if self.access != Access::ReadWrite {
            return None;
        }
        // SAFETY: as in `get`; `&mut self` makes this the only slice of this process.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), length) })
    }

    /// Makes every page resident, for all who map the file, and keeps its content. Where the kernel cannot be asked to
    /// (`MADV_POPULATE_*` came with 5.14; a seccomp profile may refuse it), each page is touched.
    ///
    /// # Errors
    /// What the kernel said. If it has not enough memory while pages are touched, it kills this process.
    pub(crate) fn populate(&mut self) -> io::Result<()> {
        let advice = match self.access {
            Access::Read => MmapAdvise::MADV_POPULATE_READ,
            Access::ReadWrite => MmapAdvise::MADV_POPULATE_WRITE,
        };
        loop {
            // SAFETY: the range is this mapping's own, and the advice keeps its content.
            match unsafe { madvise(self.base.cast(), self.length.get(), advice) } {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => break,
                result => return Ok(result?),
            }
        }
        self.touch();
        Ok(())
    }

    /// Reads a byte of each page, and writes it back where that is allowed: reading alone would leave pages to be found by
    /// the first write.
    pub(crate) fn touch(&mut self) {
        const PAGE_BYTES: usize = 4096;
        for offset in (0..self.length.get()).step_by(PAGE_BYTES) {
            // SAFETY: inside the mapping, which is readable; `&mut self` makes this the only access of this process.
            // Volatile, or it would be left out.
            unsafe {
                let byte = self.base.as_ptr().add(offset);
                let value = byte.read_volatile();
                if self.access == Access::ReadWrite {
                    byte.write_volatile(value);
                }
            }
        }
    }

    /// Locks all of it into memory (mlock(2)).
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping's own; locking changes no content.
        Ok(unsafe { mlock(self.base.cast(), self.length.get()) }?)
    }

    fn check(&self, offset: usize, length: usize) -> Option<()> {
        (offset.checked_add(length)? <= self.length.get()).then_some(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `shared`, belongs to `self` alone, and no slice of it outlives `self`.
        // Unmapping a range that is mapped cannot fail, so the result says nothing.
        let _ = unsafe { munmap(self.base.cast(), self.length.get()) };
    }
}
