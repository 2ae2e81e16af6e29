//! A job on its way to its final result.

use std::time::Instant;

use super::attempt::Attempt;
use super::failed_attempt::FailedAttempt;

/// What has happened to a job since it was submitted.
#[derive(Debug)]
pub(super) struct JobRun {
    pub(super) started: Instant,
    /// The number of the attempt that is being made, or of the next one; the first is 1.
    pub(super) attempt: u32,
    /// The number of workers that were dead before they began the job.
    pub(super) unbegun: u32,
    pub(super) failed: Vec<FailedAttempt>,
    /// The attempt that is being made.
    pub(super) current: Option<Attempt>,
}

impl JobRun {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, attempt: 1, unbegun: 0, failed: Vec::new(), current: None }
    }
}
