//! Whether a worker's death by SIGKILL was the kernel's doing, for want of memory.
//!
//! SIGKILL does not say who sent it. What is asked, the best evidence first:
//! 1. The kernel's log, where this process may read it: it names each process that the kernel has killed for memory, so its
//!    word is final.
//! 2. The count of such kills in the cgroup that the workers live in. A count does not say who was killed. It explains a death
//!    only if it has risen since the worker was last seen alive; each kill that was counted explains one death at most.
//! 3. The count of the whole host, where the cgroup has none. Other containers count there, so it says no more than "perhaps".
//!
//! A cgroup of each worker's own would be evidence in place of 2 and 3, on v2, where the count of a cgroup holds those of its
//! children. On v1 it does not: with a cgroup for each worker, whoever watches the count of the one with the limit would see
//! nothing any more.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::host::cgroup::{Cgroup, Evidence, OomCounts};
use super::kernel_log::KernelLog;
use cofferdam_base::sync::lock;

/// Whether the kernel killed a process for want of memory. Evidence is a clause in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oom {
    /// It did.
    Yes(String),
    /// It killed some process, and it is not known which.
    Perhaps(String),
    /// It did not.
    No,
    /// There is nothing here to tell by.
    Unknown,
}

/// Attributes out-of-memory kills to deaths.
///
/// Nothing says when a count rose, so it is read all the time ([`OomLedger::sample`]), not only when a worker has died. When it
/// has risen, workers that are still untouched a moment later were not meant: a SIGKILL that somebody sends them afterwards is
/// not explained by it.
#[derive(Debug)]
pub(super) struct OomLedger {
    cgroup: Option<Cgroup>,
    log: Option<KernelLog>,
    credits: Mutex<Credits>,
}

impl OomLedger {
    /// How often the counts are read.
    const SAMPLING: Duration = Duration::from_secs(1);

    /// How long after its count a kill can take to show on its victim, and in the log.
    const MOMENT: Duration = Duration::from_millis(20);

    /// Of the cgroup that the workers live in, by default this process's.
    pub(super) fn new(cgroup: Option<Cgroup>) -> Self {
        let cgroup = cgroup.or_else(|| Cgroup::discover().ok());
        let counts = OomCounts::read(cgroup.as_ref());
        Self { cgroup, log: KernelLog::open(), credits: Mutex::new(Credits::new(counts)) }
    }

    /// Keeps the counts fresh until the other end of `stopped` is dropped. `untouched` gives the process ids of workers that
    /// nobody has killed at this moment.
    pub(super) fn sample(&self, stopped: &Receiver<()>, untouched: &dyn Fn() -> Vec<Pid>) {
        // Disconnected: the pool is stopping. Nothing is ever sent.
        while stopped.recv_timeout(Self::SAMPLING) == Err(RecvTimeoutError::Timeout) {
            let rise = self.refresh().last_rise();
            if let Some(rise) = rise {
                thread::sleep(Self::MOMENT);
                let untouched = untouched();
                lock(&self.credits).clear(rise, &untouched);
            }
        }
    }

    /// Whether the death of `pid` by SIGKILL, which was just seen, was an out-of-memory kill.
    pub(super) fn explain(&self, pid: Pid, status: &WaitStatus) -> Oom {
        if !matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)) {
            return Oom::No;
        }
        let counted = self.refresh().spend(pid);
        match &self.log {
            Some(log) => match self.ask(log, pid, counted != Oom::No) {
                Some(line) => Oom::Yes(format!("the kernel's log says {line:?}")),
                None => Oom::No,
            },
            None => counted,
        }
    }

    /// What the kernel's log says of the end of `pid`, if it says anything. The line comes after the signal: where it is likely
    /// to come, it is waited for.
    fn ask(&self, log: &KernelLog, pid: Pid, is_likely: bool) -> Option<String> {
        log.kill_of(pid).or_else(|| {
            if is_likely {
                thread::sleep(Self::MOMENT);
            }
            log.kill_of(pid)
        })
    }

    /// Reads the counts while nobody else does, so that they are compared in the order of their reading.
    fn refresh(&self) -> MutexGuard<'_, Credits> {
        let mut credits = lock(&self.credits);
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
    next_id: u64,
}

/// One rise of the count.
#[derive(Debug)]
struct Credit {
    id: u64,
    seen: Instant,
    /// How many deaths it can still explain; never zero.
    left: u64,
    evidence: Evidence,
    /// Workers that were untouched after it. None before they were looked at.
    untouched: Option<Vec<Pid>>,
}

impl Credits {
    /// How long a kill that was seen can explain a death: the time that a killed process may take to end.
    const LIFE: Duration = Duration::from_secs(3);

    fn new(counts: OomCounts) -> Self {
        Self { counts, open: VecDeque::new(), next_id: 0 }
    }

    /// Takes in the counts as they are at `now`, and forgets what is too old by then.
    fn update(&mut self, counts: OomCounts, now: Instant) {
        if let Some(evidence) = counts.rose_since(&self.counts) {
            let left = evidence.to - evidence.from;
            self.open.push_back(Credit { id: self.next_id, seen: now, left, evidence, untouched: None });
            self.next_id += 1;
        }
        self.counts = counts;
        self.open.retain(|credit| now.saturating_duration_since(credit.seen) < Self::LIFE);
    }

    /// The last rise, if nobody has looked yet who was untouched after it.
    fn last_rise(&self) -> Option<u64> {
        self.open.back().filter(|credit| credit.untouched.is_none()).map(|credit| credit.id)
    }

    /// Takes note of workers that were untouched after a rise: neither it nor an earlier one explains their deaths.
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
        for (age, explained) in [(Credits::LIFE - Duration::from_nanos(1), true), (Credits::LIFE, false)] {
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
    fn sampling_ends_with_the_pool() {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        drop(stop);
        OomLedger::new(None).sample(&stopped, &Vec::new);
    }
}
