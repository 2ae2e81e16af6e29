//! Running one job: the caller's thread takes an idle worker and speaks to its pipes itself.
//!
//! Handing a job to another thread and back costs more than the round trip to the worker, so no thread stands in
//! between.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::message::Call;
use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::attempt::{Answer, Flight, Lost};
use super::idle::Idle;
use super::job::{FailedAttempt, Job, JobOutput, JobResult, ResetHandle, WorkerInfo};
use super::layers::LayerArena;
use super::quarantine::{Quarantine, Quarantined};
use super::room::Room;
use super::settings::Settings;
use super::threads::PoolId;
use super::worker::{IdleWorker, Worker, after};
use super::{Channel, MAX_EXPORT_BYTES, MAX_LAYERS, PoolError};
use cofferdam_base::sync::lock;

/// How many workers that were dead already one job can meet without that counting as attempts. That a worker had not begun is
/// its own word, so there is a bound.
const MAX_UNBEGUN: u32 = 16;

/// Where callers and slots meet: idle workers, and permits to use them.
#[derive(Debug)]
pub(super) struct Desk {
    /// The pool that it belongs to.
    pub(super) id: PoolId,
    settings: Arc<Settings>,
    /// Where jobs find what the state does not hold yet.
    pub(super) layers: Arc<LayerArena>,
    /// Memory for one large result.
    pub(super) room: Arc<Room>,
    idle: Idle,
    /// As many as there may be jobs at a time: with spares there are more workers than that.
    permits: Channel<()>,
    /// Disconnected when no worker will ever come again.
    closed: Mutex<(Option<Sender<()>>, Receiver<()>)>,
    draining: AtomicBool,
    /// Jobs that are answered from memory, because they end their workers.
    pub(super) quarantine: Quarantine,
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

    /// What can be read when there is something to look at.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.flight.as_ref().map(Flight::descriptor)
    }

    /// When the time of the attempt is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.flight.as_ref().map(|flight| flight.deadline)
    }
}

/// What a look at a job that was begun shows.
#[derive(Debug)]
pub(super) enum Look {
    /// It is done.
    Landed(Box<JobResult>),
    /// A worker is at it.
    Aloft(Course),
    /// Its worker failed it, or has much to say: [`Desk::finish`] does the rest, which takes time.
    Long(Course),
}

impl Desk {
    pub(super) fn new(settings: Arc<Settings>, layers: Arc<LayerArena>, room: Arc<Room>) -> Self {
        let permits = bounded(settings.workers);
        for _ in 0..settings.workers {
            // There is room for exactly these.
            let _ = permits.0.try_send(());
        }
        Self {
            id: PoolId::new(),
            quarantine: Quarantine::new(settings.quarantine),
            settings,
            layers,
            room,
            idle: Idle::new(),
            permits,
            closed: Mutex::new(open()),
            draining: AtomicBool::new(false),
            next_job: AtomicU64::new(1),
        }
    }

    /// Puts a worker where callers find it.
    pub(super) fn put_idle(&self, worker: IdleWorker) {
        self.idle.put(worker);
    }

    /// Takes every idle worker that `keep` does not want.
    pub(super) fn take_idle_unless(&self, keep: impl Fn(&Worker) -> bool) -> Vec<IdleWorker> {
        self.idle.take_unless(keep)
    }

    /// Takes the worker that has been idle for longest, waiting for one for at most `patience`, and only while one may come.
    pub(super) fn take_idle_within(&self, patience: Duration) -> Option<IdleWorker> {
        let (deadline, closing) = (after(patience), self.closing());
        loop {
            if self.idle.units().try_recv().is_err() {
                select! {
                    recv(self.idle.units()) -> _ => {}
                    recv(closing) -> _ => return None,
                    default(deadline.saturating_duration_since(Instant::now())) => return None,
                }
            }
            if let Some(idle) = self.idle.claim_oldest() {
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
        if closed.0.is_none() && !self.is_draining() {
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
        const STEP: Duration = Duration::from_millis(1);
        // Looked at and not taken: a thread that was let in just before the drain began must get one, and learn of the drain,
        // and somebody else may be waiting for the same.
        while self.permits.1.len() < self.settings.workers {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            thread::sleep(STEP.min(deadline - now));
        }
        true
    }

    /// Runs `job`, retrying it after host verdicts.
    pub(super) fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        let started = Instant::now();
        self.check_job(job)?;
        let _permit = self.take_permit()?;
        match self.quarantined(job) {
            Some(result) => Ok(result),
            None => self.finish(Course::new(started), job),
        }
    }

    /// Begins `job` if a worker is idle at this moment; none if there is no such worker.
    pub(super) fn begin(&self, job: &Job) -> Result<Option<(Course, Permit)>, PoolError> {
        let mut course = Course::new(Instant::now());
        self.check_job(job)?;
        self.check_open()?;
        let Ok(()) = self.permits.1.try_recv() else { return Ok(None) };
        let permit = Permit(self.permits.0.clone());
        // Again: a drain that began in between may have seen that nothing runs.
        self.check_open()?;
        let Some(idle) = self.idle.try_take() else { return Ok(None) };
        course.flight = Some(self.take_off(idle, job, course.attempt));
        Ok(Some((course, permit)))
    }

    /// Looks at a job that was begun, until `deadline`.
    pub(super) fn look(&self, mut course: Course, job: &Job, deadline: Instant) -> Look {
        /// From so much on it takes longer to copy than to hand over to another thread.
        const MUCH_BYTES: u64 = 256 << 10;
        let Some(mut flight) = course.flight.take() else { return Look::Long(course) };
        let is_there = flight.await_reply(deadline);
        if is_there && flight.output_bytes().is_some_and(|bytes| bytes <= MUCH_BYTES) {
            match flight.await_answer(job, deadline) {
                Some(Ok(answer)) => return Look::Landed(Box::new(self.land(flight, answer, course, job))),
                landed => flight.failure = landed.and_then(Result::err),
            }
        }
        course.flight = Some(flight);
        if is_there { Look::Long(course) } else { Look::Aloft(course) }
    }

    /// Follows a job to its final result.
    pub(super) fn finish(&self, mut course: Course, job: &Job) -> Result<JobResult, PoolError> {
        while course.attempt <= self.attempts() {
            let mut flight = match course.flight.take() {
                Some(flight) => flight,
                None => {
                    if course.attempt > 1 {
                        self.check_open()?;
                    }
                    self.take_off(self.take_idle()?, job, course.attempt)
                }
            };
            let failure = match flight.await_end(job) {
                Ok(answer) => return Ok(self.land(flight, answer, course, job)),
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
                    // Another one of the same kind may have used up its attempts meanwhile.
                    if course.attempt <= self.attempts()
                        && let Some(result) = self.quarantined(job)
                    {
                        return Ok(result);
                    }
                }
            }
        }
        let quarantine = self.quarantine.lost(job, &course.failed, self.has_own_time(job));
        Ok(poisoned(course.started.elapsed(), course.failed, quarantine))
    }

    /// The result of a job that is in quarantine: from memory, whatever the workers are doing.
    pub(super) fn quarantined(&self, job: &Job) -> Option<JobResult> {
        let (quarantine, failed) = self.quarantine.find(job)?;
        Some(poisoned(Duration::ZERO, failed, Some(quarantine)))
    }

    fn attempts(&self) -> u32 {
        self.settings.limits.retries.saturating_add(1)
    }

    /// Whether the job has less time than others have.
    fn has_own_time(&self, job: &Job) -> bool {
        job.deadline.is_some_and(|own| own < self.settings.limits.deadline)
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
    fn land(&self, flight: Flight, answer: Answer, course: Course, job: &Job) -> JobResult {
        let (idle, reset) = flight.end(&answer);
        let info = idle.worker.info();
        self.put_idle(idle);
        self.quarantine.answered(job);
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

    /// Takes no more jobs from now on.
    pub(super) fn refuse_jobs(&self) {
        // In one order with the permits: whoever finds the desk open after having taken a permit is seen to have it.
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn check_open(&self) -> Result<(), PoolError> {
        if self.is_draining() { Err(PoolError::Draining) } else { Ok(()) }
    }

    /// An idle worker; waits for one if there is none.
    fn take_idle(&self) -> Result<IdleWorker, PoolError> {
        if let Some(idle) = self.idle.try_take() {
            return Ok(idle);
        }
        loop {
            select! {
                recv(self.idle.units()) -> _ => {}
                recv(self.closing()) -> _ => return Err(self.no_worker()),
            }
            if let Some(idle) = self.idle.claim() {
                return Ok(idle);
            }
        }
    }

    fn no_worker(&self) -> PoolError {
        if self.is_draining() { PoolError::Draining } else { PoolError::NoWorker }
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
        quarantine: None,
    }
}

/// The result of a job whose every attempt was lost, just now or earlier.
fn poisoned(
    overhead: Duration,
    failed_attempts: Vec<FailedAttempt>,
    quarantine: Option<Quarantined>,
) -> JobResult {
    let last = failed_attempts.last();
    let verdict = last.map_or(HostVerdict::Killed, |attempt| attempt.verdict);
    let why = last.map_or_else(String::new, |attempt| attempt.detail.clone());
    let detail = match &quarantine {
        Some(quarantine) if quarantine.from_memory => quarantine.sentence(&failed_attempts),
        _ => why,
    };
    JobResult {
        verdict: Verdict::Host(verdict),
        detail,
        worker: last.map_or(WorkerInfo { pid: 0, slot: 0 }, |attempt| attempt.worker),
        output: JobOutput::Nothing,
        log: String::new(),
        exec: Duration::ZERO,
        overhead,
        memory_bytes: 0,
        fuel_used: None,
        reset: ResetHandle::none(),
        failed_attempts,
        quarantine: quarantine.map(Box::new),
    }
}
