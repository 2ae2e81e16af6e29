//! How a worker ended, and what that means.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::HostVerdict;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::cgroup::{Cgroup, Evidence, OomCounts};

/// How many of its last requests are kept of each worker.
const KEPT_REQUESTS: usize = 8;

/// One request in a worker's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// What was asked: "block 7 (215 bytes)".
    pub request: String,
    /// What came of it; none while it runs, and for the one that it died of.
    pub answer: Option<String>,
}

impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.request, self.answer.as_deref().unwrap_or("no answer"))
    }
}

/// The last requests of one worker, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring(VecDeque<RequestRecord>);

impl Ring {
    pub(super) fn asked(&mut self, request: String) {
        if self.0.len() == KEPT_REQUESTS {
            self.0.pop_front();
        }
        self.0.push_back(RequestRecord { request, answer: None });
    }

    pub(super) fn answered(&mut self, answer: impl FnOnce() -> String) {
        if let Some(last) = self.0.back_mut() {
            last.answer = Some(answer());
        }
    }

    pub(super) fn records(&self) -> Vec<RequestRecord> {
        self.0.iter().cloned().collect()
    }
}

/// A worker's end that nobody asked for.
#[derive(Clone, Debug)]
pub struct Death {
    /// Its process id.
    pub pid: u32,
    /// The slot that it had.
    pub slot: usize,
    /// What it means.
    pub verdict: HostVerdict,
    /// The evidence in words.
    pub detail: String,
    /// What it was doing, by its own last word.
    pub phase: Option<Phase>,
    /// Its last requests, oldest first.
    pub requests: Vec<RequestRecord>,
    /// Why it ended by its own last sentence, if it said one while starting.
    pub refusal: Option<String>,
    /// Its exit code, if it exited.
    pub exit: Option<i32>,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} of slot {} {}: {}", self.pid, self.slot, self.verdict, self.detail)
    }
}

/// Why the supervisor itself killed a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KillReason {
    /// It did not answer within this time.
    Deadline(Duration),
    /// What it sent was wrong in this way.
    Violation(String),
    /// It did not get ready in time.
    StartTimeout(Duration),
    /// The pool is stopping.
    Stopping,
}

/// What is known of an end beside its wait status.
pub(super) struct Circumstances<'a> {
    pub(super) kill: Option<&'a KillReason>,
    pub(super) ready: bool,
    pub(super) refusal: Option<&'a str>,
    pub(super) oom: Oom,
}

/// Whether the kernel killed for want of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oom {
    /// It did, by its own count.
    Yes(Evidence),
    /// It did not: the count has not risen.
    No,
    /// The count cannot be read here.
    Unknown,
}

/// The verdict on an end, and the evidence in words.
pub(super) fn classify(status: &WaitStatus, circumstances: &Circumstances<'_>) -> (HostVerdict, String) {
    match circumstances.kill {
        Some(KillReason::Deadline(after)) => {
            return (
                HostVerdict::Deadline,
                format!("no answer within {}", humantime::format_duration(*after)),
            );
        }
        Some(KillReason::Violation(what)) => return (HostVerdict::ProtocolViolation, what.clone()),
        Some(KillReason::StartTimeout(after)) => {
            let after = humantime::format_duration(*after);
            return (HostVerdict::Deadline, format!("not ready within {after} of its start"));
        }
        Some(KillReason::Stopping) | None => {}
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
        // Most likely the kernel, then, too.
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

/// Attributes out-of-memory kills to deaths: the kernel counts kills, it does not say whom.
///
/// Each kill counted stands for one SIGKILL death at most, and only for a short time: a later SIGKILL, sent by
/// somebody, must not be explained by an old kill of another process. Nothing says when a count rose, so it is
/// read all the time ([`OomLedger::sample`]), not only when a worker has died: a rise is then never seen much
/// later than it happened. What remains is the moment itself: a worker killed by somebody within
/// [`Credits::LIFE`] and a sampling interval of the kernel's kill of another process is taken for that one.
#[derive(Debug)]
pub(super) struct OomLedger {
    cgroup: Option<Cgroup>,
    credits: Mutex<Credits>,
}

impl OomLedger {
    /// How often the counts are read.
    const SAMPLING: Duration = Duration::from_secs(1);

    /// Of the cgroup that the workers live in, by default this process's.
    pub(super) fn new(cgroup: Option<Cgroup>) -> Self {
        let cgroup = cgroup.or_else(|| Cgroup::discover().ok());
        let counts = OomCounts::read(cgroup.as_ref());
        Self { cgroup, credits: Mutex::new(Credits::new(counts)) }
    }

    /// Keeps the counts fresh until the other end of `stopped` is dropped.
    pub(super) fn sample(&self, stopped: &Receiver<()>) {
        // Disconnected: the pool is stopping. Nothing is ever sent.
        while stopped.recv_timeout(Self::SAMPLING) == Err(RecvTimeoutError::Timeout) {
            drop(self.refresh());
        }
    }

    /// Whether a death by SIGKILL, which was just reaped, was an out-of-memory kill.
    pub(super) fn explain(&self, status: &WaitStatus) -> Oom {
        if !matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            return Oom::No;
        }
        self.refresh().spend()
    }

    /// Reads the counts while nobody else does, so that they are compared in the order of their reading.
    fn refresh(&self) -> MutexGuard<'_, Credits> {
        let mut credits = crate::sync::lock(&self.credits);
        let counts = OomCounts::read(self.cgroup.as_ref());
        credits.update(counts, Instant::now());
        credits
    }
}

/// The counted kills that have not explained a death yet.
#[derive(Debug)]
struct Credits {
    counts: OomCounts,
    /// Oldest first.
    open: VecDeque<Credit>,
}

/// One rise of the count.
#[derive(Debug)]
struct Credit {
    seen: Instant,
    /// How many deaths it can still explain; never zero.
    left: u64,
    evidence: Evidence,
}

impl Credits {
    /// How long a kill that was seen can explain a death: the time that a killed process may take to end.
    const LIFE: Duration = Duration::from_secs(3);

    fn new(counts: OomCounts) -> Self {
        Self { counts, open: VecDeque::new() }
    }

    /// Takes in the counts as they are at `now`, and forgets what is too old by then.
    fn update(&mut self, counts: OomCounts, now: Instant) {
        if let Some(evidence) = counts.rose_since(&self.counts) {
            self.open.push_back(Credit { seen: now, left: evidence.to - evidence.from, evidence });
        }
        self.counts = counts;
        self.open.retain(|credit| now.saturating_duration_since(credit.seen) < Self::LIFE);
    }

    /// Explains one death by SIGKILL.
    fn spend(&mut self) -> Oom {
        let Some(credit) = self.open.front_mut() else {
            let readable = self.counts.cgroup.is_some() || self.counts.host.is_some();
            return if readable { Oom::No } else { Oom::Unknown };
        };
        credit.left -= 1;
        let oom = Oom::Yes(credit.evidence.clone());
        if credit.left == 0 {
            self.open.pop_front();
        }
        oom
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    fn verdict(status: &WaitStatus, ready: bool, oom: bool, kill: Option<&KillReason>) -> HostVerdict {
        let oom = if oom { Oom::Yes(Evidence { place: None, from: 3, to: 4 }) } else { Oom::No };
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
    fn what_the_supervisor_did_itself_is_known_by_its_reason() {
        let killed = |reason: KillReason| verdict(&signaled(Signal::SIGKILL), true, true, Some(&reason));
        assert_eq!(killed(KillReason::Deadline(Duration::from_secs(1))), HostVerdict::Deadline);
        assert_eq!(killed(KillReason::Violation("x".to_owned())), HostVerdict::ProtocolViolation);
    }

    fn killed_on_the_host(kills: u64) -> OomCounts {
        OomCounts { host: Some(kills), ..OomCounts::default() }
    }

    #[test]
    fn an_old_kill_does_not_explain_a_later_death() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(1) * n;
        let mut credits = Credits::new(killed_on_the_host(3));
        credits.update(killed_on_the_host(4), second(1));
        for n in 2..60 {
            credits.update(killed_on_the_host(4), second(n));
        }
        assert_eq!(credits.spend(), Oom::No);
        assert!(credits.open.is_empty());
    }

    #[test]
    fn a_kill_explains_a_death_until_its_life_is_over() {
        for (age, explained) in [(Credits::LIFE - Duration::from_nanos(1), true), (Credits::LIFE, false)] {
            let seen = Instant::now();
            let mut credits = Credits::new(killed_on_the_host(3));
            credits.update(killed_on_the_host(4), seen);
            credits.update(killed_on_the_host(4), seen + age);
            assert_eq!(credits.spend() != Oom::No, explained, "{age:?}");
        }
    }

    #[test]
    fn fresh_kills_explain_exactly_as_many_deaths() {
        let now = Instant::now();
        let mut credits = Credits::new(killed_on_the_host(3));
        credits.update(killed_on_the_host(5), now);
        credits.update(killed_on_the_host(6), now + Duration::from_secs(1));
        let rose = |from, to| Oom::Yes(Evidence { place: None, from, to });
        let told: Vec<Oom> = (0..4).map(|_| credits.spend()).collect();
        assert_eq!(told, [rose(3, 5), rose(3, 5), rose(5, 6), Oom::No]);
    }

    #[test]
    fn without_a_count_nothing_is_known() {
        let mut credits = Credits::new(OomCounts::default());
        credits.update(OomCounts::default(), Instant::now());
        assert_eq!(credits.spend(), Oom::Unknown);
    }

    #[test]
    fn sampling_ends_with_the_pool() {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        drop(stop);
        OomLedger::new(None).sample(&stopped);
    }

    #[test]
    fn the_ring_keeps_the_last_requests() {
        let mut ring = Ring::default();
        for height in 0..20 {
            ring.asked(format!("block {height}"));
            if height != 19 {
                ring.answered(|| "completed".to_owned());
            }
        }
        let records = ring.records();
        assert_eq!(records.len(), KEPT_REQUESTS);
        assert_eq!(records[0].to_string(), "block 12: completed");
        assert_eq!(records[7].to_string(), "block 19: no answer");
    }
}
