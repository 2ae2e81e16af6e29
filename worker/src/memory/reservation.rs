//! The range of addresses that linear memory lives in, and the requests that can be made of the kernel for it.
#![allow(unsafe_code, reason = "maps and protects memory")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap};

/// Bytes that compiled code may address: all of a 32-bit memory.
pub const RESERVATION_BYTES: usize = 1 << 32;

/// Bytes behind the reservation that always fault. Compiled code does not check an address plus a constant offset, if the
/// offset is at most this much.
pub const GUARD_BYTES: usize = 32 << 20;

/// Bytes in a huge page on every supported architecture. The base is aligned to it, so that huge pages can cover the first and
/// the last part of the memory too.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Advice to the kernel that keeps the content of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Use huge pages.
    HugePages,
    /// Use no huge pages.
    SmallPages,
    /// Do not merge equal pages.
    Unmergeable,
    /// Make every page resident and private now.
    Populate,
}

impl Advice {
    const fn flag(self) -> MmapAdvise {
        match self {
            Self::HugePages => MmapAdvise::MADV_HUGEPAGE,
            Self::SmallPages => MmapAdvise::MADV_NOHUGEPAGE,
            Self::Unmergeable => MmapAdvise::MADV_UNMERGEABLE,
            Self::Populate => MmapAdvise::MADV_POPULATE_WRITE,
        }
    }
}

/// Addresses for one linear memory and its guard. Every access faults until a range is opened.
#[derive(Debug)]
pub(super) struct Reservation {
    mapped: NonNull<c_void>,
    mapped_bytes: usize,
    base: NonNull<u8>,
    /// Bytes from the base that can be opened. The guard is behind them.
    bytes: usize,
}

// SAFETY: the addresses belong to the reservation alone and have no tie to a thread.
unsafe impl Send for Reservation {}
// SAFETY: through `&Reservation` there are only system calls that keep the content of memory, and addresses.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves addresses for `bytes` and a guard. It reserves no memory.
    ///
    /// The mapping is not `MAP_NORESERVE`. So a commit of far more than the host has fails with an error when the range is
    /// opened, and not later with a kill.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let mapped_bytes = bytes.saturating_add(GUARD_BYTES + HUGE_PAGE_BYTES);
        let length = NonZeroUsize::new(mapped_bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: no address is given, so the kernel picks a free range and replaces no mapping of this process.
        let mapped = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
        let padding = mapped.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the padding is less than HUGE_PAGE_BYTES, and the mapping is HUGE_PAGE_BYTES longer than `bytes` and the guard.
        let base = unsafe { mapped.cast::<u8>().add(padding) };
        Ok(Self { mapped, mapped_bytes, base, bytes })
    }

    /// Address of byte 0 of the linear memory.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of the first byte of `range`, and the length of `range`.
    ///
    /// # Panics
    /// If `range` is not within the reservation.
    pub(super) fn locate(&self, range: Range<usize>) -> (NonNull<u8>, usize) {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} is outside the reservation");
        // SAFETY: the assertion has checked that the address is inside the mapping.
        (unsafe { self.base.add(range.start) }, range.end - range.start)
    }

    /// Makes `range` readable and writable.
    ///
    /// # Panics
    /// If `range` is not within the reservation. The other functions that take a range panic in the same case.
    pub(super) fn open(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Makes every access to `range` fault. Its pages stay resident and keep their content.
    pub(super) fn close(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, ProtFlags::PROT_NONE)
    }

    /// Advises the kernel on `range`.
    pub(super) fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Errno> {
        let (address, length) = self.locate(range);
        // SAFETY: the range is inside the reservation (`locate` asserts this), and the advice keeps its content.
        unsafe { madvise(address.cast(), length, advice.flag()) }
    }

    /// Locks `range` into memory.
    pub(super) fn lock(&self, range: Range<usize>) -> Result<(), Errno> {
        let (address, length) = self.locate(range);
        // SAFETY: the range is inside the reservation (`locate` asserts this), and locking keeps its content.
        unsafe { mlock(address.cast(), length) }
    }

    fn protect(&self, range: Range<usize>, protection: ProtFlags) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (address, length) = self.locate(range);
        // SAFETY: the range is inside the reservation. If it is closed, a guest's access faults, and compiled code relies on
        // that. References of the host into the range come only from an `OpenMemory`. `OpenMemory::open` borrows the reservation
        // exclusively, so nobody else can call this while its result lives. The caller of `OpenMemory::assume` vouches that the
        // range stays open while the result lives.
        unsafe { mprotect(address.cast(), length, protection) }?;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and everything that uses it borrows `self` or holds an `Arc` of its owner.
        // Unmapping a mapped range cannot fail.
        let _ = unsafe { munmap(self.mapped, self.mapped_bytes) };
    }
}
