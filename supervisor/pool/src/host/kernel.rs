//! The kernel itself, and the calls without which a worker commits slower or cannot be shut in.

#![allow(unsafe_code, reason = "close_range has no wrapper in nix")]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::probe::{Area, page_size, setting};
use super::{Finding, Level};

/// Which kernel this is: for the record.
pub(super) fn version() -> Finding {
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into());
    let meaning = "Linux 5.14 has everything that is used here; what this one can do was tried";
    Finding::new("kernel", Level::Info, format!("Linux {release}"), meaning)
}

/// Whether memory can be committed by a call that reports refusals.
pub(super) fn populate() -> Finding {
    let topic = "populate-write";
    match try_populate() {
        Ok(()) => {
            let meaning = "memory is committed by one call, which reports a refusal";
            Finding::new(topic, Level::Good, "MADV_POPULATE_WRITE works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Warning,
            format!("MADV_POPULATE_WRITE fails: {error}"),
            "memory is committed by writing to every page, which is slower; Linux 5.14 or later, or a seccomp profile \
             that allows it, avoids that",
        ),
    }
}

fn try_populate() -> nix::Result<()> {
    let len = 4 * page_size();
    Area::new(len)?.advise(0, len, libc::MADV_POPULATE_WRITE)
}

/// Whether the input arena can be made read-only for the worker.
pub(super) fn memfd_seals() -> Finding {
    let topic = "memfd-seals";
    match try_future_write_seal() {
        Ok(()) => {
            let meaning = "workers get their input read-only and cannot undo that";
            Finding::new(topic, Level::Good, "F_SEAL_FUTURE_WRITE works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Bad,
            format!("F_SEAL_FUTURE_WRITE fails: {error}"),
            "the memory through which blocks reach a worker cannot be protected from it: use Linux 5.1 or later",
        ),
    }
}

/// Seals an empty memfd, and checks that the seal holds.
fn try_future_write_seal() -> nix::Result<()> {
    let fd: OwnedFd = memfd_create(c"cofferdam-doctor", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE))?;
    match File::from(fd).write_all(b"x") {
        Ok(()) => Err(Errno::EOPNOTSUPP),
        Err(_) => Ok(()),
    }
}

/// Whether a worker can close what it inherited by one call.
pub(super) fn close_range() -> Finding {
    let topic = "close-range";
    match try_close_range() {
        Ok(()) => {
            let meaning = "workers drop inherited descriptors by one call";
            Finding::new(topic, Level::Good, "close_range works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Warning,
            format!("close_range fails: {error}"),
            "workers must close inherited descriptors one by one; Linux 5.9 or later, or a seccomp profile that \
             allows the call, avoids that",
        ),
    }
}

fn try_close_range() -> nix::Result<()> {
    let none = libc::c_uint::MAX;
    // SAFETY: the kernel never hands out descriptors above `int`'s range, so the range is empty.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, none, none, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_to_close_a_range_closes_nothing() {
        let file = File::open("/proc/self/status").unwrap();
        let _ = try_close_range();
        assert!(file.metadata().is_ok());
    }
}
