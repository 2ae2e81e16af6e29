//! The kernel's version, and the calls without which a worker starts slower or its input cannot be protected.

#![allow(unsafe_code, reason = "close_range has no wrapper in nix")]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::probe::{Area, page_size, setting};
use super::report::{Finding, Level};

/// The kernel's version, as information.
pub(super) fn version() -> Finding {
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into());
    let meaning =
        "Linux 5.14 has every feature that is used here; the other lines tell what this kernel can do";
    Finding::new("kernel", Level::Info, format!("Linux {release}"), meaning)
}

/// Whether a call that reports refusals can commit memory.
pub(super) fn populate() -> Finding {
    let topic = "populate-write";
    match try_populate() {
        Ok(()) => {
            let meaning = "one call commits memory and reports a refusal";
            Finding::new(topic, Level::Good, "MADV_POPULATE_WRITE works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Warning,
            format!("MADV_POPULATE_WRITE fails: {error}"),
            "workers commit memory by writing to every page, which is slower: use Linux 5.14 or later, and a seccomp profile \
             that allows the call",
        ),
    }
}

fn try_populate() -> nix::Result<()> {
    let len = 4 * page_size();
    Area::new(len)?.advise(0, len, libc::MADV_POPULATE_WRITE)
}

/// Whether the input arena can be read-only for the worker.
pub(super) fn memfd_seals() -> Finding {
    let topic = "memfd-seals";
    match try_future_write_seal() {
        Ok(()) => {
            let meaning = "workers cannot write to their input";
            Finding::new(topic, Level::Good, "F_SEAL_FUTURE_WRITE works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Bad,
            format!("F_SEAL_FUTURE_WRITE fails: {error}"),
            "the input of a worker cannot be protected from the worker: use Linux 5.1 or later",
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

/// Whether one call can close every descriptor that a worker inherited.
pub(super) fn close_range() -> Finding {
    let topic = "close-range";
    match try_close_range() {
        Ok(()) => {
            let meaning = "one call closes the descriptors that a worker inherited";
            Finding::new(topic, Level::Good, "close_range works", meaning)
        }
        Err(error) => Finding::new(
            topic,
            Level::Warning,
            format!("close_range fails: {error}"),
            "workers close inherited descriptors one by one, which is slower: use Linux 5.9 or later, and a seccomp profile that \
             allows the call",
        ),
    }
}

fn try_close_range() -> nix::Result<()> {
    let none = libc::c_uint::MAX;
    // SAFETY: the kernel never gives out descriptors above the range of `int`, so the range is empty.
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
