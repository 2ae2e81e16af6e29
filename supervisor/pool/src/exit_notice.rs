//! Early notice of a worker's end, while the kernel is still freeing the worker's memory.
//!
//! The kernel first frees the memory of a process that ends, which takes a tenth of a second or more for 4 GiB. Only then does it
//! close the pipes and tell the parent (`do_exit` in kernel/exit.c: `exit_mm` comes before `exit_files` and `exit_notify`; a
//! pidfd waits for the latter too). Before all of that, the kernel releases the robust futexes of the process, among them the
//! liveness lock ([`cofferdam_protocol::status`]). At that time the exit status is settled, and /proc shows it.
//!
//! The lock lies in memory that the worker can write. So a released lock is only a hint to ask the kernel. Only the kernel's
//! report on the process counts.
#![allow(unsafe_code, reason = "futex(2)")]

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::worker::Worker;
use crate::host::proc_file::{Stat, has_signal};

/// How often to check whether the process has ended without releasing the lock: a worker may have overwritten the lock.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// `PF_EXITING` of include/linux/sched.h, in the flags of /proc/PID/stat.
const EXITING: u64 = 4;

/// Waits until a worker that has said hello is ending. Returns the wait status if /proc shows that status before the worker is
/// reaped, and none otherwise. Returns at once if the worker does not hold its lock.
pub(super) fn wait(worker: &Worker) -> Option<WaitStatus> {
    let word = worker.status.liveness_word();
    let holder = worker.pid().as_raw().unsigned_abs();
    while word.load(Ordering::Acquire) & libc::FUTEX_TID_MASK == holder {
        // The kernel wakes nobody unless the word says that somebody waits.
        let waited = word.fetch_or(libc::FUTEX_WAITERS, Ordering::AcqRel) | libc::FUTEX_WAITERS;
        if waited & libc::FUTEX_TID_MASK == holder {
            sleep_while(word, waited);
        }
        if has_ended(worker.pid()) {
            return None;
        }
    }
    ending_status(worker.pid())
}

/// Sleeps until the word is no longer `value`, somebody wakes this thread, or the check interval is over.
fn sleep_while(word: &AtomicU32, value: u32) {
    let timeout = libc::timespec { tv_sec: CHECK_INTERVAL.as_secs().cast_signed(), tv_nsec: 0 };
    // SAFETY: futex(2) reads the word, which is mapped, and the timeout, and writes neither. The caller reads the word again
    // whatever the call returns. The call is not FUTEX_PRIVATE, because two processes share the word.
    let _ =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout) };
}

/// Whether the process has ended. It remains to be reaped.
fn has_ended(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive))
}

/// Whether nobody has killed the process yet: it is not ending, and no SIGKILL is pending. False if /proc does not tell.
pub(super) fn is_untouched(pid: Pid) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    // The pending signals are read first. A process that has taken SIGKILL off its pending signals exits next, and the second
    // file shows that.
    let is_untouched = || Some(!is_kill_pending(&read("status")?)? && !is_exiting(&read("stat")?)?);
    is_untouched().unwrap_or(false)
}

/// Whether SIGKILL is among the pending signals in /proc/PID/status.
fn is_kill_pending(status: &str) -> Option<bool> {
    let is_pending = |name| has_signal(status, name, Signal::SIGKILL);
    Some(is_pending("SigPnd")? | is_pending("ShdPnd")?)
}

/// Whether the process has executed its last instruction, by a line of /proc/PID/stat.
fn is_exiting(stat: &str) -> Option<bool> {
    let stat = Stat::parse(stat)?;
    Some(stat.field::<u64>(9)? & EXITING != 0 || matches!(stat.field(3)?, 'Z' | 'X'))
}

/// The wait status of a process that has executed its last instruction. None if the process has not, or if /proc does not tell.
fn ending_status(pid: Pid) -> Option<WaitStatus> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    WaitStatus::from_raw(pid, parse_status(&stat)?).ok()
}

/// The wait status in a line of /proc/PID/stat: its last field. The field reads 0 for a process without the right to see it.
fn parse_status(stat: &str) -> Option<i32> {
    let stat = Stat::parse(stat)?;
    let is_exiting = stat.field::<u64>(9)? & EXITING != 0;
    let status = stat.field(52)?;
    (is_exiting && status != 0).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of a process with these flags and this exit status, and a name that could confuse a parser.
    fn line(flags: u64, status: i32) -> String {
        let between = "0 ".repeat(42);
        format!("7 (a) R 1 (b) S 1 7 7 0 -1 {flags} {between}{status}\n")
    }

    #[test]
    fn the_status_counts_only_when_the_process_is_exiting() {
        assert_eq!(parse_status(&line(0x40_0004, 9)), Some(9));
        assert_eq!(parse_status(&line(0x40_0000, 9)), None, "it was stopped, say");
        assert_eq!(parse_status(&line(4, 0)), None, "it may be hidden");
        assert_eq!(parse_status("7 (x) S 1"), None);
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn a_process_is_untouched_until_it_is_killed_or_ends() {
        assert!(is_untouched(Pid::this()));
        assert!(!is_untouched(Pid::from_raw(i32::MAX)), "it is not there");
        let status = |own: &str, shared: &str| format!("Name:\tx\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        assert_eq!(is_kill_pending(&status("0000000000000000", "0000000000000000")), Some(false));
        assert_eq!(is_kill_pending(&status("0000000000000100", "0000000000000000")), Some(true));
        assert_eq!(is_kill_pending(&status("0000000000000000", "0000000000004100")), Some(true));
        assert_eq!(is_kill_pending("Name:\tx\n"), None);
        assert_eq!((is_exiting(&line(EXITING, 9)), is_exiting(&line(0, 0))), (Some(true), Some(false)));
        assert_eq!(is_exiting("7 (x) Z 1 7 7 0 -1 0"), Some(true));
    }

    #[test]
    fn the_line_of_a_real_process_has_these_fields() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(Stat::parse(&stat).unwrap().last(), 52);
        assert_eq!(ending_status(Pid::this()), None);
    }
}
