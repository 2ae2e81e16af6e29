//! The policy of the quarantine, and its entries as a user of the pool sees them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use cofferdam_protocol::profile::Hash;

use super::super::failed_attempt::FailedAttempt;

/// When a job that kills its workers is answered from memory, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantinePolicy {
    /// How long a job is answered from memory. Default 10 minutes. Zero turns the quarantine off.
    pub time: Duration,
    /// The number of jobs that are remembered. Beyond that, the job that was asked for longest ago is forgotten. Default 1024. Zero
    /// turns the quarantine off.
    pub entries: usize,
    /// The number of workers that a job must have killed, over all its requests and retries, before it is in quarantine. Default 2.
    pub deaths: u32,
}

impl Default for QuarantinePolicy {
    fn default() -> Self {
        Self { time: Duration::from_mins(10), entries: 1024, deaths: 2 }
    }
}

impl QuarantinePolicy {
    /// A policy that puts no job into quarantine.
    pub const OFF: Self = Self { time: Duration::ZERO, entries: 0, deaths: 2 };
}

/// The quarantine of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// When the quarantine began.
    pub since: SystemTime,
    /// When the quarantine ends, unless it is lifted before.
    pub until: SystemTime,
    /// Whether the result is from memory, so that no attempt was made for it.
    pub from_memory: bool,
}

impl Quarantined {
    /// The time that is left of the quarantine.
    pub fn left(&self) -> Duration {
        self.until.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// The detail of a result from memory.
    pub(in super::super) fn sentence(&self, failed: &[FailedAttempt]) -> String {
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
    /// Identifies the entry for as long as it exists: see [`Pool::lift_quarantine`](crate::Pool::lift_quarantine).
    pub id: u64,
    /// The view that is called. None for a block.
    pub export: Option<String>,
    /// The job's height.
    pub height: u32,
    /// The size of the input in bytes.
    pub input_bytes: u64,
    /// The SHA-256 of the input.
    pub input_sha256: Hash,
    /// The time of the quarantine.
    pub quarantined: Quarantined,
    /// The number of workers that the job has killed.
    pub deaths: u32,
    /// The last attempts, oldest first.
    pub failed: Vec<FailedAttempt>,
    /// The number of requests that were answered from memory.
    pub answered: u64,
}
