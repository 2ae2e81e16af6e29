//! What the service remembers to show in its status: the module that is served, a swap that is in progress, and the last jobs.

use std::time::{SystemTime, UNIX_EPOCH};

use cofferdam_protocol::profile::Hash;
use serde::{Serialize, Serializer};

use crate::answer::Answer;

/// The module that is served.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ServedModule {
    pub(crate) name: String,
    /// SHA-256 of the module's binary form.
    pub(crate) sha256: String,
    /// Size of the module's binary form.
    pub(crate) bytes: u64,
}

/// A swap of the module that is in progress.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SwapProgress {
    pub(crate) state: String,
    /// When the swap began, in milliseconds since 1970.
    pub(crate) since_ms: u64,
}

/// One of the last jobs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RecentJob {
    at_ms: u64,
    kind: &'static str,
    height: u32,
    export: Option<String>,
    /// The verdict's name, or `quarantined` for an answer from memory.
    verdict: &'static str,
    #[serde(serialize_with = "hex_or_null")]
    digest: Option<Hash>,
    exec_us: f64,
    overhead_us: f64,
    attempts: usize,
    pid: u32,
}

impl RecentJob {
    pub(crate) fn of(answer: &Answer, at: SystemTime) -> Self {
        Self {
            at_ms: unix_millis(at),
            kind: answer.kind.name(),
            height: answer.height,
            export: answer.export.clone(),
            verdict: answer.outcome(),
            digest: answer.digest,
            exec_us: answer.exec.as_secs_f64() * 1e6,
            overhead_us: answer.overhead.as_secs_f64() * 1e6,
            attempts: answer.attempts,
            pid: answer.worker.pid,
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The hash in hexadecimal. It is written only when the status is read: most hashes are never shown.
fn hex_or_null<S: Serializer>(hash: &Option<Hash>, serializer: S) -> Result<S::Ok, S::Error> {
    hash.map(|hash| hash.to_string()).serialize(serializer)
}
