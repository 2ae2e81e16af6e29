//! The server at one moment, as `/v1/status`, the status page and `/admin/status` show it.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use cofferdam_protocol::profile::Hash;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::answer::Answer;
use super::health::{Readiness, State};
use super::history::{Latency, Totals};
use super::service::Inner;
use cofferdam_base::sync::lock;
use cofferdam_pool::{QuarantineEntry, SlotHealth};

/// Which module is served.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Module {
    pub(super) name: String,
    /// Of its binary form, as is its size.
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// A swap of the module that is going on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Swap {
    pub(super) state: String,
    /// When it began, in milliseconds since 1970.
    pub(super) since_ms: u64,
}

/// One of the last jobs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Recent {
    at_ms: u64,
    kind: &'static str,
    height: u32,
    export: Option<String>,
    /// Or "quarantined", of one that was answered from memory.
    verdict: &'static str,
    #[serde(serialize_with = "hex_or_null")]
    digest: Option<Hash>,
    exec_us: f64,
    overhead_us: f64,
    attempts: usize,
    pid: u32,
}

#[derive(Debug, Serialize)]
struct Worker {
    slot: usize,
    pid: Option<u32>,
    state: &'static str,
    commit_us: Option<u64>,
    resident_bytes: Option<u64>,
    huge_bytes: Option<u64>,
    deaths: u64,
    last_death: Option<String>,
}

/// A job that is answered from memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Quarantine {
    /// By which it can be lifted.
    id: String,
    kind: &'static str,
    height: u32,
    export: Option<String>,
    input_bytes: u64,
    input_sha256: String,
    since_ms: u64,
    until_ms: u64,
    /// Workers that it ended.
    deaths: u32,
    /// The verdict of its last attempt, and the evidence in words.
    verdict: Option<&'static str>,
    detail: Option<String>,
    /// Requests that were answered from memory.
    answered: u64,
}

#[derive(Debug, Serialize)]
struct Queue {
    blocks: usize,
    views: usize,
    limit: usize,
    running: usize,
}

#[derive(Debug, Serialize)]
struct AllTotals {
    #[serde(flatten)]
    totals: Totals,
    deaths: u64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    time_ms: u64,
    version: &'static str,
    uptime_s: f64,
    state: State,
    reason: String,
    profile: Option<String>,
    module: Option<Module>,
    memory_bytes: Option<u64>,
    swap: Option<Swap>,
    workers: Vec<Worker>,
    queue: Queue,
    totals: AllTotals,
    rate: f64,
    latency_us: Option<Latency>,
    recent: Vec<Recent>,
    /// The last ones of those in quarantine.
    quarantine: Vec<Quarantine>,
    /// What the application over the service adds, by its name.
    #[serde(flatten)]
    extension: Option<BTreeMap<&'static str, Value>>,
}

/// How many of the jobs in quarantine the status shows. `/admin/quarantine` has all.
const MOST_QUARANTINED: usize = 50;

/// At most so many jobs in quarantine, the one that was asked for last first.
pub(super) fn quarantine(inner: &Inner, most: usize) -> Vec<Quarantine> {
    let Some(generation) = inner.generation() else { return Vec::new() };
    let mut entries = generation.pool.quarantine();
    entries.reverse();
    entries.iter().take(most).map(Quarantine::from).collect()
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A hash as it is written everywhere. Most of these are never looked at, so they are not kept as text.
fn hex_or_null<S: Serializer>(hash: &Option<Hash>, serializer: S) -> Result<S::Ok, S::Error> {
    hash.map(|hash| hash.to_string()).serialize(serializer)
}

impl Recent {
    pub(super) fn of(answer: &Answer, at: SystemTime) -> Self {
        Self {
            at_ms: millis(at),
            kind: answer.lane.name(),
            height: answer.height,
            export: answer.export.clone(),
            verdict: answer.word(),
            digest: answer.digest,
            exec_us: answer.exec.as_secs_f64() * 1e6,
            overhead_us: answer.overhead.as_secs_f64() * 1e6,
            attempts: answer.attempts,
            pid: answer.worker.pid,
        }
    }
}

impl From<&QuarantineEntry> for Quarantine {
    fn from(entry: &QuarantineEntry) -> Self {
        let last = entry.failed.last();
        Self {
            id: format!("{:016x}", entry.id),
            kind: if entry.export.is_some() { "view" } else { "block" },
            height: entry.height,
            export: entry.export.clone(),
            input_bytes: entry.input_bytes,
            input_sha256: entry.input_sha256.to_string(),
            since_ms: millis(entry.quarantined.since),
            until_ms: millis(entry.quarantined.until),
            deaths: entry.deaths,
            verdict: last.map(|attempt| attempt.verdict.name()),
            detail: last.map(|attempt| attempt.detail.clone()),
            answered: entry.answered,
        }
    }
}

impl From<&SlotHealth> for Worker {
    fn from(slot: &SlotHealth) -> Self {
        Self {
            slot: slot.slot,
            pid: slot.pid,
            state: slot.state.name(),
            commit_us: slot.commit_us,
            resident_bytes: slot.resident_bytes,
            huge_bytes: slot.huge_bytes,
            deaths: slot.deaths.total(),
            last_death: slot.last_death.clone(),
        }
    }
}

impl Snapshot {
    pub(super) fn take(inner: &Inner) -> Self {
        let generation = inner.generation();
        let health = inner.health();
        let readiness = Readiness::of(inner, &health);
        let (state, reason) = readiness.state();
        let load = inner.gate.load();
        let (totals, last) = {
            let history = lock(&inner.history);
            (history.totals, history.last())
        };
        Self {
            time_ms: millis(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: inner.started.elapsed().as_secs_f64(),
            state,
            reason,
            profile: generation.as_ref().map(|generation| generation.profile_text.to_string()),
            module: generation.as_ref().map(|generation| generation.module.clone()),
            memory_bytes: generation.as_ref().map(|generation| generation.pool.memory_bytes()),
            swap: lock(&inner.swap).clone(),
            workers: health.slots.iter().map(Worker::from).collect(),
            queue: Queue { blocks: load.blocks, views: load.views, limit: load.limit, running: load.inside },
            totals: AllTotals { totals, deaths: inner.deaths().total() },
            rate: last.rate,
            latency_us: last.latency,
            recent: lock(&inner.recent).iter().cloned().collect(),
            quarantine: quarantine(inner, MOST_QUARANTINED),
            extension: inner
                .extension
                .get()
                .map(|extension| BTreeMap::from([(extension.name(), extension.status())])),
        }
    }
}
