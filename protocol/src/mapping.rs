//! Shared mappings of memfds. With the status page, the only code of this crate that accesses memory through raw pointers.
#![allow(unsafe_code, reason = "maps memfds that both processes share")]

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, munmap};

use crate::sealing::FixedSizeMemfd;

/// How a mapping may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// All of one memfd, mapped shared, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: NonZeroUsize,
    access: Access,
}

// SAFETY: a `Mapping` owns its range of addresses, and the range has no tie to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` there are only the base address, system calls that keep the content, and `bytes`, whose caller
// vouches for the absence of writers in every thread and process.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of `file`. The type of `file` proves that its pages cannot be taken away.
    pub(crate) fn new(file: &FixedSizeMemfd, access: Access) -> io::Result<Self> {
        let length = NonZeroUsize::new(file.len())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a mapping of no bytes"))?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: no address is given, so the kernel picks a free range and replaces no mapping of this process.
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
    /// # Safety
    /// Nobody may write to these bytes while the slice lives: neither another process, nor this process through another
    /// mapping of the same file.
    pub(crate) unsafe fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.check(offset, length)?;
        // SAFETY: the range was checked to lie inside the mapping, which lives as long as `self`. u8 has no alignment and
        // no invalid values. The caller vouches for the absence of writers.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), length) })
    }

    /// The bytes `[offset, offset + length)` for writing, or none if they are not all inside or not writable.
    ///
    /// # Safety
    /// While the slice lives, nobody else may write to these bytes, and this process may have no other slice of them.
    pub(crate) unsafe fn bytes_mut(&mut self, offset: usize, length: usize) -> Option<&mut [u8]> {
        self.check_writable(offset, length)?;
        // SAFETY: as in `bytes`. The caller vouches that no other slice of these bytes exists and nobody else writes.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), length) })
    }

    /// Copies `source` to `offset`; none if it does not fit or the mapping is not writable.
    ///
    /// The copy makes no reference to the mapped bytes. So another process that writes to them at the same time can spoil
    /// their content, and nothing else.
    pub(crate) fn write(&mut self, offset: usize, source: &[u8]) -> Option<()> {
        self.check_writable(offset, source.len())?;
        // SAFETY: the target was checked to lie inside the mapping, which is writable and lives as long as `self`. The
        // source is a slice of other memory: no safe function gives a slice of a mapping that a `write` may change.
        unsafe { self.base.as_ptr().add(offset).copy_from_nonoverlapping(source.as_ptr(), source.len()) }
        Some(())
    }

    /// Makes every page resident for every process that maps the file, and keeps the content. Where the kernel refuses to
    /// populate (`MADV_POPULATE_*` came with 5.14; a seccomp profile may refuse it), each page is touched.
    ///
    /// # Errors
    /// The kernel's error. If the kernel runs out of memory while pages are touched, it kills this process.
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

    /// Reads a byte of each page and, in a writable mapping, writes it back: after a mere read, the first write would still
    /// need a page.
    pub(crate) fn touch(&mut self) {
        const PAGE_BYTES: usize = 4096;
        for offset in (0..self.length.get()).step_by(PAGE_BYTES) {
            // SAFETY: the byte is inside the mapping, which is readable. No slice of this mapping exists, because of
            // `&mut self`. The accesses are volatile, or the compiler would remove them.
            unsafe {
                let byte = self.base.as_ptr().add(offset);
                let value = byte.read_volatile();
                if self.access == Access::ReadWrite {
                    byte.write_volatile(value);
                }
            }
        }
    }

    /// Locks all of the mapping into memory (mlock(2)).
    pub(crate) fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping's own, and locking changes no content.
        Ok(unsafe { mlock(self.base.cast(), self.length.get()) }?)
    }

    fn check(&self, offset: usize, length: usize) -> Option<()> {
        (offset.checked_add(length)? <= self.length.get()).then_some(())
    }

    fn check_writable(&self, offset: usize, length: usize) -> Option<()> {
        self.check(offset, length).filter(|()| self.access == Access::ReadWrite)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to `self` alone, and no slice of it outlives `self`.
        // Unmapping a mapped range cannot fail, so the result is ignored.
        let _ = unsafe { munmap(self.base.cast(), self.length.get()) };
    }
}
