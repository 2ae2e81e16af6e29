//! Hardening: what a process of ours gives up before it does anything else, step by step.
#![allow(unsafe_code, reason = "close_range(2)")]

use std::fs;
use std::io;

use cofferdam_protocol::descriptors::FIRST_UNUSED;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use thiserror::Error;

use crate::complaint::complain;

/// Descriptors that a worker may have open at once: those of `descriptors`, the store's, and a few while it reads
/// `/proc`.
const MAX_DESCRIPTORS: u64 = 64;

/// Bytes of stack for the main thread: several times what a guest may use.
const STACK_BYTES: u64 = 8 << 20;

/// A step that the kernel refused.
#[derive(Debug, Error)]
#[error("hardening: {step}: {source}; if a seccomp profile refuses the call, allow it there")]
pub(crate) struct HardenError {
    step: &'static str,
    source: io::Error,
}

fn step(step: &'static str) -> impl Fn(Errno) -> HardenError {
    move |errno| HardenError { step, source: errno.into() }
}

/// Closes every descriptor that the process was not given on purpose. First of all, and before any file is opened.
pub(crate) fn close_other_descriptors() -> Result<(), HardenError> {
    let first = FIRST_UNUSED.unsigned_abs();
    // SAFETY: closes descriptors that nothing in this process owns yet: it is the first thing that `init` does.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        // ENOSYS of a kernel before 5.9; EPERM of a seccomp profile that does not know the call (Docker before 20.10.6). It
        // has no other error that one by one would have not.
        Err(_) => close_listed().map_err(|source| HardenError {
            step: "closing the descriptors that /proc/self/fd lists, as close_range is refused",
            source,
        }),
    }
}

fn close_listed() -> io::Result<()> {
    let listed: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST_UNUSED)
        .collect();
    for number in listed {
        // SAFETY: as above. One of them was the directory itself, closed by now, so the result says nothing.
        let _ = unsafe { libc::close(number) };
    }
    Ok(())
}

/// Ties this process's life to its supervisor's, and gives up privileges, core dumps and protection from the kernel's
/// out-of-memory killer. The last is a precaution, so where it is refused, the process, called `name`, says so and goes on.
///
/// # Errors
/// [`HardenError`] for the first step that is refused.
pub(crate) fn apply(name: &str) -> Result<(), HardenError> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(step("asking to die with the supervisor (prctl PR_SET_PDEATHSIG)"))?;
    prctl::set_no_new_privs().map_err(step("giving up new privileges (prctl PR_SET_NO_NEW_PRIVS)"))?;
    ensure_stack().map_err(step("a stack of 8 MiB (prlimit64, ulimit -s)"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("no core dumps (prlimit64)"))?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS, MAX_DESCRIPTORS)
        .map_err(step("few descriptors (prlimit64)"))?;
    // So that the kernel, short of memory, picks this process and never the supervisor (proc_pid_oom_score_adj(5)).
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "1000") {
        complain!(
            "{name}: /proc/self/oom_score_adj cannot be written ({error}): when memory runs out, the kernel may pick the \
             supervisor; mount /proc writable"
        );
    }
    Ok(())
}

/// Lets the stack of the main thread, which guests run on, grow to what they are promised, whatever the supervisor was
/// started with. The kernel asks for the limit when the stack grows, not when the process starts.
fn ensure_stack() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    if soft >= STACK_BYTES { Ok(()) } else { setrlimit(Resource::RLIMIT_STACK, STACK_BYTES, hard) }
}

/// Whether the supervisor is still the parent. It may have ended before this process asked to be told.
pub(crate) fn supervisor_is_alive(supervisor: u32) -> bool {
    u32::try_from(getppid().as_raw()).is_ok_and(|parent| parent == supervisor)
}
