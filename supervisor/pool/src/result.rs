//! The result of a job, as a user of the pool sees it.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use cofferdam_protocol::verdict::Verdict;
use cofferdam_protocol::writes::Writes;

use super::failed_attempt::{FailedAttempt, WorkerInfo};
use super::quarantine::Quarantined;
use super::reset::ResetHandle;

/// The output of a job.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum JobOutput {
    /// The job did not complete, so there is no output.
    #[default]
    Nothing,
    /// The pairs that a block flushed.
    Writes(Writes),
    /// The result of a view.
    View(Vec<u8>),
}

impl fmt::Debug for JobOutput {
    /// Prints how large the output is, and not the bytes: a view can return many megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Writes(writes) => fmt::Debug::fmt(writes, f),
            Self::View(result) => write!(f, "View({} bytes)", result.len()),
        }
    }
}

/// The result of a job.
#[derive(Clone)]
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

impl fmt::Debug for JobResult {
    /// Prints what fits a message: of the output its size, and of the log its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How much of the log is shown, in bytes.
        const SHOWN: usize = 400;
        let end = &self.log[self.log.ceil_char_boundary(self.log.len().saturating_sub(SHOWN))..];
        f.debug_struct("JobResult")
            .field("verdict", &self.verdict)
            .field("detail", &self.detail)
            .field("failed_attempts", &self.failed_attempts)
            .field("worker", &self.worker)
            .field("output", &self.output)
            .field("log_bytes", &self.log.len())
            .field("log_end", &end)
            .field("exec", &self.exec)
            .field("overhead", &self.overhead)
            .field("memory_bytes", &self.memory_bytes)
            .field("fuel_used", &self.fuel_used)
            .field("quarantine", &self.quarantine)
            .finish_non_exhaustive()
    }
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
