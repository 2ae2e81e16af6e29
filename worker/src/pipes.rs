//! The descriptors that a process of ours was started with, as owned values.
#![allow(unsafe_code, reason = "takes ownership of inherited descriptors")]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Takes over the inherited descriptor `number`; none if the process was started without it.
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only asks for flags; the descriptor is not used otherwise before it is known to be open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD).ok()?;
    // SAFETY: it is open, and each number of `descriptors` is taken once, by the role that it belongs to, before
    // anything else of this process could have opened a file.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// As [`inherited`], as a file to read or write.
pub(crate) fn inherited_file(number: RawFd) -> Option<File> {
    inherited(number).map(File::from)
}
