//! Running one job to its final result. The thread that waits for the result speaks to the worker's pipes itself: handing a job
//! to another thread and back costs more than the round trip to the worker.

use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::{HostVerdict, Verdict};

use super::attempt::{Answer, Attempt, Loss};
use super::dispatcher::Dispatcher;
use super::error::PoolError;
use super::failed_attempt::{FailedAttempt, WorkerInfo};
use super::job::Job;
use super::quarantine::Quarantined;
use super::reset::ResetHandle;
use super::result::{JobOutput, JobResult};
use super::run::JobRun;
use super::started::StartedJob;

/// The number of dead workers that one job may be sent to without an attempt being counted. There is a limit because only the
/// worker's own report says that it had not begun the job.
const MAX_UNBEGUN: u32 = 16;

/// From this size on, copying an output takes longer than handing the job to another thread.
#[cfg(feature = "tokio")]
const LARGE_OUTPUT_BYTES: u64 = 256 << 10;

/// What a look at a started job shows.
#[cfg(feature = "tokio")]
#[derive(Debug)]
pub(super) enum Polled {
    /// The job is done.
    Completed(Box<JobResult>),
    /// The worker is still running the job.
    InFlight(JobRun),
    /// The worker was lost, or its output is large. [`Dispatcher::finish`] does the rest, which takes time.
    NeedsThread(JobRun),
}

impl Dispatcher {
    /// Runs `job`, and retries it after host verdicts.
    pub(super) fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        let started = Instant::now();
        self.check_job(job)?;
        let _permit = self.take_permit()?;
        self.run(started, job)
    }

    /// As [`Dispatcher::call`], for a caller that has a permit.
    pub(super) fn run(&self, started: Instant, job: &Job) -> Result<JobResult, PoolError> {
        match self.quarantined(job) {
            Some(result) => Ok(result),
            None => self.finish(JobRun::new(started), job),
        }
    }

    /// Looks at a started job, until `deadline`.
    #[cfg(feature = "tokio")]
    pub(super) fn poll(&self, mut run: JobRun, job: &Job, deadline: Instant) -> Polled {
        let Some(mut attempt) = run.current.take() else { return Polled::NeedsThread(run) };
        let is_there = attempt.wait_for_reply(deadline);
        if is_there && attempt.output_bytes().is_some_and(|bytes| bytes <= LARGE_OUTPUT_BYTES) {
            match attempt.wait_for_answer(job, deadline) {
                Some(Ok(answer)) => {
                    return Polled::Completed(Box::new(self.complete(attempt, answer, run, job)));
                }
                other => attempt.failure = other.and_then(Result::err),
            }
        }
        run.current = Some(attempt);
        if is_there { Polled::NeedsThread(run) } else { Polled::InFlight(run) }
    }

    /// Waits for the final result of a started job in this thread, and completes its ticket.
    pub(super) fn finish_started(&self, started: StartedJob) {
        let StartedJob { job, run, permit, completion } = started;
        let result = self.finish(run, &job);
        drop(permit);
        completion.complete(result);
    }

    /// Brings a job to its final result.
    fn finish(&self, mut run: JobRun, job: &Job) -> Result<JobResult, PoolError> {
        while run.attempt <= self.max_attempts() {
            let mut attempt = match run.current.take() {
                Some(attempt) => attempt,
                None => {
                    if run.attempt > 1 {
                        self.check_open()?;
                    }
                    self.start_attempt(self.take_idle()?, job, run.attempt)
                }
            };
            let failure = match attempt.wait_for_end(job) {
                Ok(answer) => return Ok(self.complete(attempt, answer, run, job)),
                Err(failure) => failure,
            };
            match attempt.fail(failure) {
                // Neither the worker nor the block is to blame.
                Loss::PoolStopping => return Err(PoolError::Draining),
                Loss::BeforeJob(lost) if run.unbegun < MAX_UNBEGUN => {
                    tracing::info!("{job}: worker {} was dead already ({})", lost.worker.pid, lost.detail);
                    run.unbegun += 1;
                }
                Loss::BeforeJob(lost) | Loss::DuringJob(lost) => {
                    note_lost(&mut run, job, lost);
                    // Another request for the same job may have used up its attempts meanwhile.
                    if run.attempt <= self.max_attempts()
                        && let Some(result) = self.quarantined(job)
                    {
                        return Ok(result);
                    }
                }
            }
        }
        let quarantine = self.quarantine.lost(job, &run.failed, self.has_own_time(job));
        Ok(poisoned(run.started.elapsed(), run.failed, quarantine))
    }

    /// The result of a job that is in quarantine: from memory, whatever the workers are doing. None for any other job.
    pub(super) fn quarantined(&self, job: &Job) -> Option<JobResult> {
        let (quarantine, failed) = self.quarantine.find(job)?;
        Some(poisoned(Duration::ZERO, failed, Some(quarantine)))
    }

    fn max_attempts(&self) -> u32 {
        self.settings.limits.retries.saturating_add(1)
    }

    /// Whether the job has less time than the pool gives.
    fn has_own_time(&self, job: &Job) -> bool {
        job.deadline.is_some_and(|own| own < self.settings.limits.deadline)
    }

    /// Takes an answer. A worker becomes idle again only here, after a sound answer.
    fn complete(&self, attempt: Attempt, answer: Answer, run: JobRun, job: &Job) -> JobResult {
        let (idle, reset) = attempt.complete(&answer);
        let info = idle.worker.info();
        self.idle.put(idle);
        self.quarantine.answered(job);
        completed(run.started, info, answer, reset, run.failed)
    }
}

fn note_lost(run: &mut JobRun, job: &Job, lost: FailedAttempt) {
    tracing::warn!(
        "{job}: attempt {} lost worker {} ({}: {})",
        run.attempt,
        lost.worker.pid,
        lost.verdict,
        lost.detail
    );
    run.attempt += 1;
    run.failed.push(lost);
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
    // The worker reports this time itself: a lie must not make the difference negative.
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

/// The result of a job whose every attempt was lost, now or earlier.
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
