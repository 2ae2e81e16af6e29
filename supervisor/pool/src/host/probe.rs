//! A few pages of memory to try system calls on. Unmapped when dropped.

#![allow(unsafe_code, reason = "mapping, advising and unmapping memory")]

use std::ffi::c_void;
use std::fs;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// A private anonymous mapping. Only the methods of this type and the kernel access it.
#[derive(Debug)]
pub(super) struct Area {
    start: NonNull<c_void>,
    len: usize,
}

impl Area {
    /// Reserves `len` bytes, readable and writable, none of them resident.
    pub(super) fn new(len: usize) -> nix::Result<Self> {
        Self::with_protection(len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Reserves `len` bytes that nothing can access. This costs no memory, whatever `len` is.
    pub(super) fn inaccessible(len: usize) -> nix::Result<Self> {
        Self::with_protection(len, ProtFlags::PROT_NONE)
    }

    fn with_protection(len: usize, protection: ProtFlags) -> nix::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: no address is requested, so the kernel chooses a free one.
        let start = unsafe { mmap_anonymous(None, length, protection, flags) }?;
        Ok(Self { start, len })
    }

    /// The first address.
    pub(super) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    /// The offset of the first address in the area that is a multiple of `alignment`.
    pub(super) fn offset_aligned_to(&self, alignment: usize) -> usize {
        self.address().next_multiple_of(alignment) - self.address()
    }

    /// madvise(2) on `len` bytes of the area from `offset` on.
    pub(super) fn advise(&self, offset: usize, len: usize, advice: i32) -> nix::Result<()> {
        let address = self.part(offset, len)?;
        // SAFETY: the range lies within this mapping. No reference points into the mapping, so even advice that discards the
        // content is sound.
        Errno::result(unsafe { libc::madvise(address, len, advice) }).map(drop)
    }

    /// mlock2(2) with MLOCK_ONFAULT (Linux 4.4): checks the limits as mlock does, and makes no page resident.
    pub(super) fn lock_on_fault(&self) -> nix::Result<()> {
        // SAFETY: mlock2 changes no content, and this value owns the mapping. Unmapping unlocks it.
        let result = unsafe { libc::mlock2(self.start.as_ptr(), self.len, libc::MLOCK_ONFAULT) };
        Errno::result(result).map(drop)
    }

    /// Writes one byte at `offset`, which makes its page resident. The area must not be inaccessible.
    pub(super) fn touch(&self, offset: usize) -> nix::Result<()> {
        let byte = self.part(offset, 1)?.cast::<u8>();
        // SAFETY: the byte lies within the mapping, which is writable if `new` made it. No reference into the mapping exists, and
        // `Area` is not `Sync`, so no other thread writes at the same time.
        unsafe { byte.write_volatile(1) };
        Ok(())
    }

    fn part(&self, offset: usize, len: usize) -> nix::Result<*mut c_void> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if inside { Ok(self.start.as_ptr().wrapping_byte_add(offset)) } else { Err(Errno::EINVAL) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: this value owns the whole mapping, and nobody uses it after this. munmap fails only for arguments that mmap did not
        // return, so there is no error to handle.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// The size of an ordinary page, in bytes.
pub(super) fn page_size() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

/// The text of a file of /proc or /sys, without the newline at its end. `None` if the file cannot be read.
pub(super) fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

/// An address or length as the kernel's structures hold it. No Linux has pointers of more than 64 bits.
pub(super) fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_refuses_what_lies_outside_it() {
        let area = Area::new(2 * page_size()).unwrap();
        assert_eq!(area.touch(2 * page_size() - 1), Ok(()));
        assert_eq!(area.touch(2 * page_size()), Err(Errno::EINVAL));
        assert_eq!(area.advise(usize::MAX, 2, libc::MADV_NORMAL), Err(Errno::EINVAL));
        assert_eq!(Area::new(0).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn an_inaccessible_area_may_be_larger_than_any_memory() {
        let area = Area::inaccessible(1 << 40).unwrap();
        assert_eq!((area.address() + area.offset_aligned_to(1 << 21)) % (1 << 21), 0);
    }
}
