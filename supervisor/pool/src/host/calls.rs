//! The system calls that a worker's start needs. A seccomp profile that is older than a call refuses it.

#![allow(unsafe_code, reason = "prctl(PR_GET_PDEATHSIG) and mincore have no wrappers in nix")]

use std::io;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::pipe2;

use super::probe::{Area, page_size};
use super::report::{Finding, Level};

/// The name of a call, and an attempt at the call that changes nothing.
type Probe = (&'static str, fn() -> io::Result<()>);

const NEEDED: [Probe; 6] = [
    ("memfd_create", || Ok(memfd_create(c"cofferdam-doctor", MFdFlags::MFD_CLOEXEC).map(drop)?)),
    ("pipe2", || Ok(pipe2(OFlag::O_CLOEXEC).map(drop)?)),
    ("eventfd2", || Ok(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).map(drop)?)),
    ("prctl", || Ok(prctl::get_no_new_privs().map(drop)?)),
    ("prlimit64", || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        Ok(setrlimit(Resource::RLIMIT_CORE, soft, hard)?)
    }),
    ("clone3", || {
        let thread = thread::Builder::new().spawn(|| ())?;
        thread.join().map_err(|_| io::ErrorKind::Other.into())
    }),
];

/// Whether processes, threads, pipes and shared memory can be created as a start creates them.
pub(super) fn needed() -> Finding {
    let topic = "start-calls";
    let refused: Vec<_> = NEEDED
        .iter()
        .filter_map(|(name, attempt)| attempt().err().map(|error| format!("{name} ({error})")))
        .collect();
    if refused.is_empty() {
        let names = NEEDED.map(|(name, _)| name).join(", ");
        return Finding::new(topic, Level::Good, format!("{names} work"), "workers can be started");
    }
    let meaning = "no worker can be started without these calls: allow them in the seccomp profile, or update the container \
                   runtime whose default profile refuses them";
    Finding::new(topic, Level::Bad, format!("refused: {}", refused.join(", ")), meaning)
}

/// Whether one call tells which pages are resident.
pub(super) fn mincore() -> Finding {
    let topic = "mincore";
    match try_mincore() {
        Ok(()) => {
            Finding::new(topic, Level::Good, "works", "one call proves that committed memory is resident")
        }
        Err(error) => Finding::new(
            topic,
            Level::Info,
            format!("fails: {error}"),
            "reading /proc/self/pagemap proves that committed memory is resident, which takes somewhat longer",
        ),
    }
}

fn try_mincore() -> nix::Result<()> {
    let area = Area::new(page_size())?;
    let mut answer = 0u8;
    let address = std::ptr::without_provenance_mut(area.address());
    // SAFETY: mincore only reads the page tables of a mapping that this process owns, and writes one byte for its one page.
    Errno::result(unsafe { libc::mincore(address, page_size(), &raw mut answer) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_calls_work_where_tests_run() {
        let finding = needed();
        assert_eq!(finding.level, Level::Good, "{finding:?}");
        assert_eq!(mincore().level, Level::Good);
    }
}
