//! The common interface of a pool and of the ordinary way to run a guest.

use std::sync::Arc;

use cofferdam_protocol::profile::Profile;
use cofferdam_protocol::writes::Writes;

use super::error::PoolError;
use super::job::Job;
use super::layers::StateLayer;
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

    /// Runs `job` on two workers at the same time if two are in service. Otherwise one worker runs the job twice.
    ///
    /// # Errors
    /// Any [`PoolError`] about a job.
    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError> {
        Ok([self.call(job)?, self.call(job)?])
    }

    /// Makes a layer of what the block at `height` wrote, for jobs that run before the store has the block: see
    /// [`Pool::layer`](super::Pool::layer). None if there is no room for it.
    fn layer(&self, _height: u32, _writes: &Writes) -> Option<StateLayer> {
        None
    }
}

impl<R: Runner + ?Sized> Runner for &R {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        (**self).call(job)
    }

    fn profile(&self) -> &Profile {
        (**self).profile()
    }

    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError> {
        (**self).call_twice(job)
    }

    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        (**self).layer(height, writes)
    }
}

impl<R: Runner + ?Sized> Runner for Arc<R> {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        (**self).call(job)
    }

    fn profile(&self) -> &Profile {
        (**self).profile()
    }

    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError> {
        (**self).call_twice(job)
    }

    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        (**self).layer(height, writes)
    }
}
