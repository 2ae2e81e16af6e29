//! Jobs that end their workers, each time and every one: they are answered from memory for a while.
//!
//! A worker that dies during a job is replaced at once, and its death does not count against its slot: so one request, sent
//! again and again, could have the pool commit gigabytes without end. A job is therefore known by what is called, its height
//! and the hash of its input, and once all its attempts have ended their workers, the next request for it costs nothing.
//!
//! Every host verdict counts, for each costs a worker: killed, oom-killed, crashed, exited, protocol-violation, and deadline.
//! A deadline does not count if the job had less time than the pool gives: with more time it may be done. An end that the
//! supervisor caused does not count (a state that is behind the one that was asked for). One death alone never
//! puts a job into quarantine, because anybody can send a signal to a worker.
//!
//! A death may depend on the state, which is no part of the key, on the host, or on bad luck. So a quarantine ends by itself,
//! can be lifted, and is forgotten with the process.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cofferdam_protocol::message::Call;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::HostVerdict;
use sha2::{Digest, Sha256};

use super::job::{FailedAttempt, Job};
use cofferdam_base::sync::lock;

/// How many attempts are kept of each job, the last ones.
const KEPT_ATTEMPTS: usize = 8;

/// When a job that ends its workers is answered from memory, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantinePolicy {
    /// How long a job is answered from memory. Default 10 minutes. With zero no job is.
    pub time: Duration,
    /// How many jobs are remembered; beyond, the one that was asked for longest ago is forgotten. Default 1024. With zero no
    /// job is answered from memory.
    pub entries: usize,
    /// How many workers a job must have ended, retries included, before it is in quarantine, even if one request makes fewer
    /// attempts. Default 2.
    pub deaths: u32,
}

impl Default for QuarantinePolicy {
    fn default() -> Self {
        Self { time: Duration::from_mins(10), entries: 1024, deaths: 2 }
    }
}

impl QuarantinePolicy {
    /// Answers no job from memory.
    pub const OFF: Self = Self { time: Duration::ZERO, entries: 0, deaths: 2 };
}

/// That a job is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Since when.
    pub since: SystemTime,
    /// Until when, unless it is lifted.
    pub until: SystemTime,
    /// Whether the result is from memory: no attempt was made for it.
    pub from_memory: bool,
}

impl Quarantined {
    /// How long it lasts from now on.
    pub fn left(&self) -> Duration {
        self.until.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// What an answer from memory says.
    pub(super) fn sentence(&self, failed: &[FailedAttempt]) -> String {
        let since = humantime::format_rfc3339_seconds(self.since);
        let until = humantime::format_rfc3339_seconds(self.until);
        let mut text = format!(
            "not run: in quarantine since {since} until {until}, because its last {} attempts ended their workers: ",
            failed.len()
        );
        for (index, attempt) in failed.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{} ({})", attempt.verdict, attempt.detail);
        }
        text
    }
}

/// One job in quarantine.
#[derive(Clone, Debug)]
pub struct QuarantineEntry {
    /// Names it for as long as it is there: see [`Pool::lift_quarantine`](super::Pool::lift_quarantine).
    pub id: u64,
    /// The view that is called; none for a block.
    pub export: Option<String>,
    /// The job's height.
    pub height: u32,
    /// Bytes of its input.
    pub input_bytes: u64,
    /// SHA-256 of its input.
    pub input_sha256: Hash,
    /// Since when, and until when.
    pub quarantined: Quarantined,
    /// How many workers it has ended.
    pub deaths: u32,
    /// The last attempts, oldest first.
    pub failed: Vec<FailedAttempt>,
    /// How many requests were answered from memory.
    pub answered: u64,
}

/// Jobs that end their workers, and those that may be such.
#[derive(Debug)]
pub(super) struct Quarantine {
    policy: QuarantinePolicy,
    /// The one that was asked for last at the end.
    known: Mutex<VecDeque<Known>>,
    /// How many there are: nearly always none, and then a job must cost nothing here.
    count: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Known {
    call: Call,
    expires: Instant,
    /// Whether it has ended enough workers.
    is_in: bool,
    entry: QuarantineEntry,
}

impl Known {
    fn resembles(&self, job: &Job) -> bool {
        self.entry.height == job.height
            && self.entry.input_bytes == job.input.len() as u64
            && self.call == job.call
    }

    fn is(&self, job: &Job, input: Hash) -> bool {
        self.resembles(job) && self.entry.input_sha256 == input
    }
}

/// One moment by both clocks.
#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    time: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { instant: Instant::now(), time: SystemTime::now() }
    }
}

impl Quarantine {
    pub(super) fn new(policy: QuarantinePolicy) -> Self {
        Self { policy, known: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// Whether it takes a look at the input to know whether `job` is in quarantine.
    pub(super) fn may_have(&self, job: &Job) -> bool {
        !job.despite_quarantine && self.has(|known| known.is_in && known.resembles(job))
    }

    /// What is known of `job` if it is in quarantine.
    pub(super) fn find(&self, job: &Job) -> Option<(Quarantined, Vec<FailedAttempt>)> {
        if !self.may_have(job) {
            return None;
        }
        self.find_at(job, hash_of(job), Moment::now())
    }

    fn find_at(&self, job: &Job, input: Hash, now: Moment) -> Option<(Quarantined, Vec<FailedAttempt>)> {
        let mut known = self.lock(now);
        let at = known.iter().position(|known| known.is_in && known.is(job, input))?;
        let mut found = known.remove(at)?;
        found.entry.answered += 1;
        let answer = (found.entry.quarantined, found.entry.failed.clone());
        known.push_back(found);
        Some(answer)
    }

    /// Takes note of a job whose every attempt was lost; whether it is in quarantine from now on. `has_own_time`: it had less
    /// time than the pool gives.
    pub(super) fn lost(
        &self,
        job: &Job,
        failed: &[FailedAttempt],
        has_own_time: bool,
    ) -> Option<Quarantined> {
        let counts = |attempt: &&FailedAttempt| {
            !attempt.supervisors_fault && (!has_own_time || attempt.verdict != HostVerdict::Deadline)
        };
        let deaths = u32::try_from(failed.iter().filter(counts).count()).unwrap_or(u32::MAX);
        if deaths == 0 || self.policy.time.is_zero() || self.policy.entries == 0 {
            return None;
        }
        let quarantined = self.lost_at(job, hash_of(job), (deaths, failed), Moment::now())?;
        let until = humantime::format_rfc3339_seconds(quarantined.until);
        tracing::warn!("{job}: in quarantine until {until}: it is answered from memory");
        Some(quarantined)
    }

    fn lost_at(
        &self,
        job: &Job,
        input: Hash,
        (deaths, failed): (u32, &[FailedAttempt]),
        now: Moment,
    ) -> Option<Quarantined> {
        let mut known = self.lock(now);
        let earlier = known.iter().position(|known| known.is(job, input)).and_then(|at| known.remove(at));
        let mut found = earlier.unwrap_or_else(|| Known::new(job, input, now));
        found.expires = now.instant + self.policy.time;
        found.entry.deaths = found.entry.deaths.saturating_add(deaths);
        found.entry.failed.extend_from_slice(failed);
        let old = found.entry.failed.len().saturating_sub(KEPT_ATTEMPTS);
        found.entry.failed.drain(..old);
        found.entry.quarantined = Quarantined {
            since: now.time,
            until: now.time + self.policy.time,
            // For those who ask from now on.
            from_memory: true,
        };
        found.is_in = found.entry.deaths >= self.policy.deaths;
        let quarantined = Quarantined { from_memory: false, ..found.entry.quarantined };
        let is_in = found.is_in;
        known.push_back(found);
        while known.len() > self.policy.entries {
            known.pop_front();
        }
        self.count.store(known.len(), Ordering::Release);
        is_in.then_some(quarantined)
    }

    /// Takes note that a guest has answered `job`: what it lost until then was not its doing.
    pub(super) fn answered(&self, job: &Job) {
        if !self.has(|known| known.resembles(job)) {
            return;
        }
        let input = hash_of(job);
        self.retain(|known| !known.is(job, input));
    }

    /// Whether nothing is known of any job.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// How many jobs are in quarantine.
    pub(super) fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.lock(Moment::now()).iter().filter(|known| known.is_in).count() }
    }

    /// Everything that is in quarantine.
    pub(super) fn entries(&self) -> Vec<QuarantineEntry> {
        if self.is_empty() {
            return Vec::new();
        }
        let known = self.lock(Moment::now());
        known.iter().filter(|known| known.is_in).map(|known| known.entry.clone()).collect()
    }

    pub(super) fn lift(&self, id: u64) -> bool {
        self.retain(|known| known.entry.id != id) > 0
    }

    pub(super) fn lift_all(&self) -> usize {
        self.retain(|_| false)
    }

    /// Takes over what `other` knows.
    pub(super) fn take_over(&self, other: &Self) {
        let theirs = other.lock(Moment::now()).clone();
        let mut known = lock(&self.known);
        known.extend(theirs);
        while known.len() > self.policy.entries {
            known.pop_front();
        }
        self.count.store(known.len(), Ordering::Release);
    }

    /// Keeps what `keep` wants; how many jobs in quarantine it did not want.
    fn retain(&self, keep: impl Fn(&Known) -> bool) -> usize {
        let mut known = self.lock(Moment::now());
        let count = |known: &VecDeque<Known>| known.iter().filter(|known| known.is_in).count();
        let before = count(&known);
        known.retain(|known| keep(known));
        self.count.store(known.len(), Ordering::Release);
        before - count(&known)
    }

    fn has(&self, what: impl Fn(&Known) -> bool) -> bool {
        !self.is_empty() && self.lock(Moment::now()).iter().any(what)
    }

    /// The jobs whose time is not over.
    fn lock(&self, now: Moment) -> std::sync::MutexGuard<'_, VecDeque<Known>> {
        let mut known = lock(&self.known);
        known.retain(|known| known.expires > now.instant);
        self.count.store(known.len(), Ordering::Release);
        known
    }
}

impl Known {
    fn new(job: &Job, input: Hash, now: Moment) -> Self {
        let export = match &job.call {
            Call::Block => None,
            Call::View { export } => Some(export.clone()),
        };
        let entry = QuarantineEntry {
            id: id_of(export.as_deref(), job.height, input),
            export,
            height: job.height,
            input_bytes: job.input.len() as u64,
            input_sha256: input,
            quarantined: Quarantined { since: now.time, until: now.time, from_memory: true },
            deaths: 0,
            failed: Vec::new(),
            answered: 0,
        };
        Self { call: job.call.clone(), expires: now.instant, is_in: false, entry }
    }
}

fn hash_of(job: &Job) -> Hash {
    let mut hasher = Sha256::new();
    job.input.parts().for_each(|part| hasher.update(part));
    Hash(hasher.finalize().into())
}

fn id_of(export: Option<&str>, height: u32, input: Hash) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(input.0);
    hasher.update(height.to_le_bytes());
    hasher.update([u8::from(export.is_some())]);
    hasher.update(export.unwrap_or_default());
    let hash: [u8; 32] = hasher.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::super::job::WorkerInfo;
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    fn quarantine(entries: usize, deaths: u32) -> Quarantine {
        Quarantine::new(QuarantinePolicy { time: TIME, entries, deaths })
    }

    fn failed(verdicts: &[HostVerdict]) -> Vec<FailedAttempt> {
        let worker = WorkerInfo { pid: 7, slot: 0 };
        let failed = |verdict: &HostVerdict| FailedAttempt {
            worker,
            verdict: *verdict,
            detail: format!("by {verdict}"),
            supervisors_fault: false,
        };
        verdicts.iter().map(failed).collect()
    }

    fn block(height: u32, input: &[u8]) -> Job {
        Job::block(height, input.to_vec())
    }

    fn lose(quarantine: &Quarantine, job: &Job) -> Option<Quarantined> {
        quarantine.lost(job, &failed(&[HostVerdict::Crashed; 3]), false)
    }

    #[test]
    fn a_job_that_has_ended_its_workers_is_known_by_call_height_and_input() {
        let quarantine = quarantine(8, 2);
        assert!(quarantine.find(&block(5, b"x")).is_none());
        assert!(!lose(&quarantine, &block(5, b"x")).unwrap().from_memory);
        let (found, attempts) = quarantine.find(&block(5, b"x")).unwrap();
        assert!(found.from_memory && attempts.len() == 3);
        let said = found.sentence(&attempts);
        assert!(
            said.contains("because its last 3 attempts") && said.contains("crashed (by crashed)"),
            "{said}"
        );
        for other in [block(5, b"y"), block(5, b"xx"), block(6, b"x"), Job::view("v", 5, b"x".to_vec())] {
            assert!(quarantine.find(&other).is_none(), "{other}");
        }
        assert!(quarantine.find(&block(5, b"x").despite_quarantine()).is_none());
        let [entry] = &quarantine.entries()[..] else { panic!("one") };
        assert_eq!((entry.height, entry.input_bytes, entry.deaths, entry.answered), (5, 1, 3, 1));
    }

    #[test]
    fn one_death_is_none_and_two_of_two_requests_are() {
        let quarantine = quarantine(8, 2);
        let once = failed(&[HostVerdict::Killed]);
        assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none());
        assert!(quarantine.find(&block(5, b"x")).is_none() && quarantine.entries().is_empty());
        assert!(quarantine.lost(&block(5, b"x"), &once, false).is_some());
        assert_eq!(quarantine.find(&block(5, b"x")).unwrap().1.len(), 2);
    }

    #[test]
    fn an_end_that_the_supervisor_caused_does_not_count() {
        let quarantine = quarantine(8, 2);
        let mut attempts = failed(&[HostVerdict::Exited; 3]);
        attempts.iter_mut().for_each(|attempt| attempt.supervisors_fault = true);
        assert!(quarantine.lost(&block(5, b"x"), &attempts, false).is_none());
        assert!(quarantine.is_empty());
    }

    #[test]
    fn a_guests_answer_clears_a_job() {
        let quarantine = quarantine(8, 2);
        let once = failed(&[HostVerdict::Killed]);
        assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none());
        quarantine.answered(&block(5, b"y"));
        quarantine.answered(&block(5, b"x"));
        assert!(quarantine.lost(&block(5, b"x"), &once, false).is_none(), "the first one again");
    }

    #[test]
    fn a_deadline_counts_unless_the_job_had_less_time_than_others() {
        let quarantine = quarantine(8, 2);
        let slow = failed(&[HostVerdict::Deadline; 3]);
        assert!(quarantine.lost(&block(5, b"x"), &slow, true).is_none());
        assert!(quarantine.lost(&block(5, b"x"), &slow, true).is_none());
        assert!(quarantine.lost(&block(5, b"x"), &slow, false).is_some());
    }

    #[test]
    fn it_ends_by_itself_and_is_not_drawn_out_by_asking() {
        let quarantine = quarantine(8, 2);
        let (job, now) = (block(5, b"x"), Moment::now());
        let input = hash_of(&job);
        let at = |after: Duration| Moment { instant: now.instant + after, time: now.time + after };
        let attempts = failed(&[HostVerdict::Crashed; 3]);
        let begun = quarantine.lost_at(&job, input, (3, &attempts), now).unwrap();
        assert_eq!((begun.since, begun.until), (now.time, now.time + TIME));
        let last = TIME - Duration::from_nanos(1);
        assert_eq!(quarantine.find_at(&job, input, at(last)).unwrap().0.until, begun.until);
        assert!(quarantine.find_at(&job, input, at(TIME)).is_none());
        assert!(lose(&quarantine, &job).is_some(), "it is known anew");
    }

    #[test]
    fn it_is_bounded_and_forgets_what_was_asked_for_longest_ago() {
        let quarantine = quarantine(2, 2);
        for height in 1..=2 {
            lose(&quarantine, &block(height, b"x"));
        }
        quarantine.find(&block(1, b"x")).unwrap();
        lose(&quarantine, &block(3, b"x"));
        let heights: Vec<u32> = quarantine.entries().iter().map(|entry| entry.height).collect();
        assert_eq!(heights, [1, 3]);
    }

    #[test]
    fn it_is_lifted_one_by_one_and_for_all() {
        let quarantine = quarantine(8, 2);
        for height in 1..=3 {
            lose(&quarantine, &block(height, b"x"));
        }
        let id = quarantine.entries()[1].id;
        assert!(quarantine.lift(id) && !quarantine.lift(id));
        assert!(quarantine.find(&block(2, b"x")).is_none() && quarantine.find(&block(1, b"x")).is_some());
        assert_eq!((quarantine.lift_all(), quarantine.entries().len()), (2, 0));
    }

    #[test]
    fn the_next_pool_of_the_same_profile_knows_it_too() {
        let (old, new) = (quarantine(8, 2), quarantine(8, 2));
        lose(&old, &block(1, b"x"));
        new.take_over(&old);
        assert!(new.find(&block(1, b"x")).is_some());
    }

    #[test]
    fn without_time_or_room_nothing_is_kept() {
        for policy in [QuarantinePolicy::OFF, QuarantinePolicy { time: Duration::ZERO, ..Default::default() }]
        {
            let quarantine = Quarantine::new(policy);
            assert!(lose(&quarantine, &block(1, b"x")).is_none());
            assert!(quarantine.find(&block(1, b"x")).is_none());
        }
    }
}
