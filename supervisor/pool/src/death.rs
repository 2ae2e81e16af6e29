//! How a worker ended, and what that means: the verdict on a death, and its evidence.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::HostVerdict;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::oom::Oom;

/// The number of requests that are kept of each worker.
const KEPT_REQUESTS: usize = 8;

/// One request in a worker's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The request, for example "block 7 (215 bytes)".
    pub request: String,
    /// The verdict. None while the request runs, and none for a request during which the worker died.
    pub answer: Option<String>,
}

impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.request, self.answer.as_deref().unwrap_or("no answer"))
    }
}

/// The history of one worker: its last requests, oldest first.
#[derive(Debug, Default)]
pub(super) struct RequestHistory(VecDeque<RequestRecord>);

impl RequestHistory {
    pub(super) fn note_request(&mut self, request: String) {
        if self.0.len() == KEPT_REQUESTS {
            self.0.pop_front();
        }
        self.0.push_back(RequestRecord { request, answer: None });
    }

    pub(super) fn note_answer(&mut self, answer: impl FnOnce() -> String) {
        if let Some(last) = self.0.back_mut() {
            last.answer = Some(answer());
        }
    }

    pub(super) fn records(&self) -> Vec<RequestRecord> {
        self.0.iter().cloned().collect()
    }
}

/// The end of a worker whose pool and slot were not stopping. A worker that the pool kills for a missed deadline or a violation
/// of the protocol has a death too.
#[derive(Clone, Debug)]
pub struct Death {
    /// The worker's process id.
    pub pid: u32,
    /// The worker's slot.
    pub slot: usize,
    /// What the end means.
    pub verdict: HostVerdict,
    /// The evidence in words.
    pub detail: String,
    /// What the worker was doing, by its own last report.
    pub phase: Option<Phase>,
    /// The worker's last requests, oldest first.
    pub requests: Vec<RequestRecord>,
    /// The reason that the worker itself gave, if it refused to start.
    pub refusal: Option<String>,
    /// The exit code, if the worker exited.
    pub exit: Option<i32>,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} of slot {} {}: {}", self.pid, self.slot, self.verdict, self.detail)
    }
}

/// How often workers ended, by verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeathCounts(Vec<(HostVerdict, u64)>);

impl DeathCounts {
    /// Counts one more death.
    pub fn count(&mut self, verdict: HostVerdict) {
        self.add(verdict, 1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(verdict, count)| self.add(verdict, count));
    }

    /// Each verdict that occurred, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (HostVerdict, u64)> {
        self.0.iter().copied()
    }

    /// The count of all deaths.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, verdict: HostVerdict, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, known)) => *known += count,
            None => self.0.push((verdict, count)),
        }
    }
}

/// Why the supervisor itself killed a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KillReason {
    /// The worker did not answer within this time.
    Deadline(Duration),
    /// The worker broke the protocol in this way.
    Violation(String),
    /// The worker did not get ready within this time.
    StartTimeout(Duration),
    /// The pool is stopping.
    Stopping,
}

impl KillReason {
    /// The verdict on a worker that was killed for this reason, and the reason in words. None for a worker that the pool stopped.
    pub(super) fn verdict(&self) -> Option<(HostVerdict, String)> {
        Some(match self {
            Self::Deadline(after) => {
                let after = humantime::format_duration(*after);
                (HostVerdict::Deadline, format!("no answer within {after}"))
            }
            Self::Violation(what) => (HostVerdict::ProtocolViolation, what.clone()),
            Self::StartTimeout(after) => {
                let after = humantime::format_duration(*after);
                (HostVerdict::Deadline, format!("not ready within {after} of its start"))
            }
            Self::Stopping => return None,
        })
    }
}

/// What is known of an end besides the wait status.
pub(super) struct Circumstances<'a> {
    pub(super) kill: Option<&'a KillReason>,
    pub(super) ready: bool,
    pub(super) refusal: Option<&'a str>,
    pub(super) oom: Oom,
}

/// The verdict on an end, and the evidence in words.
pub(super) fn classify(status: &WaitStatus, circumstances: &Circumstances<'_>) -> (HostVerdict, String) {
    if let Some(verdict) = circumstances.kill.and_then(KillReason::verdict) {
        return verdict;
    }
    match *status {
        WaitStatus::Signaled(_, signal, _) => classify_signal(signal, circumstances),
        WaitStatus::Exited(_, code) => classify_exit(code, circumstances),
        ref other => (HostVerdict::Exited, format!("unexpected wait status {other:?}")),
    }
}

fn classify_signal(signal: Signal, circumstances: &Circumstances<'_>) -> (HostVerdict, String) {
    let during = if circumstances.ready { "" } else { " while it was starting" };
    match (signal, &circumstances.oom) {
        (Signal::SIGKILL, Oom::Yes(evidence)) if circumstances.ready => {
            (HostVerdict::OomKilled, format!("SIGKILL, and {evidence}"))
        }
        (Signal::SIGKILL, Oom::Yes(evidence)) => (
            HostVerdict::CommitFailed,
            format!("killed by the kernel (SIGKILL) while it committed its memory: {evidence}"),
        ),
        // The worker was still committing memory, so most likely the kernel killed it because memory ran out.
        (Signal::SIGKILL, Oom::Perhaps(evidence)) if !circumstances.ready => (
            HostVerdict::CommitFailed,
            format!(
                "SIGKILL while it committed its memory; perhaps by the kernel, for want of memory: {evidence}"
            ),
        ),
        (Signal::SIGKILL, Oom::Perhaps(evidence)) => (
            HostVerdict::Killed,
            format!(
                "SIGKILL; perhaps by the kernel, for want of memory: {evidence}, but of which process is not known"
            ),
        ),
        (Signal::SIGKILL, Oom::Unknown) if !circumstances.ready => {
            (HostVerdict::CommitFailed, "SIGKILL while it committed its memory".to_owned())
        }
        (
            Signal::SIGSEGV
            | Signal::SIGBUS
            | Signal::SIGILL
            | Signal::SIGABRT
            | Signal::SIGFPE
            | Signal::SIGSYS
            | Signal::SIGTRAP,
            _,
        ) => (HostVerdict::Crashed, format!("{signal}{during}")),
        _ => (HostVerdict::Killed, format!("{signal}{during}")),
    }
}

fn classify_exit(code: i32, circumstances: &Circumstances<'_>) -> (HostVerdict, String) {
    let meaning = WorkerExit::from_code(code).map_or("no exit code of a worker", WorkerExit::meaning);
    let reason = circumstances.refusal.map_or_else(String::new, |reason| format!(": {reason}"));
    let detail = format!("exit code {code} ({meaning}){reason}");
    match WorkerExit::from_code(code) {
        Some(WorkerExit::NotCommitted) if !circumstances.ready => (HostVerdict::CommitFailed, detail),
        _ => (HostVerdict::Exited, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    fn verdict(status: &WaitStatus, ready: bool, oom: bool, kill: Option<&KillReason>) -> HostVerdict {
        let oom = if oom { Oom::Yes("the count rose".to_owned()) } else { Oom::No };
        let circumstances = Circumstances { kill, ready, refusal: None, oom };
        classify(status, &circumstances).0
    }

    fn signaled(signal: Signal) -> WaitStatus {
        WaitStatus::Signaled(Pid::from_raw(7), signal, false)
    }

    fn exited(code: i32) -> WaitStatus {
        WaitStatus::Exited(Pid::from_raw(7), code)
    }

    #[test]
    fn each_end_has_its_verdict() {
        let ready = |status, oom| verdict(&status, true, oom, None);
        assert_eq!(ready(signaled(Signal::SIGKILL), true), HostVerdict::OomKilled);
        assert_eq!(ready(signaled(Signal::SIGKILL), false), HostVerdict::Killed);
        assert_eq!(ready(signaled(Signal::SIGTERM), false), HostVerdict::Killed);
        assert_eq!(ready(signaled(Signal::SIGSEGV), false), HostVerdict::Crashed);
        assert_eq!(ready(signaled(Signal::SIGABRT), true), HostVerdict::Crashed);
        assert_eq!(ready(exited(0), false), HostVerdict::Exited);
        assert_eq!(ready(exited(137), false), HostVerdict::Exited);
    }

    #[test]
    fn before_hello_a_kill_for_memory_is_a_failed_commit() {
        let starting = |status, oom| verdict(&status, false, oom, None);
        assert_eq!(starting(exited(137), false), HostVerdict::CommitFailed);
        assert_eq!(starting(signaled(Signal::SIGKILL), true), HostVerdict::CommitFailed);
        assert_eq!(starting(signaled(Signal::SIGKILL), false), HostVerdict::Killed);
        let blind = Circumstances { kill: None, ready: false, refusal: None, oom: Oom::Unknown };
        assert_eq!(classify(&signaled(Signal::SIGKILL), &blind).0, HostVerdict::CommitFailed);
        assert_eq!(starting(signaled(Signal::SIGBUS), false), HostVerdict::Crashed);
        assert_eq!(starting(exited(65), false), HostVerdict::Exited);
    }

    #[test]
    fn where_it_is_not_known_who_was_killed_it_says_perhaps() {
        let end = |ready| {
            let oom = Oom::Perhaps("the count of the host rose".to_owned());
            classify(&signaled(Signal::SIGKILL), &Circumstances { kill: None, ready, refusal: None, oom })
        };
        assert_eq!((end(true).0, end(false).0), (HostVerdict::Killed, HostVerdict::CommitFailed));
        for (_, detail) in [end(true), end(false)] {
            assert!(
                detail.contains("perhaps by the kernel") && detail.contains("count of the host"),
                "{detail}"
            );
        }
    }

    #[test]
    fn what_the_supervisor_did_itself_is_known_by_its_reason() {
        let killed = |reason: KillReason| verdict(&signaled(Signal::SIGKILL), true, true, Some(&reason));
        assert_eq!(killed(KillReason::Deadline(Duration::from_secs(1))), HostVerdict::Deadline);
        assert_eq!(killed(KillReason::Violation("x".to_owned())), HostVerdict::ProtocolViolation);
    }

    #[test]
    fn the_history_keeps_the_last_requests() {
        let mut history = RequestHistory::default();
        for height in 0..20 {
            history.note_request(format!("block {height}"));
            if height != 19 {
                history.note_answer(|| "completed".to_owned());
            }
        }
        let records = history.records();
        assert_eq!(records.len(), KEPT_REQUESTS);
        assert_eq!(records[0].to_string(), "block 12: completed");
        assert_eq!(records[7].to_string(), "block 19: no answer");
    }
}
