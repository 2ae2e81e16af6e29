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
use crate::pool::SlotHealth;
use crate::sync::lock;

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
    /// What the application over the service adds, by its name.
    #[serde(flatten)]
    extension: Option<BTreeMap<&'static str, Value>>,
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
            verdict: answer.verdict.name(),
            digest: answer.digest,
            exec_us: answer.exec.as_secs_f64() * 1e6,
            overhead_us: answer.overhead.as_secs_f64() * 1e6,
            attempts: answer.attempts,
            pid: answer.worker.pid,
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
            extension: inner
                .extension
                .get()
                .map(|extension| BTreeMap::from([(extension.name(), extension.status())])),
        }
    }
}
