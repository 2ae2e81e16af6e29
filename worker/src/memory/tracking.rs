//! Tracking writes: the kernel reports which pages were written, so that a reset does not have to touch the others.
//!
//! This needs two features of Linux 6.7. Under userfaultfd's asynchronous write protection, the kernel lets the first write to a
//! protected page through and marks the page as written. The ioctl PAGEMAP_SCAN finds the marked pages. Containers often refuse
//! userfaultfd. Kernel documentation: admin-guide/mm/userfaultfd.rst and pagemap.rst. The structures and numbers below are those
//! of linux/userfaultfd.h and linux/fs.h, which libc does not have.
#![allow(unsafe_code, reason = "userfaultfd and PAGEMAP_SCAN are ioctls with structures of their own")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use thiserror::Error;

use super::open_memory::OpenMemory;
use super::page::page_bytes;
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

/// The most runs of written pages that one call reports. Each takes 24 bytes.
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

/// Why writes cannot be tracked on this host, or can no longer be tracked.
#[derive(Error)]
pub enum TrackingError {
    /// The kernel or a sandbox refuses userfaultfd, as in most containers.
    #[error("userfaultfd is refused ({0})")]
    Refused(Errno),
    /// The kernel is older than 6.7.
    #[error("this kernel has no asynchronous write protection ({0}): it came with Linux 6.7")]
    NotAsync(Errno),
    /// `/proc/self/pagemap` cannot be opened.
    #[error("/proc/self/pagemap: {0}")]
    Pagemap(io::Error),
    /// A system call failed.
    #[error("{call}: {errno}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// The calls succeed, but do not report the pages that were written.
    #[error("the kernel does not report the pages that were written")]
    Wrong,
}

cofferdam_protocol::debug_as_display!(TrackingError);

fn call(call: &'static str) -> impl Fn(Errno) -> TrackingError {
    move |errno| TrackingError::Call { call, errno }
}

/// Tracks writes to one reservation. A page that is not protected counts as written. All ranges are offsets in the reservation.
#[derive(Debug)]
pub(super) struct Tracker {
    uffd: OwnedFd,
    pagemap: File,
    /// Address of byte 0 of the reservation.
    base: usize,
    /// The buffer for the kernel's answers.
    runs: Vec<PageRegion>,
}

impl Tracker {
    /// Prepares `[0, bytes)` of `reservation` for tracking. Nothing is protected yet.
    pub(super) fn new(reservation: &Reservation, bytes: usize) -> Result<Self, TrackingError> {
        let mut tracker = Self::open()?;
        tracker.self_test()?;
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
        Ok(Self { uffd, pagemap, base: 0, runs: vec![PageRegion::default(); RUNS] })
    }

    /// Registers `[0, bytes)` of `reservation`, which is tracked from now on.
    fn register(&mut self, reservation: &Reservation, bytes: usize) -> Result<(), TrackingError> {
        let (base, bytes) = reservation.locate(0..bytes);
        self.base = base.addr().get();
        let (start, len) = (wide(self.base), wide(bytes));
        let mut register = UffdRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: `register` is the structure that this ioctl reads and fills. The range belongs to the reservation.
        // Asynchronous protection blocks no access. The registration ends with the descriptor or with the mapping.
        unsafe { ioctl_uffd_register(self.uffd.as_raw_fd(), &raw mut register) }
            .map(drop)
            .map_err(call("UFFDIO_REGISTER"))
    }

    /// Tries everything on a few pages. If a kernel reported the wrong pages, one block's writes would reach the next block.
    fn self_test(&mut self) -> Result<(), TrackingError> {
        const PAGES: usize = 4;
        let page = page_bytes();
        let all = 0..PAGES * page;
        let mut area = Reservation::new(all.end).map_err(|error| call("mmap")(errno_of(&error)))?;
        self.register(&area, all.end)?;
        let mut touch = |range: Range<usize>| match OpenMemory::open(&mut area, range) {
            Ok(mut memory) => {
                memory.touch();
                Ok(())
            }
            Err(error) => Err(call("mprotect")(errno_of(&error))),
        };
        touch(all.clone())?;
        self.protect(all.clone())?;
        self.expect_written(&all, None)?;
        touch(page..3 * page)?;
        self.expect_written(&all, Some(&(page..3 * page)))?;
        self.protect_written(all.clone())?;
        self.expect_written(&all, None)?;
        self.unprotect(0..page)?;
        self.expect_written(&all, Some(&(0..page)))
    }

    fn expect_written(
        &mut self,
        range: &Range<usize>,
        expected: Option<&Range<usize>>,
    ) -> Result<(), TrackingError> {
        let mut found = Vec::new();
        self.written(range.clone(), &mut |run| found.push(run))?;
        if found.iter().eq(expected) { Ok(()) } else { Err(TrackingError::Wrong) }
    }

    /// Protects `range`. From now on, [`Tracker::written`] finds a write to it.
    pub(super) fn protect(&self, range: Range<usize>) -> Result<(), TrackingError> {
        self.write_protect(range, UFFDIO_WRITEPROTECT_MODE_WP)
    }

    /// Ends the protection of `range`. Writes to it then cost nothing extra, and all of it counts as written.
    pub(super) fn unprotect(&self, range: Range<usize>) -> Result<(), TrackingError> {
        self.write_protect(range, 0)
    }

    fn write_protect(&self, range: Range<usize>, mode: u64) -> Result<(), TrackingError> {
        let (start, len) = (self.address(range.start), wide(range.len()));
        loop {
            let mut argument = UffdWriteProtect { start, len, mode };
            // SAFETY: `argument` is the structure that this ioctl reads. Asynchronous protection blocks no access, and the
            // kernel refuses a range that is not registered.
            match unsafe { ioctl_uffd_writeprotect(self.uffd.as_raw_fd(), &raw mut argument) } {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result.map(drop).map_err(call("UFFDIO_WRITEPROTECT")),
            }
        }
    }

    /// Protects the written pages of `range` again. If there are many, this is cheaper than protecting each one.
    pub(super) fn protect_written(&self, range: Range<usize>) -> Result<(), TrackingError> {
        let arg = self.scan_arg(&range, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC);
        scan(&self.pagemap, arg, &mut []).map(drop)
    }

    /// Calls `found` with each run of pages in `range` that were written or are not protected, in order.
    pub(super) fn written(
        &mut self,
        range: Range<usize>,
        found: &mut dyn FnMut(Range<usize>),
    ) -> Result<(), TrackingError> {
        let base = wide(self.base);
        let offset = |address: u64| usize::try_from(address - base).unwrap_or(usize::MAX);
        let mut rest = range;
        while !rest.is_empty() {
            let arg = self.scan_arg(&rest, PM_SCAN_CHECK_WPASYNC);
            let (filled, walk_end) = scan(&self.pagemap, arg, &mut self.runs)?;
            for run in &self.runs[..filled] {
                found(offset(run.start)..offset(run.end));
            }
            // When the buffer is full, `walk_end` can be lower than the end of the last reported run (seen on 6.18).
            let reported = self.runs[..filled].last().map_or(0, |run| run.end);
            let next = offset(walk_end.max(reported));
            if next <= rest.start {
                return Err(TrackingError::Wrong);
            }
            rest.start = next.min(rest.end);
        }
        Ok(())
    }

    fn scan_arg(&self, range: &Range<usize>, flags: u64) -> ScanArg {
        ScanArg {
            size: wide(size_of::<ScanArg>()),
            flags,
            start: self.address(range.start),
            end: self.address(range.end),
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArg::default()
        }
    }

    /// The address of a byte of the reservation, in the form of the kernel's structures.
    fn address(&self, offset: usize) -> u64 {
        wide(self.base + offset)
    }

    /// Replaces the descriptors, so that every call fails from now on.
    #[cfg(test)]
    pub(super) fn disable(&mut self, uffd: File, pagemap: File) {
        (self.uffd, self.pagemap) = (uffd.into(), pagemap);
    }
}

/// Makes one PAGEMAP_SCAN whose answer goes into `runs`. Returns the number of runs in it, and the address up to which the kernel
/// has searched.
fn scan(pagemap: &File, mut arg: ScanArg, runs: &mut [PageRegion]) -> Result<(usize, u64), TrackingError> {
    if !runs.is_empty() {
        arg.vec = wide(runs.as_mut_ptr().expose_provenance());
        arg.vec_len = wide(runs.len());
    }
    // SAFETY: `arg` is the structure that this ioctl reads and fills. Its `vec` is null, or `runs`, which is borrowed for the call
    // and of which every bit pattern is valid.
    let filled = unsafe { ioctl_scan(pagemap.as_raw_fd(), &raw mut arg) };
    let filled = filled.map_err(call("PAGEMAP_SCAN"))?;
    Ok((usize::try_from(filled).unwrap_or(0).min(runs.len()), arg.walk_end))
}

/// Tries on a few pages whether writes can be tracked on this host.
///
/// # Errors
/// The reason why they cannot.
pub fn probe() -> Result<(), TrackingError> {
    Tracker::open()?.self_test()
}

/// Opens a userfaultfd by the system call, which needs no privilege for faults of user mode (5.11). If that is refused, opens the
/// device (6.1): a seccomp profile that refuses the call may allow the device.
fn open_userfaultfd() -> nix::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: userfaultfd takes flags only.
    let result = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    // SAFETY: `result` comes from the call that makes a descriptor.
    unsafe { owned(result) }.or_else(|refused| open_device(flags).map_err(|_| refused))
}

fn open_device(flags: i32) -> nix::Result<OwnedFd> {
    // USERFAULTFD_IOC_NEW: no payload, the flags are the argument itself.
    let new = nix::request_code_none!(0xAA, 0x00);
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/userfaultfd");
    let device = device.map_err(|error| errno_of(&error))?;
    // SAFETY: the ioctl takes flags only, and `device` is open during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), new, libc::c_long::from(flags)) };
    // SAFETY: `result` comes from the ioctl that makes a descriptor.
    unsafe { owned(result.into()) }
}

/// Turns the result of a system call that makes a descriptor into that descriptor, or into the error.
///
/// # Safety
/// If `result` is not negative, it must be an open descriptor that nobody else owns.
unsafe fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the result is not negative, so the caller vouches for it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A number of bytes or an address, in the form of the kernel's structures. Linux has no pointers of more than 64 bits.
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
    fn more_runs_are_found_than_one_answer_holds() {
        const PAGES: usize = 3 * RUNS;
        let page = page_bytes();
        let mut area = Reservation::new(PAGES * page).unwrap();
        OpenMemory::open(&mut area, 0..PAGES * page).unwrap().touch();
        let mut tracker = match Tracker::new(&area, PAGES * page) {
            Ok(tracker) => tracker,
            Err(error) => return skip(format_args!("writes cannot be tracked here: {error}")),
        };
        tracker.protect(0..PAGES * page).unwrap();
        let written: Vec<_> = (0..PAGES).step_by(2).map(|at| at * page..(at + 1) * page).collect();
        for run in &written {
            OpenMemory::open(&mut area, run.clone()).unwrap().touch();
        }
        let mut found = Vec::new();
        tracker.written(0..PAGES * page, &mut |run| found.push(run)).unwrap();
        // There are thousands of runs, so the message does not print them.
        assert!(
            found == written,
            "{} runs, first {:?}, instead of {}",
            found.len(),
            found.first(),
            written.len()
        );
    }
}
