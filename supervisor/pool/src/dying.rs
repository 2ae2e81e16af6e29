//! Learning of a worker's end while the kernel still frees its memory.
//!
//! A process that ends is first cut off from its memory, which for 4 GiB takes a tenth of a second and more, and only then
//! are its pipes closed and its parent told (`do_exit` in kernel/exit.c: `exit_mm` before `exit_files` and
//! `exit_notify`; a pidfd waits for the latter too). Before either, the kernel lets go of its robust futexes, among
//! them the life lock ([`cofferdam_protocol::status`]). By then its exit status is settled, and /proc tells it.
//!
//! The lock lies in memory that the worker can write, so its word is only a hint to look: what counts is what the kernel
//! says of the process.
#![allow(unsafe_code, reason = "futex(2)")]

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::worker::Worker;

/// How often it is asked whether the process has ended by other means: a worker that has overwritten the lock.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// `PF_EXITING` of include/linux/sched.h, in the flags of /proc/PID/stat.
const EXITING: u64 = 4;

/// Waits until a worker that has said hello is ending, and says how, if that can be told before it is reaped. None
/// at once if it does not hold its lock, and none if it is ending in a way that does not show.
pub(super) fn await_notice(worker: &Worker) -> Option<WaitStatus> {
    let word = worker.status.life_word();
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

/// Sleeps until the word is no longer `value`, somebody wakes it, or it is time to look again.
fn sleep_while(word: &AtomicU32, value: u32) {
    let timeout = libc::timespec { tv_sec: LOOK_AGAIN.as_secs().cast_signed(), tv_nsec: 0 };
    // SAFETY: futex(2) reads the word, which is mapped, and the timeout, and writes neither. However it returns, the caller
    // looks for itself. Not private: the word is shared between processes.
    let _ =
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout) };
}

/// Whether the process has ended; it stays to be reaped.
fn has_ended(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    !matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive))
}

/// Whether nobody has killed the process yet: it is not ending, and no SIGKILL waits for it. False if /proc does not tell.
pub(super) fn is_untouched(pid: Pid) -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    // In this order: a signal that is taken off the pending ones has the process exit next.
    let is_untouched = || Some(!is_kill_pending(&read("status")?)? && !is_exiting(&read("stat")?)?);
    is_untouched().unwrap_or(false)
}

/// Whether SIGKILL is among the pending signals in /proc/PID/status.
fn is_kill_pending(status: &str) -> Option<bool> {
    let pending = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let mask = pending("SigPnd:")? | pending("ShdPnd:")?;
    Some(mask >> (Signal::SIGKILL as i32 - 1) & 1 == 1)
}

/// Whether the process is past its last instruction, by a line of /proc/PID/stat.
fn is_exiting(stat: &str) -> Option<bool> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let flags: u64 = fields.get(9 - 3)?.parse().ok()?;
    Some(flags & EXITING != 0 || matches!(*fields.first()?, "Z" | "X"))
}

/// How a process ends that is past its last instruction; none if it is not, or if /proc does not tell.
fn ending_status(pid: Pid) -> Option<WaitStatus> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = parse_status(&stat)?;
    WaitStatus::from_raw(pid, status).ok()
}

/// The wait status in a line of /proc/PID/stat (proc_pid_stat(5)): its last field, which reads 0 for who may not see it.
fn parse_status(stat: &str) -> Option<i32> {
    // The name, second of the fields, may contain anything; the last parenthesis ends it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let exiting = field(9)?.parse::<u64>().ok()? & EXITING != 0;
    let status = field(52)?.parse::<i32>().ok()?;
    (exiting && status != 0).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of a process with these flags and this exit status, and a name to stumble over.
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
        assert_eq!(stat.rsplit_once(')').unwrap().1.split_whitespace().count(), 50);
        assert_eq!(ending_status(Pid::this()), None);
    }
}
