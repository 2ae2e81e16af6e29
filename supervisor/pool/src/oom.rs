//! Whether the kernel killed a worker by SIGKILL because memory ran out.
//!
//! SIGKILL does not say who sent it. The evidence, the best first:
//! 1. The kernel's log, where this process may read it. The log names each process that the kernel killed for memory, so it is
//!    decisive.
//! 2. The count of such kills in the workers' cgroup. A count does not say which process was killed. It explains a death only if
//!    it rose after the worker was last seen alive, and each counted kill explains at most one death.
//! 3. The count of the whole host, where the cgroup has none. Other containers count there, so this says no more than "perhaps".
//!
//! A separate cgroup for each worker would be better evidence than 2 and 3. On v2 that would work, because the count of a cgroup
//! includes the counts of its children. On v1 the count does not include them: an operator who watches the count of the cgroup
//! with the limit would see nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::kernel_log::KernelLog;
use crate::host::cgroup::{Cgroup, Evidence, OomCounts};
use cofferdam_base::sync::lock;

/// Whether the kernel killed a process because memory ran out. The evidence is a clause in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oom {
    /// The kernel killed the process.
    Yes(String),
    /// The kernel killed a process, and it is not known which.
    Perhaps(String),
    /// The kernel did not kill the process.
    No,
    /// There is no evidence on this host.
    Unknown,
}

/// Attributes out-of-memory kills to deaths.
///
/// A count does not say when it rose, so it is read regularly ([`OomLedger::sample`]), not only when a worker has died. When the
/// count has risen, workers that are still untouched a moment later were not the victims: a SIGKILL that somebody sends them
/// afterwards is not explained by the rise.
#[derive(Debug)]
pub(super) struct OomLedger {
    cgroup: Option<Cgroup>,
    log: Option<KernelLog>,
    credits: Mutex<Credits>,
}

impl OomLedger {
    /// How often to call [`OomLedger::sample`]. The kernel offers no event for the counts that works everywhere: `memory.events`
    /// of v2 can be watched, `memory.oom_control` of v1 and `/proc/vmstat` cannot.
    pub(super) const SAMPLING_INTERVAL: Duration = Duration::from_secs(1);

    /// The longest time from the kernel's count of a kill until the victim has the signal and the log has the line.
    const SIGNAL_DELAY: Duration = Duration::from_millis(20);

    /// A ledger for the workers' cgroup, by default the cgroup of this process.
    pub(super) fn new(cgroup: Option<Cgroup>) -> Self {
        let cgroup = cgroup.or_else(|| Cgroup::discover().ok());
        let counts = OomCounts::read(cgroup.as_ref());
        Self { cgroup, log: KernelLog::open(), credits: Mutex::new(Credits::new(counts)) }
    }

    /// Reads the counts. `untouched` returns the process ids of the workers that nobody has killed at this moment.
    pub(super) fn sample(&self, untouched: &dyn Fn() -> Vec<Pid>) {
        let rise = self.refresh().last_rise();
        if let Some(rise) = rise {
            // No event tells that the signal of a counted kill has been delivered.
            thread::sleep(Self::SIGNAL_DELAY);
            let untouched = untouched();
            lock(&self.credits).clear(rise, &untouched);
        }
    }

    /// Whether the death of `pid` with this wait status, which was just seen, was an out-of-memory kill.
    pub(super) fn explain(&self, pid: Pid, status: &WaitStatus) -> Oom {
        if !matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            return Oom::No;
        }
        let counted = self.refresh().spend(pid);
        match &self.log {
            Some(log) => {
                // The line comes after the signal. If a kill was counted, the line is likely to come, so wait for it.
                let timeout = if counted == Oom::No { Duration::ZERO } else { Self::SIGNAL_DELAY };
                match log.kill_of(pid, timeout) {
                    Some(line) => Oom::Yes(format!("the kernel's log says {line:?}")),
                    None => Oom::No,
                }
            }
            None => counted,
        }
    }

    /// Reads the counts while nobody else does, so that readings are compared in their order.
    fn refresh(&self) -> MutexGuard<'_, Credits> {
        let mut credits = lock(&self.credits);
        let counts = OomCounts::read(self.cgroup.as_ref());
        credits.update(counts, Instant::now());
        credits
    }
}

/// The counted kills that have not explained a death yet. A credit stands for the kills of one rise of the count.
#[derive(Debug)]
struct Credits {
    counts: OomCounts,
    /// Oldest first.
    open: VecDeque<Credit>,
    next_id: u64,
}

/// One rise of the count.
#[derive(Debug)]
struct Credit {
    id: u64,
    seen: Instant,
    /// How many deaths the credit can still explain; never zero.
    left: u64,
    evidence: Evidence,
    /// Workers that were untouched after the rise. None before that was checked.
    untouched: Option<Vec<Pid>>,
}

impl Credits {
    /// How long after its count a kill can explain a death: the time that a killed process may take to end.
    const LIFETIME: Duration = Duration::from_secs(3);

    fn new(counts: OomCounts) -> Self {
        Self { counts, open: VecDeque::new(), next_id: 0 }
    }

    /// Records the counts at `now`, and forgets credits that are too old.
    fn update(&mut self, counts: OomCounts, now: Instant) {
        if let Some(evidence) = counts.rose_since(&self.counts) {
            let left = evidence.to - evidence.from;
            self.open.push_back(Credit { id: self.next_id, seen: now, left, evidence, untouched: None });
            self.next_id += 1;
        }
        self.counts = counts;
        self.open.retain(|credit| now.saturating_duration_since(credit.seen) < Self::LIFETIME);
    }

    /// The id of the last rise, if it was not checked yet which workers were untouched after that rise.
    fn last_rise(&self) -> Option<u64> {
        self.open.back().filter(|credit| credit.untouched.is_none()).map(|credit| credit.id)
    }

    /// Records workers that were untouched after a rise: neither this rise nor an earlier one explains their deaths.
    fn clear(&mut self, rise: u64, untouched: &[Pid]) {
        for credit in self.open.iter_mut().filter(|credit| credit.id <= rise) {
            credit.untouched.get_or_insert_default().extend_from_slice(untouched);
        }
    }

    /// Explains the death of `pid` by SIGKILL.
    fn spend(&mut self, pid: Pid) -> Oom {
        let may_be = |credit: &Credit| !credit.untouched.as_ref().is_some_and(|pids| pids.contains(&pid));
        let Some(at) = self.open.iter().position(may_be) else {
            let readable = self.counts.cgroup.is_some() || self.counts.host.is_some();
            return if readable { Oom::No } else { Oom::Unknown };
        };
        let credit = &mut self.open[at];
        credit.left -= 1;
        let evidence = credit.evidence.to_string();
        let is_ours = credit.evidence.place.is_some();
        if credit.left == 0 {
            self.open.remove(at);
        }
        if is_ours { Oom::Yes(evidence) } else { Oom::Perhaps(evidence) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const ONE: Pid = Pid::from_raw(7);
    const OTHER: Pid = Pid::from_raw(8);

    fn killed_here(kills: u64) -> OomCounts {
        OomCounts { path: Some(PathBuf::from("/x")), cgroup: Some(kills), host: Some(kills) }
    }

    #[test]
    fn an_old_kill_does_not_explain_a_later_death() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(1) * n;
        let mut credits = Credits::new(killed_here(3));
        credits.update(killed_here(4), second(1));
        for n in 2..60 {
            credits.update(killed_here(4), second(n));
        }
        assert_eq!(credits.spend(ONE), Oom::No);
        assert!(credits.open.is_empty());
    }

    #[test]
    fn a_kill_explains_a_death_until_its_life_is_over() {
        for (age, explained) in
            [(Credits::LIFETIME - Duration::from_nanos(1), true), (Credits::LIFETIME, false)]
        {
            let seen = Instant::now();
            let mut credits = Credits::new(killed_here(3));
            credits.update(killed_here(4), seen);
            credits.update(killed_here(4), seen + age);
            assert_eq!(credits.spend(ONE) != Oom::No, explained, "{age:?}");
        }
    }

    #[test]
    fn a_kill_does_not_explain_the_death_of_whoever_was_untouched_after_it() {
        let now = Instant::now();
        let mut credits = Credits::new(killed_here(3));
        credits.update(killed_here(4), now);
        let rise = credits.last_rise().unwrap();
        credits.clear(rise, &[ONE]);
        assert_eq!(credits.last_rise(), None, "it was looked at");
        assert_eq!(credits.spend(ONE), Oom::No);
        assert!(matches!(credits.spend(OTHER), Oom::Yes(_)));
        // A later kill may be meant for the first.
        credits.update(killed_here(5), now);
        assert!(matches!(credits.spend(ONE), Oom::Yes(_)));
    }

    #[test]
    fn fresh_kills_explain_exactly_as_many_deaths() {
        let now = Instant::now();
        let mut credits = Credits::new(killed_here(3));
        credits.update(killed_here(5), now);
        credits.update(killed_here(6), now + Duration::from_secs(1));
        let rose =
            |from, to| Oom::Yes(format!("the oom_kill count of memory cgroup /x rose from {from} to {to}"));
        let told: Vec<Oom> = (0..4).map(|_| credits.spend(ONE)).collect();
        assert_eq!(told, [rose(3, 5), rose(3, 5), rose(5, 6), Oom::No]);
    }

    #[test]
    fn of_the_whole_host_a_count_says_perhaps() {
        let on_the_host = |kills| OomCounts { host: Some(kills), ..OomCounts::default() };
        let mut credits = Credits::new(on_the_host(3));
        credits.update(on_the_host(4), Instant::now());
        assert!(matches!(credits.spend(ONE), Oom::Perhaps(_)));
    }

    #[test]
    fn without_a_count_nothing_is_known() {
        let mut credits = Credits::new(OomCounts::default());
        credits.update(OomCounts::default(), Instant::now());
        assert_eq!(credits.spend(ONE), Oom::Unknown);
    }

    #[test]
    fn a_ledger_without_kills_clears_nobody() {
        let ledger = OomLedger::new(None);
        lock(&ledger.credits).update(killed_here(u64::MAX), Instant::now());
        // The count of this reading is no larger, so there is no rise to check.
        lock(&ledger.credits).open.clear();
        ledger.sample(&|| panic!("nobody is asked for"));
    }
}
