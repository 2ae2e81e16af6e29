//! The result of a job, as a user of the pool sees it.

use std::sync::LazyLock;
use std::time::Duration;

use cofferdam_protocol::verdict::Verdict;
use cofferdam_protocol::writes::Writes;

use super::failed_attempt::{FailedAttempt, WorkerInfo};
use super::quarantine::Quarantined;
use super::reset::ResetHandle;

/// The output of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JobOutput {
    /// The job did not complete, so there is no output.
    #[default]
    Nothing,
    /// The pairs that a block flushed.
    Writes(Writes),
    /// The result of a view.
    View(Vec<u8>),
}

/// The result of a job.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict in words; empty for a completed job.
    pub detail: String,
    /// The attempts that were lost to the host, oldest first. If the verdict is a host verdict, it is that of the last one.
    pub failed_attempts: Vec<FailedAttempt>,
    /// The worker that answered, or the one that was lost last.
    pub worker: WorkerInfo,
    /// The output of a completed job.
    pub output: JobOutput,
    /// What the guest logged, up to 64 KiB. Invalid UTF-8 is replaced.
    pub log: String,
    /// The time that the guest ran, host functions included. Zero for a host verdict.
    pub exec: Duration,
    /// The time from submitting the job to receiving its result, minus the time that the guest ran.
    pub overhead: Duration,
    /// The size of the guest's memory at the end, in bytes.
    pub memory_bytes: u64,
    /// The fuel that was used, if fuel is metered.
    pub fuel_used: Option<u64>,
    /// The reset of the worker's memory, which begins after the answer.
    pub reset: ResetHandle,
    /// Set if the job is in quarantine, because of this result or of an earlier one.
    pub quarantine: Option<Box<Quarantined>>,
}

impl JobResult {
    /// Whether no attempt was made because the job is in quarantine. The failed attempts are then those of an earlier request.
    pub fn is_from_memory(&self) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.from_memory)
    }

    /// The number of attempts that were made.
    pub fn attempts(&self) -> usize {
        match self.verdict {
            _ if self.is_from_memory() => 0,
            Verdict::Guest(_) => self.failed_attempts.len() + 1,
            Verdict::Host(_) => self.failed_attempts.len(),
        }
    }

    /// The pairs that a completed block flushed. Empty for any other result.
    pub fn writes(&self) -> &Writes {
        static NONE: LazyLock<Writes> = LazyLock::new(Writes::default);
        match &self.output {
            JobOutput::Writes(writes) => writes,
            _ => &NONE,
        }
    }

    /// The bytes that a completed view returned. Empty for any other result.
    pub fn view_result(&self) -> &[u8] {
        match &self.output {
            JobOutput::View(bytes) => bytes,
            _ => &[],
        }
    }
}
