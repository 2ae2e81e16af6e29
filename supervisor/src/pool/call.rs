//! Running one job: the caller's thread takes an idle worker and speaks to its pipes itself.
//!
//! Handing a job to another thread and back costs more than the round trip to the worker, so no thread stands in
//! between.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cofferdam_protocol::message::Call;
use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use super::attempt::{Answer, Flight, Lost};
use super::job::{FailedAttempt, Job, JobOutput, JobResult, ResetHandle, WorkerInfo};
use super::layers::LayerArena;
use super::settings::Settings;
use super::worker::{IdleWorker, Worker, after};
use super::{Channel, MAX_EXPORT_BYTES, MAX_LAYERS, PoolError};
use crate::sync::lock;

/// How many workers that were dead already one job can meet without that counting as attempts. That a worker had not begun is
/// its own word, so there is a bound.
const MAX_UNBEGUN: u32 = 16;

/// Where callers and slots meet: idle workers, and permits to use them.
#[derive(Debug)]
pub(super) struct Desk {
    settings: Arc<Settings>,
    /// Where jobs find what the state does not hold yet.
    pub(super) layers: Arc<LayerArena>,
    /// Tokens of idle workers, first in, first out: so that the one that was used last has the longest time to reset.
    idle: Channel<IdleWorker>,
    /// As many as there may be jobs at a time: with spares there are more workers than that.
    permits: Channel<()>,
    /// Disconnected when no worker will ever come again.
    closed: Mutex<(Option<Sender<()>>, Receiver<()>)>,
    pub(super) draining: AtomicBool,
    next_job: AtomicU64,
}

/// The right to have a job run: one of as many as there are workers. Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Sender<()>);

impl Drop for Permit {
    fn drop(&mut self) {
        // There is room for what was taken.
        let _ = self.0.try_send(());
    }
}

/// A job on its way to its final result.
#[derive(Debug)]
pub(super) struct Course {
    started: Instant,
    attempt: u32,
    /// Workers that it met dead.
    unbegun: u32,
    failed: Vec<FailedAttempt>,
    /// The attempt that is being made.
    flight: Option<Flight>,
}

impl Course {
    fn new(started: Instant) -> Self {
        Self { started, attempt: 1, unbegun: 0, failed: Vec::new(), flight: None }
    }
}

/// What came of beginning a job.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is done.
    Done(JobResult),
    /// A worker is at it; [`Desk::finish`] follows it.
    Aloft(Course, Permit),
    /// No worker was idle: it was not begun.
    NoWorker,
}

impl Desk {
    pub(super) fn new(settings: Arc<Settings>, layers: Arc<LayerArena>) -> Self {
        let permits = bounded(settings.workers);
        for _ in 0..settings.workers {
            // There is room for exactly these.
            let _ = permits.0.try_send(());
        }
        Self {
            settings,
            layers,
            idle: unbounded(),
            permits,
            closed: Mutex::new(open()),
            draining: AtomicBool::new(false),
            next_job: AtomicU64::new(1),
        }
    }

    /// Puts a worker where callers find it.
    pub(super) fn put_idle(&self, worker: IdleWorker) {
        // Both ends live as long as the desk.
        let _ = self.idle.0.send(worker);
    }

    /// Takes every idle worker that `keep` does not want.
    pub(super) fn take_idle_unless(&self, keep: impl Fn(&Worker) -> bool) -> Vec<IdleWorker> {
        let mut taken = Vec::new();
        for _ in 0..self.idle.1.len() {
            let Ok(idle) = self.idle.1.try_recv() else { break };
            if keep(&idle.worker) { self.put_idle(idle) } else { taken.push(idle) }
        }
        taken
    }

    /// Takes an idle worker, waiting for one for at most `patience`.
    pub(super) fn take_idle_within(&self, patience: Duration) -> Option<IdleWorker> {
        let deadline = after(patience);
        loop {
            let idle = self.idle.1.recv_deadline(deadline).ok()?;
            if idle.worker.is_alive() {
                return Some(idle);
            }
        }
    }

    /// Says that no worker will ever come again.
    pub(super) fn close(&self) {
        lock(&self.closed).0 = None;
    }

    /// Takes that back: a pool that was shrunk to nothing grows again.
    pub(super) fn reopen(&self) {
        let mut closed = lock(&self.closed);
        if closed.0.is_none() && !self.draining.load(Ordering::Acquire) {
            *closed = open();
        }
    }

    /// Ends when no worker will ever come again.
    fn closing(&self) -> Receiver<()> {
        lock(&self.closed).1.clone()
    }

    /// Whether no worker will ever come again.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.closed).0.is_none()
    }

    /// Waits until nothing runs, or for `deadline`; whether nothing does.
    pub(super) fn wait_for_running_jobs(&self, deadline: Instant) -> bool {
        let workers = self.settings.workers;
        let taken = (0..workers).take_while(|_| self.permits.1.recv_deadline(deadline).is_ok()).count();
        // Given back: a thread that was let in just before the drain began must get one, and learn of the drain, or
        // it would wait for ever.
        for _ in 0..taken {
            let _ = self.permits.0.try_send(());
        }
        taken == workers
    }

    /// Runs `job`, retrying it after host verdicts.
    pub(super) fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        let started = Instant::now();
        self.check_job(job)?;
        let _permit = self.take_permit()?;
        self.finish(Course::new(started), job)
    }

    /// Begins `job` if a worker is idle at this moment, and waits for its answer for at most `patience`.
    pub(super) fn begin(&self, job: &Job, patience: Duration) -> Result<Begun, PoolError> {
        let started = Instant::now();
        self.check_job(job)?;
        self.check_open()?;
        let Ok(()) = self.permits.1.try_recv() else { return Ok(Begun::NoWorker) };
        let permit = Permit(self.permits.0.clone());
        let Some(idle) = self.try_idle() else { return Ok(Begun::NoWorker) };
        let mut course = Course::new(started);
        let mut flight = self.take_off(idle, job, course.attempt);
        match flight.await_answer(job, started + patience) {
            Some(Ok(answer)) => Ok(Begun::Done(self.land(flight, answer, course))),
            landed => {
                flight.failure = landed.and_then(Result::err);
                course.flight = Some(flight);
                Ok(Begun::Aloft(course, permit))
            }
        }
    }

    /// Follows a job to its final result.
    pub(super) fn finish(&self, mut course: Course, job: &Job) -> Result<JobResult, PoolError> {
        while course.attempt <= self.settings.limits.retries.saturating_add(1) {
            let mut flight = match course.flight.take() {
                Some(flight) => flight,
                None => {
                    if course.attempt > 1 {
                        self.check_open()?;
                    }
                    self.take_off(self.take_idle()?, job, course.attempt)
                }
            };
            let failure = match flight.failure.take().map_or_else(|| flight.await_end(job), Err) {
                Ok(answer) => return Ok(self.land(flight, answer, course)),
                Err(failure) => failure,
            };
            match flight.lose(failure) {
                // Not the worker's doing, nor the block's.
                Lost::ToDrain => return Err(PoolError::Draining),
                Lost::Unbegun(lost) if course.unbegun < MAX_UNBEGUN => {
                    tracing::info!("{job}: worker {} was dead already ({})", lost.worker.pid, lost.detail);
                    course.unbegun += 1;
                }
                Lost::Unbegun(lost) | Lost::Attempt(lost) => {
                    tracing::warn!(
                        "{job}: attempt {} lost worker {} ({}: {})",
                        course.attempt,
                        lost.worker.pid,
                        lost.verdict,
                        lost.detail
                    );
                    course.attempt += 1;
                    course.failed.push(lost);
                }
            }
        }
        Ok(poisoned(course.started, course.failed))
    }

    fn check_job(&self, job: &Job) -> Result<(), PoolError> {
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

    fn take_off(&self, idle: IdleWorker, job: &Job, attempt: u32) -> Flight {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        Flight::begin(idle, job, id, attempt, &self.settings.limits)
    }

    /// Takes an answer. The worker comes back to the idle ones only from here: only after a sound answer.
    fn land(&self, flight: Flight, answer: Answer, course: Course) -> JobResult {
        let (idle, reset) = flight.end(&answer);
        let info = idle.worker.info();
        self.put_idle(idle);
        completed(course.started, info, answer, reset, course.failed)
    }

    fn take_permit(&self) -> Result<Permit, PoolError> {
        self.check_open()?;
        if self.permits.1.try_recv().is_err() {
            select! {
                // Both ends live as long as the desk: what is received is a permit.
                recv(self.permits.1) -> _ => {}
                recv(self.closing()) -> _ => return Err(self.no_worker()),
            }
        }
        let permit = Permit(self.permits.0.clone());
        self.check_open().map(|()| permit)
    }

    fn check_open(&self) -> Result<(), PoolError> {
        if self.draining.load(Ordering::Acquire) { Err(PoolError::Draining) } else { Ok(()) }
    }

    /// The worker that has been idle for longest, if there is one.
    fn try_idle(&self) -> Option<IdleWorker> {
        loop {
            let idle = self.idle.1.try_recv().ok()?;
            // The token of a worker that has died meanwhile is dropped here.
            if idle.worker.is_alive() {
                return Some(idle);
            }
        }
    }

    /// The worker that has been idle for longest; waits for one if there is none.
    fn take_idle(&self) -> Result<IdleWorker, PoolError> {
        if let Some(idle) = self.try_idle() {
            return Ok(idle);
        }
        loop {
            let idle = select! {
                recv(self.idle.1) -> idle => idle.map_err(|_| PoolError::NoWorker)?,
                recv(self.closing()) -> _ => return Err(self.no_worker()),
            };
            // The token of a worker that has died meanwhile is dropped here.
            if idle.worker.is_alive() {
                return Ok(idle);
            }
        }
    }

    fn no_worker(&self) -> PoolError {
        if self.draining.load(Ordering::Acquire) { PoolError::Draining } else { PoolError::NoWorker }
    }
}

/// What ends with its first half.
fn open() -> (Option<Sender<()>>, Receiver<()>) {
    let (closer, closed) = bounded(0);
    (Some(closer), closed)
}

fn completed(
    started: Instant,
    worker: WorkerInfo,
    answer: Answer,
    reset: ResetHandle,
    failed_attempts: Vec<FailedAttempt>,
) -> JobResult {
    let Answer { reply, output, log } = answer;
    let total = started.elapsed();
    // A worker's word: a lie must not make the rest negative.
    let exec = Duration::from_nanos(reply.exec_ns).min(total);
    JobResult {
        verdict: Verdict::Guest(reply.verdict),
        detail: reply.detail,
        failed_attempts,
        worker,
        output,
        log,
        exec,
        overhead: total - exec,
        memory_bytes: reply.memory_bytes,
        fuel_used: reply.fuel_used,
        reset,
    }
}

/// The result of a job whose every attempt was lost.
fn poisoned(started: Instant, failed_attempts: Vec<FailedAttempt>) -> JobResult {
    let last = failed_attempts.last();
    let verdict = last.map_or(HostVerdict::Killed, |attempt| attempt.verdict);
    let detail = last.map_or_else(String::new, |attempt| attempt.detail.clone());
    JobResult {
        verdict: Verdict::Host(verdict),
        detail,
        worker: last.map_or(WorkerInfo { pid: 0, slot: 0 }, |attempt| attempt.worker),
        output: JobOutput::Nothing,
        log: String::new(),
        exec: Duration::ZERO,
        overhead: started.elapsed(),
        memory_bytes: 0,
        fuel_used: None,
        reset: ResetHandle::none(),
        failed_attempts,
    }
}
