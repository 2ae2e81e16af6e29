//! Running one job: the caller's thread takes an idle worker and speaks to its pipes itself.
//!
//! Handing a job to another thread and back costs more than the round trip to the worker, so no thread stands in
//! between.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::Span;
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::message::{self, Call, MAX_LOG_BYTES, Reply, Request};
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict, Verdict};
use cofferdam_protocol::writes::Writes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select, unbounded};

use super::builder::Settings;
use super::death::{Death, KillReason};
use super::job::{FailedAttempt, Job, JobOutput, JobResult, ResetHandle, WorkerInfo};
use super::worker::{IdleWorker, Silence, Worker, after, lock};
use super::{Channel, MAX_EXPORT_BYTES, PoolError};

/// An output arena of which more than this may have been written gives its memory back after the job, in bytes. The
/// input arena keeps what it once used: a seal that protects it from the worker forbids that too.
const KEEP_OUTPUT_BYTES: u64 = 16 << 20;

/// How many workers that were dead already one job can meet without that counting as attempts. That a worker had not begun is
/// its own word, so there is a bound.
const MAX_UNBEGUN: u32 = 16;

/// Where callers and slots meet: idle workers, and permits to use them.
#[derive(Debug)]
pub(super) struct Desk {
    settings: Arc<Settings>,
    /// Tokens of idle workers, first in, first out: so that the one that was used last has the longest time to reset.
    idle: Channel<IdleWorker>,
    /// As many as there may be jobs at a time: with spares there are more workers than that.
    permits: Channel<()>,
    /// Disconnected when no worker will ever come again.
    closed: (Mutex<Option<Sender<()>>>, Receiver<()>),
    pub(super) draining: AtomicBool,
    next_job: AtomicU64,
}

/// An answer that was checked.
struct Answer {
    reply: Reply,
    output: JobOutput,
    log: String,
}

impl Desk {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        let permits = bounded(settings.workers);
        for _ in 0..settings.workers {
            // There is room for exactly these.
            let _ = permits.0.try_send(());
        }
        let (closer, closed) = bounded(0);
        Self {
            settings,
            idle: unbounded(),
            permits,
            closed: (Mutex::new(Some(closer)), closed),
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
        *lock(&self.closed.0) = None;
    }

    /// Whether no worker will ever come again.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.closed.0).is_none()
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
        let limit = self.settings.limits.input_bytes;
        if job.input.len() as u64 > limit {
            return Err(PoolError::InputTooLarge { bytes: job.input.len() as u64, limit });
        }
        if let Call::View { export } = &job.call
            && export.len() > MAX_EXPORT_BYTES
        {
            return Err(PoolError::ExportName { bytes: export.len() });
        }
        self.take_permit()?;
        let result = self.attempt_until_final(job, started);
        // There is room for what was taken.
        let _ = self.permits.0.try_send(());
        result
    }

    fn attempt_until_final(&self, job: &Job, started: Instant) -> Result<JobResult, PoolError> {
        let mut failed: Vec<FailedAttempt> = Vec::new();
        let mut unbegun = 0;
        let mut attempt = 1;
        while attempt <= self.settings.limits.retries.saturating_add(1) {
            if attempt > 1 {
                self.check_open()?;
            }
            let idle = self.take_idle()?;
            match self.attempt(idle, job, attempt) {
                Ok((info, answer, reset)) => return Ok(completed(started, info, answer, reset, failed)),
                // Not the worker's doing, nor the block's.
                Err(Lost::ToDrain) => return Err(PoolError::Draining),
                Err(Lost::Unbegun(lost)) if unbegun < MAX_UNBEGUN => {
                    tracing::info!("{job}: worker {} was dead already ({})", lost.worker.pid, lost.detail);
                    unbegun += 1;
                }
                Err(Lost::Unbegun(lost) | Lost::Attempt(lost)) => {
                    attempt += 1;
                    tracing::warn!(
                        "{job}: attempt {} lost worker {} ({}: {})",
                        attempt - 1,
                        lost.worker.pid,
                        lost.verdict,
                        lost.detail
                    );
                    failed.push(lost);
                }
            }
        }
        Ok(poisoned(started, failed))
    }

    fn take_permit(&self) -> Result<(), PoolError> {
        self.check_open()?;
        if self.permits.1.try_recv().is_err() {
            select! {
                // Both ends live as long as the desk: what is received is a permit.
                recv(self.permits.1) -> _ => {}
                recv(self.closed.1) -> _ => return Err(self.no_worker()),
            }
        }
        self.check_open().inspect_err(|_| {
            let _ = self.permits.0.try_send(());
        })
    }

    fn check_open(&self) -> Result<(), PoolError> {
        if self.draining.load(Ordering::Acquire) { Err(PoolError::Draining) } else { Ok(()) }
    }

    /// The worker that has been idle for longest; waits for one if there is none.
    fn take_idle(&self) -> Result<IdleWorker, PoolError> {
        loop {
            let idle = match self.idle.1.try_recv() {
                Ok(idle) => idle,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => select! {
                    recv(self.idle.1) -> idle => idle.map_err(|_| PoolError::NoWorker)?,
                    recv(self.closed.1) -> _ => return Err(self.no_worker()),
                },
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

    /// One attempt. The worker comes back to the idle ones only from here, and only after a sound answer.
    fn attempt(
        &self,
        mut idle: IdleWorker,
        job: &Job,
        attempt: u32,
    ) -> Result<(WorkerInfo, Answer, ResetHandle), Lost> {
        let id = self.next_job.fetch_add(1, Ordering::Relaxed);
        let info = idle.worker.info();
        idle.worker.asked(id, job.to_string());
        match self.round_trip(&mut idle, job, id, attempt) {
            Ok(answer) => {
                idle.worker.answered(|| answer.reply.verdict.to_string());
                let reset = ResetHandle::new(Arc::clone(&idle.worker), id);
                self.put_idle(idle);
                Ok((info, answer, reset))
            }
            Err(failure) => {
                let worker = Arc::clone(&idle.worker);
                let gone = matches!(failure, Failure::Gone);
                let death = match failure {
                    Failure::Gone => idle.mourn(),
                    Failure::Kill(reason) => idle.condemn(reason),
                };
                let unbegun = !matches!(worker.status.phase(), Some(Phase::Running) | None);
                let lost = failed_attempt(info, death);
                Err(match lost {
                    _ if worker.was_stopped() => Lost::ToDrain,
                    lost if gone && unbegun => Lost::Unbegun(lost),
                    lost => Lost::Attempt(lost),
                })
            }
        }
    }

    fn round_trip(&self, idle: &mut IdleWorker, job: &Job, id: u64, attempt: u32) -> Result<Answer, Failure> {
        let limit = job.deadline.unwrap_or(self.settings.limits.deadline);
        let link = &mut idle.link;
        let input = link.input.write_parts(job.input.parts()).map_err(|error| Failure::violation(&error))?;
        let request = Request::Job(message::Job {
            id,
            attempt,
            call: job.call.clone(),
            height: job.height,
            input,
            state_tip: job.state_tip,
        });
        let deadline = after(limit);
        frame::send(&mut link.requests, &request).map_err(Failure::from_frame)?;
        let reply: Reply = link.receive(deadline).map_err(|silence| match silence {
            Silence::Timeout => Failure::Kill(KillReason::Deadline(limit)),
            Silence::Frame(error) => Failure::from_frame(error),
        })?;
        self.check(idle, job, id, reply)
    }

    /// Copies out what the reply names and checks all of it: a worker is not trusted.
    fn check(&self, idle: &IdleWorker, job: &Job, id: u64, reply: Reply) -> Result<Answer, Failure> {
        if reply.job != id {
            let text = format!("it answered job {} when job {id} was asked", reply.job);
            return Err(Failure::Kill(KillReason::Violation(text)));
        }
        if reply.output.length > self.settings.limits.output_bytes || reply.log.length > MAX_LOG_BYTES {
            let text = format!("{} bytes of output, {} of log", reply.output.length, reply.log.length);
            return Err(Failure::Kill(KillReason::Violation(text)));
        }
        let copy = |span: Span| match span.length {
            0 => Ok(Vec::new()),
            _ => idle.link.output.copy_out(span).map_err(|error| Failure::violation(&error)),
        };
        let log = copy(reply.log)?;
        let output = match (reply.verdict, &job.call) {
            (GuestVerdict::Completed, Call::Block) => {
                let writes = Writes::parse(copy(reply.output)?);
                JobOutput::Writes(writes.map_err(|error| Failure::violation(&error))?)
            }
            (GuestVerdict::Completed, Call::View { .. }) => JobOutput::View(copy(reply.output)?),
            _ => JobOutput::Nothing,
        };
        // How much a job that did not complete has written, nobody says.
        if reply.output.length > KEEP_OUTPUT_BYTES || reply.verdict != GuestVerdict::Completed {
            // Only memory is at stake; the next release gets it too.
            let _ = idle.link.output.release();
        }
        Ok(Answer { reply, output, log: String::from_utf8_lossy(&log).into_owned() })
    }
}

/// How an attempt was lost.
enum Lost {
    /// The pool stops, and ended the worker.
    ToDrain,
    /// The worker was dying before it looked at the job: that says nothing of the job, and is no attempt at it.
    Unbegun(FailedAttempt),
    /// With the job begun, or for what the worker did.
    Attempt(FailedAttempt),
}

/// Why an attempt has no answer.
enum Failure {
    /// The worker closed its pipe: it is dead, or about to be.
    Gone,
    /// The worker has to be killed.
    Kill(KillReason),
}

impl Failure {
    fn violation(error: &dyn std::error::Error) -> Self {
        Self::Kill(KillReason::Violation(error.to_string()))
    }

    fn from_frame(error: FrameError) -> Self {
        match error {
            // A pipe that is closed, or breaks, or ends within a frame, is what a death looks like.
            FrameError::Closed | FrameError::Torn { .. } | FrameError::Io(_) => Self::Gone,
            other => Self::violation(&other),
        }
    }
}

fn failed_attempt(worker: WorkerInfo, death: Option<Death>) -> FailedAttempt {
    match death {
        Some(Death { verdict, detail, .. }) => FailedAttempt { worker, verdict, detail },
        // Its slot's thread is gone without a word: the pool is being torn down.
        None => FailedAttempt { worker, verdict: HostVerdict::Killed, detail: "the pool stopped".to_owned() },
    }
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
