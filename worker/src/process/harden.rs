//! Hardening: the rights that a worker or a compiler gives up before it does anything else.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use thiserror::Error;

use super::stderr::log_stderr;

/// The most descriptors that a worker may have open at once: those of `descriptors`, the store's, and a few while it reads
/// `/proc`.
const MAX_DESCRIPTORS: u64 = 64;

/// Bytes of stack for the main thread, which is several times as much as a guest may use.
const STACK_BYTES: u64 = 8 << 20;

/// The kernel refused a hardening step.
#[derive(Debug, Error)]
#[error("hardening: {step}: {source}; if a seccomp profile refuses the call, allow it there")]
pub(crate) struct HardenError {
    step: &'static str,
    source: io::Error,
}

impl HardenError {
    /// The kernel refused to close the descriptors that the process was not given.
    pub(crate) fn descriptors(source: io::Error) -> Self {
        let step = "closing the descriptors that /proc/self/fd lists, as close_range is refused";
        Self { step, source }
    }
}

fn step(step: &'static str) -> impl Fn(Errno) -> HardenError {
    move |errno| HardenError { step, source: errno.into() }
}

/// Makes the kernel kill this process, called `name`, when its supervisor ends. Gives up new privileges and core dumps, and makes
/// this process the first choice of the kernel's out-of-memory killer. If only the last step is refused, the process writes a warning
/// and goes on.
///
/// # Errors
/// [`HardenError`] for the first other step that is refused.
pub(crate) fn apply(name: &str) -> Result<(), HardenError> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(step("asking to die with the supervisor (prctl PR_SET_PDEATHSIG)"))?;
    prctl::set_no_new_privs().map_err(step("giving up new privileges (prctl PR_SET_NO_NEW_PRIVS)"))?;
    ensure_stack().map_err(step("a stack of 8 MiB (prlimit64, ulimit -s)"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("no core dumps (prlimit64)"))?;
    setrlimit(Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS, MAX_DESCRIPTORS)
        .map_err(step("few descriptors (prlimit64)"))?;
    // When memory runs out, the kernel then kills this process and not the supervisor (proc_pid_oom_score_adj(5)).
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "1000") {
        log_stderr!(
            "{name}: /proc/self/oom_score_adj cannot be written ({error}): when memory runs out, the kernel may kill the \
             supervisor instead; mount /proc writable"
        );
    }
    Ok(())
}

/// Lets the stack of the main thread grow to the size that guests need, whatever limit the supervisor was started with. Guests run
/// on that stack. The kernel applies the limit when the stack grows, not when the process starts.
fn ensure_stack() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_STACK)?;
    if soft >= STACK_BYTES { Ok(()) } else { setrlimit(Resource::RLIMIT_STACK, STACK_BYTES, hard) }
}

/// Whether the supervisor is still the parent of this process. It may have ended before [`apply`] asked for a signal at its end.
pub(crate) fn supervisor_is_alive(supervisor: u32) -> bool {
    u32::try_from(getppid().as_raw()).is_ok_and(|parent| parent == supervisor)
}
