//! The range of addresses that linear memory lives in, and the few things the kernel can be asked to do with it.
#![allow(unsafe_code, reason = "maps, protects and writes the slab")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap};

use super::streaming;

/// Bytes that compiled code may address: all of a 32-bit memory.
pub const RESERVATION_BYTES: usize = 1 << 32;

/// Bytes behind the reservation that always fault. Compiled code reaches at most a constant offset of this much beyond
/// an address it has not checked.
pub const GUARD_BYTES: usize = 32 << 20;

/// Bytes of a huge page on every architecture that is supported. The base is aligned to it, or the first and the last
/// huge page of the slab would be lost.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Addresses for one linear memory and its guard, all closed until they are opened.
#[derive(Debug)]
pub(super) struct Reservation {
    mapped: NonNull<c_void>,
    mapped_bytes: usize,
    base: NonNull<u8>,
    /// Bytes from the base that can be opened; the guard is behind them.
    bytes: usize,
}

// SAFETY: the addresses belong to the reservation alone and have no tie to a thread.
unsafe impl Send for Reservation {}
// SAFETY: through `&Reservation` only system calls are made, and `zero` and its like, whose caller must be alone with the
// range.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves addresses for `bytes` and a guard; no memory yet.
    ///
    /// Not `MAP_NORESERVE`: a commit that is plainly more than the host has then fails when the range is opened,
    /// with an error, rather than later with a kill.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let mapped_bytes = bytes.saturating_add(GUARD_BYTES + HUGE_PAGE_BYTES);
        let length = NonZeroUsize::new(mapped_bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: no address is asked for, so the kernel picks a free range.
        let mapped = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
        let padding = mapped.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the padding is below HUGE_PAGE_BYTES, by which the mapping is longer than what follows the base.
        let base = unsafe { mapped.cast::<u8>().add(padding) };
        Ok(Self { mapped, mapped_bytes, base, bytes })
    }

    /// Address of byte 0 of the linear memory.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Makes `range` readable and writable.
    pub(super) fn open(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Makes every access to `range` fault. Its pages stay resident and keep their content.
    pub(super) fn close(&self, range: Range<usize>) -> io::Result<()> {
        self.protect(range, ProtFlags::PROT_NONE)
    }

    /// Advises the kernel on `range`. Only advice that keeps the content is passed here.
    pub(super) fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> Result<(), Errno> {
        let (address, length) = self.locate(range);
        // SAFETY: the range lies inside the reservation (`locate` asserts it).
        unsafe { madvise(address.cast(), length, advice) }
    }

    /// Locks `range` into memory.
    pub(super) fn lock(&self, range: Range<usize>) -> Result<(), Errno> {
        let (address, length) = self.locate(range);
        // SAFETY: the range lies inside the reservation (`locate` asserts it).
        unsafe { mlock(address.cast(), length) }
    }

    /// Writes zeros over `range`, which must be open, and which no guest may be using.
    pub(super) fn zero(&self, range: Range<usize>) {
        let (address, length) = self.locate(range);
        // SAFETY: inside the reservation and, as the caller says, open and unused.
        unsafe { address.write_bytes(0, length) }
    }

    /// Like [`Self::zero`], past the caches: for when much is zeroed at once.
    pub(super) fn stream_zeros(&self, range: Range<usize>) {
        let (address, length) = self.locate(range);
        // SAFETY: inside the reservation and, as the caller says, open and unused.
        unsafe { streaming::zero(address, length) }
    }

    /// Whether `range`, which must be open, and which no guest may be using, is zero; looks no further than to the first
    /// page that is not.
    pub(super) fn is_zero(&self, range: Range<usize>) -> bool {
        const STEP_BYTES: usize = 4096;
        let (address, length) = self.locate(range);
        // SAFETY: inside the reservation and, as the caller says, open and unused: nobody writes to it meanwhile.
        // Any bytes are valid; anonymous memory is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), length) };
        // Without a way out in the middle of a step, it is done by whole vectors.
        bytes.chunks(STEP_BYTES).all(|step| step.iter().fold(0, |all, byte| all | byte) == 0)
    }

    /// Writes a non-zero word that differs from page to page into every page of `range`, then zeros over it.
    pub(super) fn touch(&self, range: Range<usize>, page_bytes: usize) {
        let pages = || range.clone().step_by(page_bytes);
        for offset in pages() {
            let (address, _) = self.locate(offset..offset + size_of::<u64>());
            // SAFETY: inside the reservation, open, page-aligned. Volatile, or the compiler could see that zeros
            // follow and leave this out, and with it the private page that it is here to force.
            unsafe { address.cast::<u64>().write_volatile(!(offset as u64)) }
        }
        for offset in pages() {
            let (address, _) = self.locate(offset..offset + size_of::<u64>());
            // SAFETY: as above.
            unsafe { address.cast::<u64>().write_volatile(0) }
        }
    }

    fn protect(&self, range: Range<usize>, protection: ProtFlags) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (address, length) = self.locate(range);
        // SAFETY: the range lies inside the reservation. Closing it can only make a guest's access fault, which is
        // what compiled code relies on; nothing of the host keeps references into it.
        unsafe { mprotect(address.cast(), length, protection) }?;
        Ok(())
    }

    fn locate(&self, range: Range<usize>) -> (NonNull<u8>, usize) {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} is outside the reservation");
        // SAFETY: just checked.
        (unsafe { self.base.add(range.start) }, range.end - range.start)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and whatever used it holds a reference to `self`. It cannot fail for a range that
        // is mapped.
        let _ = unsafe { munmap(self.mapped, self.mapped_bytes) };
    }
}
