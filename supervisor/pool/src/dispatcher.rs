//! Where callers and slots meet: the idle workers, and the permits to use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cofferdam_protocol::message::Call;
use crossbeam_channel::Receiver;

use super::attempt::Attempt;
use super::deadline::after;
use super::error::{MAX_EXPORT_BYTES, PoolError};
use super::idle::{Choice, Idle};
use super::job::Job;
use super::layers::{LayerArena, MAX_LAYERS};
use super::permits::{Permit, Permits};
use super::quarantine::Quarantine;
use super::result_buffer::ResultBuffer;
use super::run::JobRun;
use super::settings::Settings;
use super::started::{StartedJob, StartedJobs};
use super::threads::PoolId;
use super::worker::IdleWorker;

/// Gives jobs to idle workers. Shared by every caller and every slot of a pool.
#[derive(Debug)]
pub(super) struct Dispatcher {
    /// The pool that the dispatcher belongs to.
    pub(super) id: PoolId,
    pub(super) settings: Arc<Settings>,
    /// The arena of layers, in which jobs find the writes that the store does not hold yet.
    pub(super) layers: Arc<LayerArena>,
    /// Memory for one large result.
    pub(super) result_buffer: Arc<ResultBuffer>,
    pub(super) idle: Idle,
    /// One for each job that may run at a time. With spares there are more workers than permits.
    permits: Permits,
    /// Threads that wait for a permit or for a worker.
    waiting: AtomicUsize,
    draining: AtomicBool,
    /// Jobs that are answered from memory because they kill their workers.
    pub(super) quarantine: Quarantine,
    /// Jobs that run and that no thread waits for in [`Dispatcher::call`].
    pub(super) started: StartedJobs,
    next_job: AtomicU64,
}

/// Counts one thread that waits for a permit or for a worker, until this value is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Dispatcher {
    /// A dispatcher without workers, and the jobs that its collector threads have to collect.
    pub(super) fn new(
        settings: Arc<Settings>,
        layers: Arc<LayerArena>,
        result_buffer: Arc<ResultBuffer>,
    ) -> (Self, Receiver<StartedJob>) {
        let (started, to_collect) = StartedJobs::new();
        let dispatcher = Self {
            id: PoolId::new(),
            quarantine: Quarantine::new(settings.quarantine),
            permits: Permits::new(settings.workers),
            settings,
            layers,
            result_buffer,
            idle: Idle::new(),
            waiting: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            started,
            next_job: AtomicU64::new(1),
        };
        (dispatcher, to_collect)
    }

    /// Says that no worker will come any more, so that nobody waits for one.
    pub(super) fn close(&self) {
        self.idle.close();
        self.permits.close();
    }

    /// Undoes [`Dispatcher::close`]: a pool that was shrunk to nothing grows again.
    pub(super) fn reopen(&self) {
        if !self.is_draining() {
            self.permits.reopen();
            self.idle.reopen();
        }
    }

    /// Whether no worker will come any more.
    pub(super) fn is_closed(&self) -> bool {
        self.idle.is_closed()
    }

    /// Takes no more jobs from now on.
    pub(super) fn refuse_jobs(&self) {
        // This write is sequentially consistent, so that a drain sees the permit of every thread that takes a permit and then
        // finds the dispatcher open.
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(super) fn check_open(&self) -> Result<(), PoolError> {
        if self.is_draining() { Err(PoolError::Draining) } else { Ok(()) }
    }

    /// Checks that the workers can take `job`.
    pub(super) fn check_job(&self, job: &Job) -> Result<(), PoolError> {
        let limit = self.settings.limits.input_bytes;
        if job.input.len() as u64 > limit {
            return Err(PoolError::InputTooLarge { bytes: job.input.len() as u64, limit });
        }
        if job.layers.len() > MAX_LAYERS || !job.layers.iter().all(|layer| layer.is_in(&self.layers)) {
            return Err(PoolError::Layers);
        }
        match &job.call {
            Call::View { export } if export.len() > MAX_EXPORT_BYTES => {
                Err(PoolError::ExportName { bytes: export.len() })
            }
            _ => Ok(()),
        }
    }

    /// Waits until no job runs, or until `deadline`. Returns whether no job runs.
    pub(super) fn wait_for_running_jobs(&self, deadline: Instant) -> bool {
        let _waiting = self.wait();
        self.permits.wait_until_all_free(Some(deadline))
    }

    /// Takes a permit, and waits while none is free.
    pub(super) fn take_permit(&self) -> Result<Permit, PoolError> {
        self.check_open()?;
        let permit = self.permits.try_acquire().or_else(|| {
            let _waiting = self.wait();
            self.permits.acquire()
        });
        let permit = permit.ok_or_else(|| self.no_worker())?;
        self.check_open().map(|()| permit)
    }

    /// Takes an idle worker, and waits while none is idle.
    pub(super) fn take_idle(&self) -> Result<IdleWorker, PoolError> {
        let idle = self.idle.try_take().or_else(|| {
            let _waiting = self.wait();
            self.idle.take(Choice::Soonest, None)
        });
        idle.ok_or_else(|| self.no_worker())
    }

    /// Takes the worker that has been idle for longest, and waits for one for at most `timeout`, while one may come.
    pub(super) fn take_oldest_idle(&self, timeout: Duration) -> Option<IdleWorker> {
        let _waiting = self.wait();
        self.idle.take(Choice::Oldest, Some(after(timeout)))
    }

    /// Starts `job` if a worker is idle now and no other job waits. None otherwise.
    pub(super) fn start(&self, job: &Job) -> Result<Option<(JobRun, Permit)>, PoolError> {
        let mut run = JobRun::new(Instant::now());
        self.check_job(job)?;
        self.check_open()?;
        if self.is_anyone_waiting() {
            return Ok(None);
        }
        let Some(permit) = self.permits.try_acquire() else { return Ok(None) };
        // This checks again, because a drain that began before the permit was taken may have seen that no job runs.
        self.check_open()?;
        let Some(idle) = self.idle.try_take() else { return Ok(None) };
        run.current = Some(self.start_attempt(idle, job, run.attempt));
        Ok(Some((run, permit)))
    }

    /// Starts an attempt at `job` on a worker.
    pub(super) fn start_attempt(&self, idle: IdleWorker, job: &Job, number: u32) -> Attempt {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        Attempt::start(idle, job, id, number, &self.settings.limits)
    }

    /// Whether a thread waits for a permit or for a worker.
    pub(super) fn is_anyone_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Has jobs collected that were left to their tickets long ago: nobody polls those tickets.
    pub(super) fn collect_neglected(&self) {
        #[cfg(feature = "tokio")]
        {
            /// A ticket that is polled keeps its job for a shorter time than this.
            const NEGLECTED: Duration = Duration::from_millis(100);
            self.started.collect_left(NEGLECTED);
        }
    }

    /// Notes that this thread waits for a permit or for a worker.
    fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // This comes after the count. A ticket that gets its job from now on sees the count, and hands the job over itself.
        #[cfg(feature = "tokio")]
        self.started.collect_left(Duration::ZERO);
        Waiting(&self.waiting)
    }

    fn no_worker(&self) -> PoolError {
        if self.is_draining() { PoolError::Draining } else { PoolError::NoWorker }
    }
}
