//! The quarantine: jobs that kill their workers every time are answered from memory for a while.
//!
//! A worker that dies during a job is replaced at once, and its death does not count against its slot. So one request, sent again
//! and again, could make the pool commit gigabytes without end. The quarantine therefore recognises a job by the export that is
//! called, the height and the hash of the input. Once all attempts at the job have killed their workers, the next request for the
//! job costs nothing.
//!
//! Every host verdict counts, because each costs a worker: killed, oom-killed, crashed, exited, protocol-violation, and deadline.
//! A deadline does not count if the job had less time than the pool gives: with more time the job may complete. A death that the
//! supervisor caused does not count, for example by a state that is behind the one that was demanded. One death alone never puts
//! a job into quarantine, because anybody can send a signal to a worker.
//!
//! A death may depend on the state, which is no part of the key, on the host, or on chance. So a quarantine ends by itself, can be
//! lifted, and is forgotten with the process.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use cofferdam_protocol::message::Call;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::HostVerdict;
use sha2::{Digest, Sha256};

use super::failed_attempt::FailedAttempt;
use super::job::Job;
use cofferdam_base::sync::lock;

pub use entry::{QuarantineEntry, QuarantinePolicy, Quarantined};

/// The number of attempts that are kept of each job: the last ones.
const KEPT_ATTEMPTS: usize = 8;

/// Jobs in quarantine, and jobs that have killed workers, but not yet enough for the quarantine.
#[derive(Debug)]
pub(super) struct Quarantine {
    policy: QuarantinePolicy,
    /// The job that was asked for last is at the end.
    known: Mutex<VecDeque<Known>>,
    /// The number of known jobs. It is nearly always zero. While it is zero, a job takes no lock here.
    count: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Known {
    call: Call,
    expires: Instant,
    /// Whether the job has killed enough workers to be in quarantine.
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

/// One moment by the monotonic clock and by the wall clock.
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

    /// Whether the input must be hashed to know whether `job` is in quarantine.
    pub(super) fn may_have(&self, job: &Job) -> bool {
        !job.despite_quarantine && self.has(|known| known.is_in && known.resembles(job))
    }

    /// The quarantine of `job`, if it is in quarantine, and its failed attempts.
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

    /// Records a job whose every attempt was lost. Returns the quarantine, if the job is in quarantine from now on.
    /// `has_own_time`: the job had less time than the pool gives.
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
        tracing::warn!("{job}: in quarantine until {until}: requests for the job are answered from memory");
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
            // For requests from now on.
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

    /// Records that a guest has answered `job`: the job was not to blame for the workers that it lost until then.
    pub(super) fn answered(&self, job: &Job) {
        if !self.has(|known| known.resembles(job)) {
            return;
        }
        let input = hash_of(job);
        self.retain(|known| !known.is(job, input));
    }

    /// Whether no job is known.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// The number of jobs in quarantine.
    pub(super) fn len(&self) -> usize {
        if self.is_empty() { 0 } else { self.lock(Moment::now()).iter().filter(|known| known.is_in).count() }
    }

    /// The jobs in quarantine.
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

    /// Takes over the known jobs of `other`.
    pub(super) fn take_over(&self, other: &Self) {
        let theirs = other.lock(Moment::now()).clone();
        let mut known = lock(&self.known);
        known.extend(theirs);
        while known.len() > self.policy.entries {
            known.pop_front();
        }
        self.count.store(known.len(), Ordering::Release);
    }

    /// Keeps the jobs for which `keep` is true. Returns how many jobs in quarantine were removed.
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

    /// The known jobs that have not expired.
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
