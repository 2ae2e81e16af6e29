//! The pool's interface.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Profile;
use cofferdam_protocol::writes::Writes;

use super::artifact::ArtifactOrigin;
use super::deadline::after;
use super::dispatcher::Dispatcher;
use super::error::PoolError;
use super::health::Health;
#[cfg(feature = "tokio")]
use super::in_flight::InFlight;
use super::job::Job;
use super::layers::StateLayer;
use super::quarantine::QuarantineEntry;
use super::queue::JobQueue;
use super::result::JobResult;
use super::runner::Runner;
use super::settings::Limits;
use super::size::Size;
use super::slots::Slots;
use super::started::StartedJob;
use super::threads::{PoolThread, join_by};
use super::ticket::Ticket;
use cofferdam_base::sync::lock;

impl Runner for Pool {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        self.dispatcher.call(job)
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn call_twice(&self, job: &Job) -> Result<[JobResult; 2], PoolError> {
        // If a worker is idle, `submit` sends the job to that worker at once. `call` then takes another worker, so two workers
        // run the job.
        let ticket = self.submit(job.clone())?;
        let (other, one) = (Self::call(self, job)?, ticket.wait()?);
        Ok([one, other])
    }

    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        Self::layer(self, height, writes)
    }
}

/// A pool of workers with committed memory. Cheap to share behind an [`Arc`]. Dropping the pool stops every worker.
#[derive(Debug)]
pub struct Pool {
    pub(super) profile: Profile,
    pub(super) module_bytes: u64,
    pub(super) artifact: ArtifactOrigin,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) slots: Slots,
    pub(super) size: Size,
    pub(super) queue: Arc<JobQueue>,
    /// The threads that work for tickets. Empty once the pool is drained.
    pub(super) threads: Mutex<Vec<PoolThread>>,
    /// Locked while the pool is being drained, so that a second drain waits for the first.
    pub(super) draining: Mutex<()>,
}

impl Pool {
    /// Runs `job` and waits for its result, in this thread: the fastest way.
    ///
    /// Waits while all workers are busy. After a host verdict, the job is retried on another worker; a host verdict is the result
    /// only once the retries are used up. A guest verdict is final.
    ///
    /// # Errors
    /// [`PoolError::InputTooLarge`], [`PoolError::ExportName`], [`PoolError::Layers`], [`PoolError::Draining`] and
    /// [`PoolError::NoWorker`].
    pub fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        self.dispatcher.call(job)
    }

    /// Submits `job` and returns at once, with a [`Ticket`] that can be waited for or awaited.
    ///
    /// If a worker is idle and no other job waits, this thread sends the job to the worker, which copies the input (about 20 µs
    /// for 1 MB). Otherwise the job is queued. From an executor's thread, submit a large input by way of its `spawn_blocking`.
    ///
    /// # Errors
    /// [`PoolError::Saturated`] if as many jobs are waiting as [`PoolBuilder::queue`](super::PoolBuilder::queue) allows;
    /// otherwise as [`Pool::call`].
    pub fn submit(&self, job: Job) -> Result<Ticket, PoolError> {
        if let Some(result) = self.dispatcher.quarantined(&job) {
            return Ok(Ticket::done(result));
        }
        let Some((run, permit)) = self.dispatcher.start(&job)? else {
            return self.queue.submit(job);
        };
        let (ticket, completion) = Ticket::new();
        let started = StartedJob { job, run, permit, completion };
        #[cfg(feature = "tokio")]
        if InFlight::is_possible_here() {
            return Ok(ticket.collects(InFlight::new(&self.dispatcher, started)));
        }
        self.dispatcher.started.collect(started);
        Ok(ticket)
    }

    /// What every result of this pool depends on.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether the module was compiled for this pool, or found in the cache.
    pub fn artifact_origin(&self) -> ArtifactOrigin {
        self.artifact
    }

    /// Makes a layer of the writes of the block at `height`. A job that names the layer ([`Job::over`]) sees the writes before
    /// the store has them. None if there is no room; see [`PoolBuilder::layer_bytes`](super::PoolBuilder::layer_bytes).
    pub fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        self.dispatcher.layers.lay(height, writes)
    }

    /// The state of the pool at this moment.
    pub fn health(&self) -> Health {
        Health::of(&self.slots, self.queue.len(), self.dispatcher.quarantine.len())
    }

    /// Starts one more worker, up to the number that the builder asked for, and waits until it is ready. Returns whether there was
    /// room for one. For a pool that was started with fewer workers: see
    /// [`PoolBuilder::initially`](super::PoolBuilder::initially).
    ///
    /// # Errors
    /// Any [`PoolError`] about memory or start, and [`PoolError::Draining`] once the pool stops. The pool is then as before.
    pub fn grow(&self) -> Result<bool, PoolError> {
        self.size.grow(&self.slots)
    }

    /// Stops one worker that is idle, or becomes idle within `timeout`, and does not replace it. Returns true if such a worker
    /// was stopped and its memory is free.
    pub fn shrink(&self, timeout: Duration) -> bool {
        self.slots.retire(timeout)
    }

    /// The jobs in quarantine; the job that was asked for last is at the end. See
    /// [`QuarantinePolicy`](super::QuarantinePolicy).
    pub fn quarantine(&self) -> Vec<QuarantineEntry> {
        self.dispatcher.quarantine.entries()
    }

    /// The result of `job` if it is in quarantine: from memory, whatever the workers are doing. None for any other job.
    pub fn quarantined(&self, job: &Job) -> Option<JobResult> {
        self.dispatcher.quarantined(job)
    }

    /// Whether any job is in quarantine, or has lost a worker recently.
    pub fn has_quarantine(&self) -> bool {
        !self.dispatcher.quarantine.is_empty()
    }

    /// Whether [`Pool::quarantined`] has to hash the job's input to answer.
    pub fn may_be_quarantined(&self, job: &Job) -> bool {
        self.dispatcher.quarantine.may_have(job)
    }

    /// Lifts the quarantine of the job with this [`QuarantineEntry::id`], so that the job is run when it is next asked for.
    /// Returns whether there was such a job.
    pub fn lift_quarantine(&self, id: u64) -> bool {
        self.dispatcher.quarantine.lift(id)
    }

    /// Lifts every quarantine. Returns how many there were.
    pub fn lift_all_quarantines(&self) -> usize {
        self.dispatcher.quarantine.lift_all()
    }

    /// Takes over the quarantine of `other`, a pool of the same profile.
    pub fn take_over_quarantine(&self, other: &Self) {
        self.dispatcher.quarantine.take_over(&other.dispatcher.quarantine);
    }

    /// Whether no worker will ever be ready again: the workers of every slot failed more often than the restart policy allows.
    pub fn is_lost(&self) -> bool {
        self.dispatcher.is_closed() && !self.dispatcher.is_draining()
    }

    /// The number of workers, spares included, that the pool has when it is complete.
    pub fn full_size(&self) -> usize {
        self.size.full()
    }

    /// What one job may use.
    pub fn limits(&self) -> &Limits {
        self.size.limits()
    }

    /// The size of the module in binary form, in bytes.
    pub fn module_bytes(&self) -> u64 {
        self.module_bytes
    }

    /// The memory that each worker commits, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.profile.memory_bytes
    }

    /// The number of jobs that run at the same time when the pool is complete.
    pub fn workers(&self) -> usize {
        self.size.workers()
    }

    /// Takes no more jobs from now on, and retries no job that is lost. Running jobs continue; [`Pool::drain`] ends them.
    pub fn refuse_jobs(&self) {
        self.dispatcher.refuse_jobs();
    }

    /// Takes no more jobs, lets running ones finish for at most `grace`, and stops every worker.
    ///
    /// Returns whether every running job finished and every process is gone. No process is left behind, except one that the kernel
    /// does not let die. Such a process is waited for no longer than [`PoolBuilder::kill_timeout`] allows, and then ends by itself.
    /// This can be called from any thread, also from a death hook and from a waker of a [`Ticket`]. A second call waits for the
    /// first.
    ///
    /// [`PoolBuilder::kill_timeout`]: super::PoolBuilder::kill_timeout
    pub fn drain(&self, grace: Duration) -> bool {
        let deadline = after(grace);
        self.dispatcher.refuse_jobs();
        // Dispatcher threads answer queued jobs with `Draining`.
        self.queue.close();
        if !self.dispatcher.id.is_here() {
            let _first = lock(&self.draining);
            let finished = self.end(deadline);
            self.join_threads();
            return finished;
        }
        // This is a thread of the pool itself, for which another drain may be waiting.
        match self.draining.try_lock() {
            Err(TryLockError::WouldBlock) => self.slots.wait_for_stop(),
            Ok(_) | Err(TryLockError::Poisoned(_)) => self.end(deadline),
        }
    }

    /// Waits for running jobs, and stops every worker. Depends on no thread that may run code of the embedding program.
    fn end(&self, deadline: Instant) -> bool {
        let finished = self.slots.stopped().is_some() || self.dispatcher.wait_for_running_jobs(deadline);
        // Do not close this earlier: a running job may still have to be collected.
        self.dispatcher.started.close();
        self.slots.stop(deadline) && finished
    }

    fn join_threads(&self) {
        /// How long to wait for a thread that runs a slow waker.
        const WAKER_TIMEOUT: Duration = Duration::from_secs(5);
        // If a thread has panicked, its tickets say that their jobs are lost.
        join_by(std::mem::take(&mut *lock(&self.threads)), after(WAKER_TIMEOUT));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}
