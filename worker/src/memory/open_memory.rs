//! Memory that is open and that one owner accesses: the type that proves that reading and writing it is sound.
#![allow(unsafe_code, reason = "reads and writes memory by address")]

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;

use super::page::page_bytes;
use super::reservation::{Advice, Reservation};
use super::streaming;

/// A range of a reservation that is readable and writable, and that nothing but this value accesses while it lives.
///
/// All offsets are those of the reservation. Functions panic if they are given bytes outside the range.
#[derive(Debug)]
pub(super) struct OpenMemory<'a> {
    reservation: &'a Reservation,
    range: Range<usize>,
}

impl<'a> OpenMemory<'a> {
    /// Opens `range`. The exclusive borrow proves that nobody else uses the reservation: a reservation whose addresses were
    /// handed out is shared, so it cannot be borrowed exclusively.
    ///
    /// # Errors
    /// The error of mprotect(2).
    pub(super) fn open(reservation: &'a mut Reservation, range: Range<usize>) -> io::Result<Self> {
        reservation.open(range.clone())?;
        Ok(Self { reservation, range })
    }

    /// Takes over a range that is open already.
    ///
    /// # Safety
    /// `range` must be within the reservation and open, and must stay open until the returned value is dropped. Until then
    /// nobody else may access it, guests included.
    pub(super) unsafe fn assume(reservation: &'a Reservation, range: Range<usize>) -> Self {
        Self { reservation, range }
    }

    /// Cuts the memory into parts of `step` bytes; the last one may be shorter.
    pub(super) fn split(self, step: usize) -> Vec<Self> {
        let end = self.range.end;
        let parts = self.range.step_by(step);
        let reservation = self.reservation;
        parts.map(|start| Self { reservation, range: start..end.min(start + step) }).collect()
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// Advises the kernel on all of the memory.
    pub(super) fn advise(&self, advice: Advice) -> Result<(), Errno> {
        self.reservation.advise(self.range.clone(), advice)
    }

    /// Writes zeros over `range`.
    pub(super) fn zero(&mut self, range: Range<usize>) {
        let (address, length) = self.locate(range);
        // SAFETY: the bytes are open and nobody else accesses them, by the invariant of this type.
        unsafe { address.write_bytes(0, length) }
    }

    /// As [`Self::zero`], but bypasses the caches. Use it when many bytes are zeroed at once.
    pub(super) fn stream_zeros(&mut self, range: Range<usize>) {
        let (address, length) = self.locate(range);
        // SAFETY: the bytes are open and nobody else accesses them, by the invariant of this type.
        unsafe { streaming::zero(address, length) }
    }

    /// Whether `range` is zero. The search ends with the first 4 KiB that are not.
    pub(super) fn is_zero(&self, range: Range<usize>) -> bool {
        const STEP_BYTES: usize = 4096;
        let (address, length) = self.locate(range);
        // SAFETY: the bytes are open and nobody writes to them meanwhile, by the invariant of this type and `&self`. Any
        // bytes are valid, and anonymous memory is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), length) };
        // A step has no early exit, so the compiler can use vector instructions for it.
        bytes.chunks(STEP_BYTES).all(|step| step.iter().fold(0, |all, byte| all | byte) == 0)
    }

    /// Writes a non-zero word that differs from page to page into every page, then zeros over it. The first write forces the
    /// kernel to make the page private.
    ///
    /// # Panics
    /// If the memory does not begin at a page of the host and consist of whole pages.
    pub(super) fn touch(&mut self) {
        let page = page_bytes();
        let range = self.range.clone();
        assert!(range.start.is_multiple_of(page) && range.end.is_multiple_of(page), "{range:?}: whole pages");
        for pattern in [|offset: usize| !(offset as u64), |_| 0] {
            for offset in range.clone().step_by(page) {
                let (address, _) = self.locate(offset..offset + size_of::<u64>());
                // SAFETY: the word is open and nobody else accesses it, by the invariant of this type. It is page-aligned:
                // the base and the offset are. The write is volatile, or the compiler could see that zeros follow and
                // remove the first write.
                unsafe { address.cast::<u64>().write_volatile(pattern(offset)) }
            }
        }
    }

    fn locate(&self, range: Range<usize>) -> (NonNull<u8>, usize) {
        assert!(
            self.range.start <= range.start && range.end <= self.range.end,
            "{range:?} is outside {self:?}"
        );
        self.reservation.locate(range)
    }
}
