//! The descriptors that this process was started with, as owned values.
#![allow(unsafe_code, reason = "takes ownership of inherited descriptors, and closes all others")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use cofferdam_protocol::descriptors::{FIRST_UNUSED, Role};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// The descriptors that the supervisor gave to this process. Each can be taken once.
#[derive(Debug)]
pub(crate) struct Inherited(Vec<(RawFd, OwnedFd)>);

impl Inherited {
    /// Takes ownership of the descriptors of `role` that are open, and closes every descriptor from [`FIRST_UNUSED`] on. Also
    /// returns whether the kernel let it close them.
    ///
    /// # Safety
    /// From here on, nothing else in this process may use a descriptor of `role`, or a descriptor from [`FIRST_UNUSED`] on that
    /// is open now.
    pub(crate) unsafe fn take_over(role: Role) -> (Self, io::Result<()>) {
        // SAFETY: the caller vouches that nothing else uses the descriptors.
        let closed = unsafe { close_from(FIRST_UNUSED) };
        // SAFETY: the caller vouches that nothing else uses the descriptors, and each number of a role is there once.
        let taken = |number: &RawFd| unsafe { own_if_open(*number) }.map(|descriptor| (*number, descriptor));
        (Self(role.descriptors().iter().filter_map(taken).collect()), closed)
    }

    /// The descriptor `number`; none if the process was started without it, or it was taken before.
    pub(crate) fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(taken, _)| *taken == number)?;
        Some(self.0.swap_remove(at).1)
    }

    /// As [`Inherited::take`], as a file to read or write.
    pub(crate) fn take_file(&mut self, number: RawFd) -> Option<File> {
        self.take(number).map(File::from)
    }
}

/// The descriptor `number`; none if it is not open.
///
/// # Safety
/// If the descriptor is open, nobody else may own or use it.
unsafe fn own_if_open(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the call only asks for flags, and fails if the descriptor is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD).ok()?;
    // SAFETY: the descriptor is open, and the caller vouches that nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` on.
///
/// # Safety
/// Nobody may use these descriptors afterwards.
unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller vouches that nobody uses the descriptors afterwards.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), u32::MAX, 0) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        // A kernel before 5.9 returns ENOSYS. A seccomp profile that does not know the call returns EPERM (Docker before
        // 20.10.6). Any other error would also occur when the descriptors are closed one by one.
        // SAFETY: as above.
        Err(_) => unsafe { close_listed_from(first) },
    }
}

/// As [`close_from`], one by one, by the list in /proc.
///
/// # Safety
/// As for [`close_from`].
unsafe fn close_listed_from(first: RawFd) -> io::Result<()> {
    let listed: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= first)
        .collect();
    for number in listed {
        // SAFETY: the caller vouches that nobody uses the descriptors afterwards. One of them was the directory itself, which
        // is closed by now, so the result is ignored.
        let _ = unsafe { libc::close(number) };
    }
    Ok(())
}
