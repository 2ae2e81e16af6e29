//! What the pool answered to one request: the verdict, the output, and the figures of the run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_protocol::digest;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;

use crate::job_kind::JobKind;
use cofferdam_pool::{FailedAttempt, JobOutput, JobResult, Quarantined, WorkerInfo};

/// The answer to one request. It may be kept for its `Idempotency-Key`, so it holds copies of the measurements and no resource of
/// the worker.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: JobKind,
    pub(crate) height: u32,
    pub(crate) export: Option<String>,
    pub(crate) verdict: Verdict,
    pub(crate) detail: String,
    pub(crate) digest: Option<Hash>,
    pub(crate) attempts: usize,
    pub(crate) worker: WorkerInfo,
    pub(crate) profile: Arc<str>,
    pub(crate) queued: Duration,
    pub(crate) exec: Duration,
    pub(crate) overhead: Duration,
    pub(crate) quarantine: Option<Quarantined>,
    pub(crate) memory_bytes: u64,
    pub(crate) fuel_used: Option<u64>,
    pub(crate) log: String,
    pub(crate) failed: Vec<FailedAttempt>,
    /// The key-value pairs of a block, or the result of a view.
    pub(crate) output: Bytes,
}

/// The request that is answered.
pub(crate) struct AnsweredRequest {
    pub(crate) kind: JobKind,
    pub(crate) height: u32,
    pub(crate) export: Option<String>,
    /// SHA-256 of the body.
    pub(crate) sha256: Hash,
    /// The hash of the profile, and the same hash in hexadecimal.
    pub(crate) profile: Hash,
    pub(crate) profile_text: Arc<str>,
    /// How long the request waited for a permit.
    pub(crate) queued: Duration,
}

impl Answer {
    pub(crate) fn new(request: AnsweredRequest, result: JobResult) -> Self {
        let attempts = result.attempts();
        let JobResult { verdict, detail, failed_attempts, worker, output, log, exec, overhead, .. } = result;
        let quarantine = result.quarantine.as_deref().copied();
        let output = match output {
            JobOutput::Nothing => Bytes::new(),
            // A large output stays in the memory that the pool lends for it.
            JobOutput::Writes(writes) => Bytes::from_owner(writes),
            JobOutput::View(bytes) => bytes.into(),
        };
        let digest = match verdict {
            Verdict::Guest(verdict) => {
                let AnsweredRequest { profile, height, sha256, .. } = request;
                Some(digest::extend(profile, height, sha256, verdict, Hash::of(&output)))
            }
            Verdict::Host(_) => None,
        };
        Self {
            kind: request.kind,
            height: request.height,
            export: request.export,
            verdict,
            detail,
            digest,
            attempts,
            worker,
            profile: request.profile_text,
            queued: request.queued,
            exec,
            overhead,
            quarantine,
            memory_bytes: result.memory_bytes,
            fuel_used: result.fuel_used,
            log,
            failed: failed_attempts,
            output,
        }
    }

    /// The answer to a block that the application ran without this service. It has no output, because the application keeps it.
    pub(crate) fn of_block(height: u32, digest: Option<Hash>, result: &JobResult) -> Self {
        Self {
            kind: JobKind::Block,
            height,
            export: None,
            verdict: result.verdict,
            detail: result.detail.clone(),
            digest,
            attempts: result.attempts(),
            worker: result.worker,
            profile: Arc::from(""),
            queued: Duration::ZERO,
            exec: result.exec,
            overhead: result.overhead,
            quarantine: result.quarantine.as_deref().copied(),
            memory_bytes: result.memory_bytes,
            fuel_used: result.fuel_used,
            log: String::new(),
            failed: result.failed_attempts.clone(),
            output: Bytes::new(),
        }
    }

    /// Whether no worker ran the job, because the job is in quarantine.
    pub(crate) fn is_from_memory(&self) -> bool {
        self.quarantine.is_some_and(|quarantine| quarantine.from_memory)
    }

    /// The verdict's name, or `quarantined` for an answer from memory.
    pub(crate) fn outcome(&self) -> &'static str {
        if self.is_from_memory() { "quarantined" } else { self.verdict.name() }
    }

    /// How many attempts failed because of the host.
    pub(crate) fn lost_attempts(&self) -> usize {
        if self.is_from_memory() { 0 } else { self.failed.len() }
    }

    /// Bytes that a kept answer takes, roughly.
    pub(crate) fn retained_bytes(&self) -> u64 {
        (self.output.len() + self.log.len() + self.detail.len()) as u64 + 512
    }
}
