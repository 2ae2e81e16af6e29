//! The pool: committed worker processes behind a small interface.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use cofferdam_pool::{Job, Pool};
//!
//! // The first line of `main`: a process that was started as a worker becomes one here.
//! cofferdam_pool::init();
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
//! a token that is not put back is a worker that ends. A job that ends its workers is answered from memory (`quarantine`).
//! One thread a slot (`slot`, `keeper`) starts workers, waits for their deaths (`dying`, `death`, `oom`, `kernel_log`) and
//! replaces them ([`restart`]); which slots there are, and whether there may be more, is known in one place (`register`).
//! Hooks and wakers run in threads of their own (`teller`, `dispatch`, `ticket`, `threads`). The rest asks questions: whether the memory is there
//! ([`admission`], [`cgroup`]), and where the compiled module comes from (`artifact`).
//!
//! The pool knows nothing of any chain: a block is bytes at a height.

mod aloft;
mod artifact;
mod attempt;
mod builder;
mod call;
mod death;
mod dispatch;
mod dying;
mod error;
mod health;
pub mod host;
mod idle;
mod job;
mod keeper;
mod kernel_log;
mod layers;
#[cfg(test)]
mod models;
mod oom;
pub mod orphans;
mod primitives;
mod process;
mod quarantine;
mod register;
pub mod restart;
mod room;
mod settings;
mod size;
mod slot;
mod start;
mod teller;
mod threads;
mod ticket;
mod uncommitted;
mod worker;

use std::sync::{Arc, Mutex, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Profile;
use cofferdam_protocol::writes::Writes;
use crossbeam_channel::{Receiver, Sender};

pub use aloft::Aloft;
pub use artifact::{ArtifactOrigin, default_cache_directory};
pub use builder::need_of;
pub use builder::{PoolBuilder, Progress, StartProgress};
pub use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};
pub use death::{Death, RequestRecord};
pub use error::{MAX_EXPORT_BYTES, PoolError};
pub use health::{DeathCounts, Health, SlotHealth, SlotState};
pub use job::{FailedAttempt, Input, Job, JobOutput, JobResult, MAX_LAYERS, ResetHandle, WorkerInfo};
#[doc(hidden)]
pub use layers::LayerRoom;
pub use layers::StateLayer;
pub use quarantine::{QuarantineEntry, QuarantinePolicy, Quarantined};
pub use ticket::Ticket;
pub use uncommitted::Uncommitted;

pub use settings::Limits;

// What an embedder needs beside the pool.
pub use cofferdam_protocol::{exit, fault, profile, status, verdict, writes};
pub use cofferdam_worker::{InitError, init, init_with};

use call::Desk;
use cofferdam_base::sync::lock;
use dispatch::{Followers, Queued};
use size::Size;
use slot::Slots;
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
    #[cfg(feature = "tokio")]
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
    /// Empty once the pool is drained.
    dispatchers: Mutex<Vec<JoinHandle<()>>>,
    /// Locked while the pool is being drained, so that a second drain waits for the first.
    draining: Mutex<()>,
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
        dispatch::submit(queue.as_ref().ok_or(PoolError::Draining)?, job)
    }

    /// Begins `job` in this thread, and waits for at most `patience`: for a caller that must not wait long, an executor's
    /// thread, say. A short job may be done by then, without having been handed to another thread; a longer one is
    /// [`Aloft`]. Of one for which no worker is idle there is a [`Ticket`].
    ///
    /// # Errors
    /// As [`Pool::call`] and [`Pool::submit`].
    pub fn begin(&self, job: Job, patience: Duration) -> Result<Begun, PoolError> {
        if let Some(result) = self.desk.quarantined(&job) {
            return Ok(Begun::Done(Box::new(result)));
        }
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
        let queued = lock(&self.queue).as_ref().map_or(0, Sender::len);
        Health::of(&self.slots, queued, self.desk.quarantine.len())
    }

    /// Starts one worker more, up to as many as were asked for, and waits until it is ready; whether there was room for
    /// one. For a pool that was started small: see [`PoolBuilder::initially`].
    ///
    /// # Errors
    /// Any [`PoolError`] about memory or start, and [`PoolError::Draining`] once the pool stops. The pool is then as it was.
    pub fn grow(&self) -> Result<bool, PoolError> {
        self.size.grow(&self.slots)
    }

    /// Ends one worker that is idle, or gets so within `patience`, and does not replace it; whether there was one. Its
    /// memory is free then.
    pub fn shrink(&self, patience: Duration) -> bool {
        self.slots.retire(patience)
    }

    /// Jobs that are in quarantine, the one that was asked for last at the end: see [`QuarantinePolicy`].
    pub fn quarantine(&self) -> Vec<QuarantineEntry> {
        self.desk.quarantine.entries()
    }

    /// Whether `job` is in quarantine: its result then, from memory, whatever the workers are doing.
    pub fn quarantined(&self, job: &Job) -> Option<JobResult> {
        self.desk.quarantined(job)
    }

    /// Whether any job is, or may become so.
    pub fn has_quarantine(&self) -> bool {
        !self.desk.quarantine.is_empty()
    }

    /// Whether [`Pool::quarantined`] has to hash the job's input to answer.
    pub fn may_be_quarantined(&self, job: &Job) -> bool {
        self.desk.quarantine.may_have(job)
    }

    /// Lifts the quarantine of the job with this [`QuarantineEntry::id`], so that it is run again when it is next asked for;
    /// whether there was one.
    pub fn lift_quarantine(&self, id: u64) -> bool {
        self.desk.quarantine.lift(id)
    }

    /// Lifts every quarantine; how many there were.
    pub fn lift_all_quarantines(&self) -> usize {
        self.desk.quarantine.lift_all()
    }

    /// Takes over what is in quarantine in `other`, a pool of the same profile.
    pub fn take_over_quarantine(&self, other: &Self) {
        self.desk.quarantine.take_over(&other.desk.quarantine);
    }

    /// Whether no worker will ever be ready again: every slot failed more often than the restart policy allows.
    pub fn is_lost(&self) -> bool {
        self.desk.is_closed() && !self.desk.is_draining()
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
        self.desk.refuse_jobs();
    }

    /// Takes no more jobs, lets running ones finish for at most `grace`, and ends every worker.
    ///
    /// Returns whether everything that was running finished, and every process is gone. No process is left behind, but for one
    /// that the kernel does not let die: it is waited for no longer than [`PoolBuilder::kill_patience`] allows, and then ends
    /// by itself. Can be called from anywhere, a death hook and a waker of a [`Ticket`] included; a second call waits for the
    /// first.
    pub fn drain(&self, grace: Duration) -> bool {
        let deadline = after(grace);
        self.desk.refuse_jobs();
        // Queued jobs are answered by `Draining` as soon as a dispatcher gets to them.
        *lock(&self.queue) = None;
        if !self.desk.id.is_here() {
            let _first = lock(&self.draining);
            let finished = self.end(deadline);
            self.join_dispatchers();
            return finished;
        }
        // In a thread of the pool itself, for which another drain may be waiting.
        match self.draining.try_lock() {
            Err(TryLockError::WouldBlock) => self.slots.await_stop(),
            Ok(_) | Err(TryLockError::Poisoned(_)) => self.end(deadline),
        }
    }

    /// Waits for what runs, and ends every worker. Depends on no thread that may run code of others.
    fn end(&self, deadline: Instant) -> bool {
        let finished = self.slots.stopped().is_some() || self.desk.wait_for_running_jobs(deadline);
        // Not before: what is aloft may still have to be followed.
        self.followers.close();
        self.slots.stop(deadline) && finished
    }

    fn join_dispatchers(&self) {
        /// For a waker that takes its time.
        const PATIENCE: Duration = Duration::from_secs(5);
        // A dispatcher that panicked has lost its jobs' tickets, whose holders are told; nothing to add here.
        threads::join_within(std::mem::take(&mut *lock(&self.dispatchers)), PATIENCE);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

/// The two ends of a channel.
type Channel<T> = (Sender<T>, Receiver<T>);
