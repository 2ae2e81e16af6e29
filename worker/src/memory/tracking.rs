//! Asking the kernel which pages were written, so that a reset need not touch the others.
//!
//! It takes two things of Linux 6.7: userfaultfd's asynchronous write protection, under which the first write to a
//! page is let through by the kernel alone and remembered, and the ioctl PAGEMAP_SCAN, which finds the pages that
//! were. Containers often refuse the first. Kernel documentation: admin-guide/mm/userfaultfd.rst and pagemap.rst; the
//! structures and numbers below are those of linux/userfaultfd.h and linux/fs.h, which libc does not have.
#![allow(unsafe_code, reason = "userfaultfd and PAGEMAP_SCAN are ioctls with structures of their own")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use thiserror::Error;

use super::commit::page_bytes;
use super::reservation::Reservation;

const UFFD_API: u64 = 0xAA;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFD_USER_MODE_ONLY: i32 = 1;

const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// Runs of written pages that one call of the kernel reports; 24 bytes each.
const RUNS: usize = 4096;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct uffdio_api`.
#[repr(C)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct UffdRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct UffdWriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

nix::ioctl_readwrite!(ioctl_scan, b'f', 16, ScanArg);
nix::ioctl_readwrite!(ioctl_uffd_api, 0xAA, 0x3F, UffdApi);
nix::ioctl_readwrite!(ioctl_uffd_register, 0xAA, 0x00, UffdRegister);
nix::ioctl_readwrite!(ioctl_uffd_writeprotect, 0xAA, 0x06, UffdWriteProtect);

/// Why writes cannot be tracked here, or no longer.
#[derive(Error)]
pub enum TrackingError {
    /// No userfaultfd may be had: as in most containers.
    #[error("userfaultfd is refused ({0})")]
    Refused(Errno),
    /// The kernel is older than 6.7.
    #[error("this kernel has no asynchronous write protection ({0}): it came with Linux 6.7")]
    NotAsync(Errno),
    /// `/proc/self/pagemap` cannot be opened.
    #[error("/proc/self/pagemap: {0}")]
    Pagemap(io::Error),
    /// One of the calls failed.
    #[error("{call}: {errno}")]
    Call {
        /// Its name.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The calls work, but say something else than what was written.
    #[error("the kernel does not report what was written")]
    Wrong,
}

cofferdam_protocol::debug_as_display!(TrackingError);

fn call(call: &'static str) -> impl Fn(Errno) -> TrackingError {
    move |errno| TrackingError::Call { call, errno }
}

/// Tracks writes to one reservation. A page that is not protected counts as written.
#[derive(Debug)]
pub(super) struct Tracker {
    uffd: OwnedFd,
    pagemap: File,
    /// Where the kernel puts its answers.
    runs: Vec<PageRegion>,
}

impl Tracker {
    /// Makes `[0, bytes)` of `reservation` one whose writes can be tracked; nothing is protected yet.
    pub(super) fn new(reservation: &Reservation, bytes: usize) -> Result<Self, TrackingError> {
        let mut tracker = Self::open()?;
        tracker.prove()?;
        tracker.register(reservation, bytes)?;
        Ok(tracker)
    }

    fn open() -> Result<Self, TrackingError> {
        let uffd = open_userfaultfd().map_err(TrackingError::Refused)?;
        let features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
        let mut api = UffdApi { api: UFFD_API, features, ioctls: 0 };
        // SAFETY: `api` is the structure that this ioctl reads and fills, alive during the call.
        unsafe { ioctl_uffd_api(uffd.as_raw_fd(), &raw mut api) }.map_err(TrackingError::NotAsync)?;
        let pagemap = File::open("/proc/self/pagemap").map_err(TrackingError::Pagemap)?;
        Ok(Self { uffd, pagemap, runs: vec![PageRegion::default(); RUNS] })
    }

    fn register(&self, reservation: &Reservation, bytes: usize) -> Result<(), TrackingError> {
        let (start, len) = (address(reservation, 0), wide(bytes));
        let mut register = UffdRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: as in `open`; the range is the reservation's own. Asynchronous protection blocks no access. The
        // registration ends with the descriptor or the mapping, whichever goes first.
        unsafe { ioctl_uffd_register(self.uffd.as_raw_fd(), &raw mut register) }
            .map(drop)
            .map_err(call("UFFDIO_REGISTER"))
    }

    /// Tries it all on a few pages: a kernel that answers, but wrongly, would hand one block's writes to the next.
    fn prove(&mut self) -> Result<(), TrackingError> {
        const PAGES: usize = 4;
        let page = page_bytes();
        let area = Reservation::new(PAGES * page).map_err(|error| call("mmap")(errno_of(&error)))?;
        area.open(0..PAGES * page).map_err(|error| call("mprotect")(errno_of(&error)))?;
        self.register(&area, PAGES * page)?;
        area.touch(0..PAGES * page, page);
        self.protect(&area, 0..PAGES * page)?;
        let expect = |tracker: &mut Self, expected: Option<Range<usize>>| {
            let mut found = Vec::new();
            tracker.written(&area, 0..PAGES * page, &mut |run| found.push(run))?;
            if found.iter().eq(&expected) { Ok(()) } else { Err(TrackingError::Wrong) }
        };
        expect(self, None)?;
        area.touch(page..3 * page, page);
        expect(self, Some(page..3 * page))?;
        self.protect_written(&area, 0..PAGES * page)?;
        expect(self, None)?;
        self.unprotect(&area, 0..page)?;
        expect(self, Some(0..page))
    }

    /// Protects `range`: from now on a write to it is found by [`Tracker::written`].
    pub(super) fn protect(&self, on: &Reservation, range: Range<usize>) -> Result<(), TrackingError> {
        self.write_protect(on, range, UFFDIO_WRITEPROTECT_MODE_WP)
    }

    /// Ends the protection of `range`: writes to it cost nothing, and all of it counts as written.
    pub(super) fn unprotect(&self, on: &Reservation, range: Range<usize>) -> Result<(), TrackingError> {
        self.write_protect(on, range, 0)
    }

    fn write_protect(&self, on: &Reservation, range: Range<usize>, mode: u64) -> Result<(), TrackingError> {
        let (start, len) = (address(on, range.start), wide(range.len()));
        loop {
            let mut argument = UffdWriteProtect { start, len, mode };
            // SAFETY: as in `register`; the structure is the one that this ioctl reads.
            match unsafe { ioctl_uffd_writeprotect(self.uffd.as_raw_fd(), &raw mut argument) } {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result.map(drop).map_err(call("UFFDIO_WRITEPROTECT")),
            }
        }
    }

    /// Protects again those pages of `range` that were written: cheaper than protecting each when there are many.
    pub(super) fn protect_written(&self, on: &Reservation, range: Range<usize>) -> Result<(), TrackingError> {
        let mut arg = scan_arg(on, &range, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC);
        self.scan(&mut arg).map(drop)
    }

    /// Calls `found` with each run of pages in `range` that were written or are not protected, in order.
    pub(super) fn written(
        &mut self,
        on: &Reservation,
        range: Range<usize>,
        found: &mut dyn FnMut(Range<usize>),
    ) -> Result<(), TrackingError> {
        let base = address(on, 0);
        let offset = |address: u64| usize::try_from(address - base).unwrap_or(usize::MAX);
        let mut rest = range;
        while !rest.is_empty() {
            let mut arg = scan_arg(on, &rest, PM_SCAN_CHECK_WPASYNC);
            arg.vec = wide(self.runs.as_mut_ptr().expose_provenance());
            arg.vec_len = wide(self.runs.len());
            let filled = self.scan(&mut arg)?.min(self.runs.len());
            for run in &self.runs[..filled] {
                found(offset(run.start)..offset(run.end));
            }
            // Where the answer has no more room `walk_end` can lag behind what was reported (seen on 6.18).
            let reported = self.runs[..filled].last().map_or(0, |run| run.end);
            let next = offset(arg.walk_end.max(reported));
            if next <= rest.start {
                return Err(TrackingError::Wrong);
            }
            rest.start = next.min(rest.end);
        }
        Ok(())
    }

    /// Replaces its descriptors, so that every call fails from now on.
    #[cfg(test)]
    pub(super) fn break_off(&mut self, uffd: File, pagemap: File) {
        (self.uffd, self.pagemap) = (uffd.into(), pagemap);
    }

    fn scan(&self, arg: &mut ScanArg) -> Result<usize, TrackingError> {
        // SAFETY: `arg` is the structure that this ioctl reads and fills. Its `vec` is null, or `runs` of this
        // tracker, which outlives the call and of which every bit pattern is valid.
        let filled = unsafe { ioctl_scan(self.pagemap.as_raw_fd(), &raw mut *arg) };
        let filled = filled.map_err(call("PAGEMAP_SCAN"))?;
        Ok(usize::try_from(filled).unwrap_or(0))
    }
}

/// Tries whether writes can be tracked on this host, on a few pages.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), TrackingError> {
    Tracker::open()?.prove()
}

fn scan_arg(on: &Reservation, range: &Range<usize>, flags: u64) -> ScanArg {
    ScanArg {
        size: wide(size_of::<ScanArg>()),
        flags,
        start: address(on, range.start),
        end: address(on, range.end),
        category_mask: PAGE_IS_WRITTEN,
        return_mask: PAGE_IS_WRITTEN,
        ..ScanArg::default()
    }
}

/// Opens a userfaultfd: by the system call, which needs no privilege for faults of user mode (5.11), or else by the
/// device (6.1), which a seccomp profile that refuses the call may still allow.
fn open_userfaultfd() -> nix::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: userfaultfd takes flags only.
    let result = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    owned(result).or_else(|refused| open_device(flags).map_err(|_| refused))
}

fn open_device(flags: i32) -> nix::Result<OwnedFd> {
    // USERFAULTFD_IOC_NEW: no payload, the flags are the argument itself.
    let new = nix::request_code_none!(0xAA, 0x00);
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/userfaultfd");
    let device = device.map_err(|error| errno_of(&error))?;
    // SAFETY: the ioctl takes flags only, and `device` is open during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), new, libc::c_long::from(flags)) };
    owned(result.into())
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned it, not negative, so it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The address of a byte of a reservation, as the kernel's structures hold it.
fn address(on: &Reservation, offset: usize) -> u64 {
    wide(on.base().as_ptr().addr() + offset)
}

/// No Linux has pointers of more than 64 bits.
fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use cofferdam_test_skips::skip;

    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<ScanArg>(), size_of::<PageRegion>()), (96, 24));
        assert_eq!(
            (size_of::<UffdApi>(), size_of::<UffdRegister>(), size_of::<UffdWriteProtect>()),
            (24, 32, 24)
        );
    }

    #[test]
    fn where_tracking_works_it_finds_more_runs_than_one_answer_holds() {
        const PAGES: usize = 3 * RUNS;
        let page = page_bytes();
        let area = Reservation::new(PAGES * page).unwrap();
        area.open(0..PAGES * page).unwrap();
        area.touch(0..PAGES * page, page);
        let mut tracker = match Tracker::new(&area, PAGES * page) {
            Ok(tracker) => tracker,
            Err(error) => return skip(format_args!("writes cannot be tracked here: {error}")),
        };
        tracker.protect(&area, 0..PAGES * page).unwrap();
        let written: Vec<_> = (0..PAGES).step_by(2).map(|at| at * page..(at + 1) * page).collect();
        for run in &written {
            area.touch(run.clone(), page);
        }
        let mut found = Vec::new();
        tracker.written(&area, 0..PAGES * page, &mut |run| found.push(run)).unwrap();
        // Not printed whole: there are thousands.
        assert!(
            found == written,
            "{} runs, first {:?}, instead of {}",
            found.len(),
            found.first(),
            written.len()
        );
    }
}
