//! Starting a worker or compiler process: this executable again, with descriptors at fixed numbers and an empty environment.
//!
//! posix_spawn(3) starts it. The new process shares the supervisor's memory until it executes the program (glibc uses
//! `CLONE_VFORK`), so the cost of posix_spawn does not grow with the size of the supervisor. The cost of fork(2) grows with that
//! size.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cofferdam_protocol::descriptors::{FIRST_UNUSED, REPLIES, REQUESTS, Role};
use cofferdam_protocol::syscall_error;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, pipe2};

use super::orphans;

/// A process that was started, and the supervisor's ends of its pipes.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) requests: File,
    pub(super) replies: File,
}

/// Starts `executable` as `role`. The process gets `descriptors` at the given numbers, in addition to the two pipes.
///
/// The kernel kills the new process when the thread that called this ends (`PR_SET_PDEATHSIG`). So call this from a thread that
/// outlives the process.
pub(super) fn start(
    executable: &Path,
    role: Role,
    descriptors: &[(&dyn AsFd, RawFd)],
) -> io::Result<Started> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(syscall_error("pipe2"));
    let ((requests_theirs, requests), (replies, replies_theirs)) = (pipe()?, pipe()?);
    // Standard error is inherited: a worker that cannot report an error in another way writes it there.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut handed = vec![raise(&null, 0)?, raise(&null, 1)?];
    handed.push(raise(&requests_theirs, REQUESTS)?);
    handed.push(raise(&replies_theirs, REPLIES)?);
    for (descriptor, number) in descriptors {
        handed.push(raise(descriptor, *number)?);
    }
    let pid = orphans::starting(|| spawn(executable, role, &handed))?;
    Ok(Started { pid, requests: requests.into(), replies: replies.into() })
}

/// A copy of `descriptor` above all numbers that the process uses, so that moving one descriptor does not overwrite another that is
/// still to be moved.
fn raise(descriptor: &(impl AsFd + ?Sized), number: RawFd) -> io::Result<(OwnedFd, RawFd)> {
    let copy = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(FIRST_UNUSED))
        .map_err(syscall_error("fcntl(F_DUPFD_CLOEXEC)"))?;
    Ok((own(copy), number))
}

#[allow(unsafe_code, reason = "fcntl returns a number that nobody owns yet")]
fn own(number: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: F_DUPFD_CLOEXEC has just created this descriptor, and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn spawn(executable: &Path, role: Role, handed: &[(OwnedFd, RawFd)]) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    for (descriptor, number) in handed {
        actions.add_dup2(descriptor.as_raw_fd(), *number)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    // The process gets a process group of its own, so that Ctrl-C at a terminal goes only to the supervisor, which then drains.
    // And it gets the default handling of signals, whatever the embedding program ignores or blocks.
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&catchable())?;
    let path =
        CString::new(executable.as_os_str().as_bytes()).map_err(|_: NulError| io::ErrorKind::InvalidInput)?;
    let name = CString::new(role.process_name()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let argument = CString::new(role.argument()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let environment: [CString; 0] = [];
    posix_spawn(path.as_c_str(), &actions, &attributes, &[name, argument], &environment)
        .map_err(syscall_error("posix_spawn (clone3, setpgid, execve)"))
}

fn catchable() -> SigSet {
    Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)).collect()
}
