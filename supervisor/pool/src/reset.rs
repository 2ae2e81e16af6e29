//! The reset of a worker's memory after a job, seen from the supervisor.

use std::fmt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::status::ResetReport;

use super::deadline::after;
use super::worker::Worker;

/// Tells how the reset after one job went.
#[derive(Clone)]
pub struct ResetHandle {
    /// Weak, because a result must not keep the descriptors of a worker open that has ended.
    worker: Weak<Worker>,
    job: u64,
}

impl ResetHandle {
    pub(super) fn new(worker: &Arc<Worker>, job: u64) -> Self {
        Self { worker: Arc::downgrade(worker), job }
    }

    /// The handle of a job that no worker ran: there is no reset.
    pub fn none() -> Self {
        Self { worker: Weak::new(), job: 0 }
    }

    /// The report on the reset. None until the reset is done, none after a later job's reset on the same worker, and none once
    /// the worker is gone.
    pub fn report(&self) -> Option<ResetReport> {
        self.worker.upgrade()?.status.reset(self.job)
    }

    /// Whether the reset is not done yet and may still get done.
    pub fn is_pending(&self) -> bool {
        self.worker.upgrade().is_some_and(|worker| worker.is_alive() && worker.last_job() == self.job)
            && self.report().is_none()
    }

    /// Waits for the report, for at most `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<ResetReport> {
        // There is no event to wait for: the worker writes its report to shared memory and tells nobody, so that a reset costs
        // no system call. Only benchmarks and reports wait here.
        const POLL_INTERVAL: Duration = Duration::from_micros(100);
        let deadline = after(timeout);
        while self.is_pending() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
        self.report()
    }
}

impl fmt::Debug for ResetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetHandle").field("job", &self.job).field("report", &self.report()).finish()
    }
}
