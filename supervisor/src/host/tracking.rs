//! Whether the pages that a block wrote can be found without touching all the others.
//!
//! For the record only: no worker does that yet. The reset after a block writes zeros over all memory that the block
//! had, which needs nothing of the host; what is found here tells where a reset of the written pages alone could run.
//!
//! It takes two things of Linux 6.7: the ioctl PAGEMAP_SCAN, and userfaultfd's asynchronous write protection.
//! Containers often refuse the second. Kernel documentation: admin-guide/mm/pagemap.rst and userfaultfd.rst; the
//! structures and numbers below are those of linux/fs.h and linux/userfaultfd.h, which libc does not have.

#![allow(unsafe_code, reason = "userfaultfd and PAGEMAP_SCAN are ioctls with structures of their own")]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::probe::{Area, page_size, setting, wide};
use super::{Finding, Level};

/// What either answer means for a worker of today.
const UNUSED: &str =
    "not used yet: after a block the reset writes over all memory that the block had, on any kernel";

const PAGES: usize = 16;
const WRITTEN: usize = 3;

const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;

const UFFD_API: u64 = 0xAA;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFD_USER_MODE_ONLY: i32 = 1;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
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

nix::ioctl_readwrite!(ioctl_scan, b'f', 16, ScanArg);
nix::ioctl_readwrite!(ioctl_uffd_api, 0xAA, 0x3F, UffdApi);
nix::ioctl_readwrite!(ioctl_uffd_register, 0xAA, 0x00, UffdRegister);

/// Whether pages can be counted and found by one call.
pub(super) fn pagemap_scan() -> Finding {
    let value = match try_scan() {
        Ok(()) => "PAGEMAP_SCAN works".into(),
        Err(error) => format!("PAGEMAP_SCAN fails: {error}"),
    };
    Finding::new("pagemap-scan", Level::Info, value, UNUSED)
}

fn try_scan() -> nix::Result<()> {
    let area = Area::new(PAGES * page_size())?;
    (0..WRITTEN).try_for_each(|page| area.touch(page * page_size()))?;
    expect_pages(scan(&area, PAGE_IS_PRESENT, 0)?)
}

/// Whether writes can be tracked, by really tracking some.
pub(super) fn userfaultfd() -> Finding {
    let sysctl = setting("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or_else(|| "missing".into());
    let tracked = open_userfaultfd().and_then(|(fd, way)| try_tracking(&fd).map(|()| way));
    let found = match tracked {
        Ok(way) => format!("write tracking works through {way}"),
        Err(error) => format!("write tracking fails: {error}"),
    };
    let value = format!("{found} (vm.unprivileged_userfaultfd={sysctl})");
    Finding::new("userfaultfd", Level::Info, value, UNUSED)
}

/// Opens a userfaultfd, and says by which way: the system call, which needs no privilege for faults of user mode
/// (5.11), or else the device (6.1), which a seccomp profile that refuses the call may still allow.
fn open_userfaultfd() -> nix::Result<(OwnedFd, &'static str)> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: userfaultfd takes flags only.
    let result = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    match owned(result) {
        Ok(fd) => Ok((fd, "userfaultfd(2)")),
        Err(refused) => open_device(flags).map(|fd| (fd, "/dev/userfaultfd")).map_err(|_| refused),
    }
}

fn open_device(flags: i32) -> nix::Result<OwnedFd> {
    // USERFAULTFD_IOC_NEW: no payload, the flags are the argument itself.
    let new = nix::request_code_none!(0xAA, 0x00);
    let device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/userfaultfd");
    let device = device.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: the ioctl takes flags only, and `device` is open during the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), new, libc::c_long::from(flags)) };
    owned(result.into())
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned it, not negative, so it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The steps that a reset of the written pages would take: protect, write, and ask what was written.
fn try_tracking(uffd: &OwnedFd) -> nix::Result<()> {
    let area = Area::new(PAGES * page_size())?;
    let features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
    let mut api = UffdApi { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: `api` is the structure that this ioctl reads and fills, alive during the call.
    unsafe { ioctl_uffd_api(uffd.as_raw_fd(), &raw mut api) }?;
    let (start, len) = (wide(area.address()), wide(PAGES * page_size()));
    let mut register = UffdRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: as above; the range is `area`, on which asynchronous protection blocks no access. The registration
    // ends when `uffd` is closed or `area` unmapped, whichever comes first.
    unsafe { ioctl_uffd_register(uffd.as_raw_fd(), &raw mut register) }?;
    scan(&area, PAGE_IS_WRITTEN, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC)?;
    (0..WRITTEN).try_for_each(|page| area.touch(page * page_size()))?;
    expect_pages(scan(&area, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC)?)
}

/// How many pages of the area are of the category.
fn scan(area: &Area, category: u64, flags: u64) -> nix::Result<usize> {
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let mut regions = [PageRegion::default(); PAGES];
    let mut arg = ScanArg {
        size: wide(size_of::<ScanArg>()),
        flags,
        start: wide(area.address()),
        end: wide(area.address() + PAGES * page_size()),
        vec: wide(regions.as_mut_ptr().expose_provenance()),
        vec_len: wide(regions.len()),
        category_mask: category,
        return_mask: category,
        ..ScanArg::default()
    };
    // SAFETY: `arg` is the structure that this ioctl reads and fills; `vec` and `vec_len` are `regions`, which
    // outlives the call and of which every bit pattern is valid.
    let filled = unsafe { ioctl_scan(pagemap.as_raw_fd(), &raw mut arg) }?;
    let filled = usize::try_from(filled).unwrap_or(0).min(regions.len());
    let bytes: u64 = regions[..filled].iter().map(|region| region.end.saturating_sub(region.start)).sum();
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX) / page_size())
}

/// A kernel that answers, but wrongly, is as good as one that lacks the call.
fn expect_pages(found: usize) -> nix::Result<()> {
    if found == WRITTEN { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<ScanArg>(), size_of::<PageRegion>()), (96, 24));
        assert_eq!((size_of::<UffdApi>(), size_of::<UffdRegister>()), (24, 32));
    }

    #[test]
    fn what_no_worker_uses_is_neither_praised_nor_warned_of() {
        for finding in [pagemap_scan(), userfaultfd()] {
            assert_eq!(finding.level, Level::Info);
            assert!(finding.meaning.starts_with("not used yet"), "{finding:?}");
        }
    }

    #[test]
    fn where_scanning_works_it_finds_what_was_touched() {
        match try_scan() {
            Ok(()) | Err(Errno::ENOTTY | Errno::EPERM | Errno::EACCES) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
