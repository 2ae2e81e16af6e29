//! The state of the service at one moment, as JSON: for `/v1/status`, the events of the status page, and `/admin/status`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use crate::health::{Readiness, ServiceState};
use crate::history::{Latency, Totals};
use crate::records::{RecentJob, ServedModule, SwapProgress, unix_millis};
use crate::service::Inner;
use cofferdam_base::sync::lock;
use cofferdam_pool::{QuarantineEntry, SlotHealth};

#[derive(Debug, Serialize)]
struct WorkerStatus {
    slot: usize,
    pid: Option<u32>,
    state: &'static str,
    commit_us: Option<u64>,
    resident_bytes: Option<u64>,
    huge_bytes: Option<u64>,
    deaths: u64,
    last_death: Option<String>,
}

/// A job in quarantine: requests for it are answered from memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct QuarantineStatus {
    /// The id in `POST /admin/quarantine/lift/{id}`.
    id: String,
    kind: &'static str,
    height: u32,
    export: Option<String>,
    input_bytes: u64,
    input_sha256: String,
    since_ms: u64,
    until_ms: u64,
    /// How many workers the job ended.
    deaths: u32,
    /// The verdict of the last attempt, and its evidence in words.
    verdict: Option<&'static str>,
    detail: Option<String>,
    /// How many requests were answered from memory.
    answered: u64,
}

#[derive(Debug, Serialize)]
struct QueueStatus {
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

/// The whole status. The names of its fields are an interface: the status page and other programs read them.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    time_ms: u64,
    version: &'static str,
    uptime_s: f64,
    state: ServiceState,
    reason: String,
    profile: Option<String>,
    module: Option<ServedModule>,
    memory_bytes: Option<u64>,
    swap: Option<SwapProgress>,
    workers: Vec<WorkerStatus>,
    queue: QueueStatus,
    totals: AllTotals,
    rate: f64,
    latency_us: Option<Latency>,
    recent: Vec<RecentJob>,
    /// The jobs in quarantine that were asked for last, at most 50.
    quarantine: Vec<QuarantineStatus>,
    /// The application's object, under the application's name.
    #[serde(flatten)]
    application: Option<BTreeMap<&'static str, Value>>,
}

/// How many jobs in quarantine the status shows. `/admin/quarantine` shows all.
const MAX_QUARANTINED: usize = 50;

/// At most `limit` jobs in quarantine. The job that was asked for last comes first.
pub(crate) fn quarantine(inner: &Inner, limit: usize) -> Vec<QuarantineStatus> {
    let Some(generation) = inner.generation() else { return Vec::new() };
    let mut entries = generation.pool.quarantine();
    entries.reverse();
    entries.iter().take(limit).map(QuarantineStatus::from).collect()
}

impl From<&QuarantineEntry> for QuarantineStatus {
    fn from(entry: &QuarantineEntry) -> Self {
        let last = entry.failed.last();
        Self {
            id: format!("{:016x}", entry.id),
            kind: if entry.export.is_some() { "view" } else { "block" },
            height: entry.height,
            export: entry.export.clone(),
            input_bytes: entry.input_bytes,
            input_sha256: entry.input_sha256.to_string(),
            since_ms: unix_millis(entry.quarantined.since),
            until_ms: unix_millis(entry.quarantined.until),
            deaths: entry.deaths,
            verdict: last.map(|attempt| attempt.verdict.name()),
            detail: last.map(|attempt| attempt.detail.clone()),
            answered: entry.answered,
        }
    }
}

impl From<&SlotHealth> for WorkerStatus {
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

impl Status {
    pub(crate) fn read(inner: &Inner) -> Self {
        let generation = inner.generation();
        let health = inner.health();
        let readiness = Readiness::of(inner, &health);
        let (state, reason) = readiness.state();
        let load = inner.admission.load();
        let (totals, last) = {
            let history = lock(&inner.history);
            (history.totals, history.last())
        };
        Self {
            time_ms: unix_millis(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: inner.started.elapsed().as_secs_f64(),
            state,
            reason,
            profile: generation.as_ref().map(|generation| generation.profile_text.to_string()),
            module: generation.as_ref().map(|generation| generation.module.clone()),
            memory_bytes: generation.as_ref().map(|generation| generation.pool.memory_bytes()),
            swap: lock(&inner.swap).clone(),
            workers: health.slots.iter().map(WorkerStatus::from).collect(),
            queue: QueueStatus {
                blocks: load.waiting_blocks,
                views: load.waiting_views,
                limit: load.limit,
                running: load.running,
            },
            totals: AllTotals { totals, deaths: inner.deaths().total() },
            rate: last.rate,
            latency_us: last.latency,
            recent: lock(&inner.recent).iter().cloned().collect(),
            quarantine: quarantine(inner, MAX_QUARANTINED),
            application: inner
                .application
                .get()
                .map(|application| BTreeMap::from([(application.name(), application.status())])),
        }
    }
}
