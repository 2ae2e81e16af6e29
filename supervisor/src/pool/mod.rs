//! The pool: committed worker processes behind a small interface.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use cofferdam::pool::{Job, Pool};
//!
//! // The first line of `main`: a process that was started as a worker becomes one here.
//! cofferdam::init();
//! let module = std::fs::read("indexer.wasm")?;
//! let pool = Pool::builder(module).workers(2).build()?;
//! let result = pool.call(&Job::block(0, b"the block".to_vec()))?;
//! println!("{}: {} pairs", result.verdict, result.writes().count());
//! # Ok(()) }
//! ```
//!
//! Who does what: a caller's thread takes an idle worker, a token that can only be moved (`worker`),
//! speaks to its pipes itself (`call`, `attempt`; `aloft` where an executor waits for that), and puts the token back to the
//! `idle` ones only after an answer that proves the worker sound;
//! a token that is not put back is a worker that ends. One thread a slot (`slot`, `keeper`) starts workers, waits for their
//! deaths (`dying`, `death`) and replaces them ([`restart`]). The rest asks questions: whether the memory is there
//! ([`admission`], [`cgroup`]), and where the compiled module comes from (`artifact`).
//!
//! The pool knows nothing of any chain: a block is bytes at a height.

pub mod admission;
mod aloft;
mod artifact;
mod attempt;
mod builder;
mod call;
pub mod cgroup;
mod death;
mod dying;
mod error;
mod health;
mod idle;
mod job;
mod keeper;
mod layers;
pub(crate) mod orphans;
mod process;
pub mod restart;
mod settings;
mod size;
mod slot;
mod start;
mod ticket;
mod uncommitted;
mod worker;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cofferdam_protocol::profile::Profile;
use cofferdam_protocol::writes::Writes;
use crossbeam_channel::{Receiver, Sender};

pub use aloft::Aloft;
pub use artifact::{ArtifactOrigin, default_cache_directory};
pub(crate) use builder::need_of;
pub use builder::{PoolBuilder, Progress, StartProgress};
pub use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};
pub use death::{Death, RequestRecord};
pub use error::{MAX_EXPORT_BYTES, PoolError};
pub use health::{DeathCounts, Health, SlotHealth, SlotState};
pub use job::{FailedAttempt, Input, Job, JobOutput, JobResult, MAX_LAYERS, ResetHandle, WorkerInfo};
pub use layers::StateLayer;
pub use ticket::Ticket;
pub use uncommitted::Uncommitted;

pub use settings::Limits;

use crate::sync::lock;
use call::Desk;
use size::Size;
use slot::Slots;
use ticket::{Followers, Queued};
use worker::after;

/// What runs jobs: a [`Pool`], or the [`Uncommitted`] way that it is compared with.
pub trait Runner {
    /// Runs `job` and waits for its result, in this thread.
    ///
    /// # Errors
    /// Any [`PoolError`] about a job.
    fn call(&self, job: &Job) -> Result<JobResult, PoolError>;

    /// What every result depends on.
    fn profile(&self) -> &Profile;
}

impl Runner for Pool {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        self.desk.call(job)
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }
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

/// What came of beginning a job.
#[derive(Debug)]
pub enum Begun {
    /// It is done.
    Done(Box<JobResult>),
    /// A worker is at it, and whoever began it can wait for that.
    Aloft(Aloft),
    /// It waits for a worker, or a thread of the pool waits for the one that is at it.
    Later(Ticket),
}

impl Begun {
    /// Waits for the result, in this thread.
    ///
    /// # Errors
    /// As [`Pool::call`].
    pub fn wait(self) -> Result<JobResult, PoolError> {
        match self {
            Self::Done(result) => Ok(*result),
            Self::Aloft(aloft) => aloft.follow()?.wait(),
            Self::Later(ticket) => ticket.wait(),
        }
    }

    /// Waits for the result, as [`Aloft::land`] does.
    ///
    /// # Errors
    /// As [`Pool::call`].
    ///
    /// # Panics
    /// As [`Aloft::land`].
    pub async fn land(self) -> Result<JobResult, PoolError> {
        match self {
            Self::Done(result) => Ok(*result),
            Self::Aloft(aloft) => aloft.land().await,
            Self::Later(ticket) => ticket.await,
        }
    }
}

/// A pool of committed workers. Cheap to share behind an [`Arc`]; dropping it ends every worker.
#[derive(Debug)]
pub struct Pool {
    profile: Profile,
    module_bytes: u64,
    artifact: ArtifactOrigin,
    desk: Arc<Desk>,
    slots: Slots,
    size: Size,
    /// None once the pool is draining.
    queue: Mutex<Option<Sender<Queued>>>,
    /// Where jobs go that were begun and not waited for.
    followers: Followers,
    /// Empty once the pool is drained. Locked while it is being drained, so that a second drain waits for the first.
    dispatchers: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts to describe a pool that runs `module`, in binary or text form.
    pub fn builder(module: impl Into<Vec<u8>>) -> PoolBuilder {
        PoolBuilder::new(module.into())
    }

    /// Runs `job` and waits for its result, in this thread: the fastest way.
    ///
    /// Waits while all workers are busy. A host verdict is retried on another worker, and only given as the result
    /// once the retries are used up; a guest verdict is final.
    ///
    /// # Errors
    /// [`PoolError::InputTooLarge`], [`PoolError::Draining`] and [`PoolError::NoWorker`].
    pub fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        self.desk.call(job)
    }

    /// Hands `job` over and returns at once; the [`Ticket`] can be waited for or awaited.
    ///
    /// # Errors
    /// [`PoolError::Saturated`] if as many jobs as [`PoolBuilder::queue`] allows are waiting already,
    /// [`PoolError::Draining`].
    pub fn submit(&self, job: Job) -> Result<Ticket, PoolError> {
        let queue = lock(&self.queue);
        ticket::submit(queue.as_ref().ok_or(PoolError::Draining)?, job)
    }

    /// Begins `job` in this thread, and waits for at most `patience`: for a caller that must not wait long, an executor's
    /// thread, say. A short job may be done by then, without having been handed to another thread; a longer one is
    /// [`Aloft`]. Of one for which no worker is idle there is a [`Ticket`].
    ///
    /// # Errors
    /// As [`Pool::call`] and [`Pool::submit`].
    pub fn begin(&self, job: Job, patience: Duration) -> Result<Begun, PoolError> {
        let Some((course, permit)) = self.desk.begin(&job)? else {
            return self.submit(job).map(Begun::Later);
        };
        let aloft = Aloft::new(&self.desk, &self.followers, job, course, permit);
        if patience.is_zero() { Ok(Begun::Aloft(aloft)) } else { aloft.look(patience) }
    }

    /// What every result of this pool depends on.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether the module was compiled for this pool, or found compiled.
    pub fn artifact_origin(&self) -> ArtifactOrigin {
        self.artifact
    }

    /// Lays what the block at `height` wrote over the state, for jobs that are to see it before the store has it
    /// ([`Job::over`]); none if there is no room, see [`PoolBuilder::layer_bytes`].
    pub fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        self.desk.layers.lay(height, writes)
    }

    /// How the pool is at this moment.
    pub fn health(&self) -> Health {
        Health::of(&self.slots, lock(&self.queue).as_ref().map_or(0, Sender::len))
    }

    /// Starts one worker more, up to as many as were asked for, and waits until it is ready; whether there was room for
    /// one. For a pool that was started small: see [`PoolBuilder::initially`].
    ///
    /// # Errors
    /// Any [`PoolError`] about memory or start. The pool is then as it was.
    pub fn grow(&self) -> Result<bool, PoolError> {
        self.size.grow(&self.slots)
    }

    /// Ends one worker that is idle, or gets so within `patience`, and does not replace it; whether there was one. Its
    /// memory is free then.
    pub fn shrink(&self, patience: Duration) -> bool {
        self.slots.retire(&self.desk, patience)
    }

    /// Whether no worker will ever be ready again: every slot failed more often than the restart policy allows.
    pub fn is_lost(&self) -> bool {
        self.desk.is_closed() && !self.desk.draining.load(Ordering::Acquire)
    }

    /// How many workers, spares among them, the pool has when it is whole.
    pub fn full_size(&self) -> usize {
        self.size.full()
    }

    /// What one job may use.
    pub fn limits(&self) -> &Limits {
        self.size.limits()
    }

    /// Bytes of the module in binary form.
    pub fn module_bytes(&self) -> u64 {
        self.module_bytes
    }

    /// Bytes of memory that each worker commits.
    pub fn memory_bytes(&self) -> u64 {
        self.profile.memory_bytes
    }

    /// How many jobs run at the same time when the pool is whole.
    pub fn workers(&self) -> usize {
        self.size.workers()
    }

    /// Takes no more jobs from now on, and retries none that is lost. What runs goes on; [`Pool::drain`] ends it.
    pub fn refuse_jobs(&self) {
        self.desk.draining.store(true, Ordering::Release);
    }

    /// Takes no more jobs, lets running ones finish for at most `grace`, and ends every worker.
    ///
    /// Returns whether everything that was running finished. No process is left behind either way.
    pub fn drain(&self, grace: Duration) -> bool {
        let deadline = after(grace);
        let mut dispatchers = lock(&self.dispatchers);
        self.desk.draining.store(true, Ordering::Release);
        // Queued jobs are answered by `Draining` as soon as a dispatcher gets to them.
        *lock(&self.queue) = None;
        let finished = self.slots.are_stopped() || self.desk.wait_for_running_jobs(deadline);
        // Not before: what is aloft may still have to be followed.
        self.followers.close();
        self.slots.stop(&self.desk, deadline);
        for dispatcher in dispatchers.drain(..) {
            // A dispatcher that panicked has lost its jobs' tickets, whose holders are told; nothing to add here.
            let _ = dispatcher.join();
        }
        finished
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

/// The two ends of a channel.
type Channel<T> = (Sender<T>, Receiver<T>);
