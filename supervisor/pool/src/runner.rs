//! What a pool and the ordinary way to run a guest have in common.

use std::sync::Arc;

use cofferdam_protocol::profile::Profile;

use super::error::PoolError;
use super::job::Job;
use super::result::JobResult;

/// Something that runs jobs: a [`Pool`](super::Pool), or [`Uncommitted`](super::Uncommitted), which pools are compared with.
pub trait Runner {
    /// Runs `job` and waits for its result, in this thread.
    ///
    /// # Errors
    /// Any [`PoolError`] about a job.
    fn call(&self, job: &Job) -> Result<JobResult, PoolError>;

    /// What every result depends on.
    fn profile(&self) -> &Profile;
}

impl<R: Runner + ?Sized> Runner for &R {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        (**self).call(job)
    }

    fn profile(&self) -> &Profile {
        (**self).profile()
    }
}

impl<R: Runner + ?Sized> Runner for Arc<R> {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        (**self).call(job)
    }

    fn profile(&self) -> &Profile {
        (**self).profile()
    }
}
