//! One attempt at a job: the round trip to one worker, and the checks of what the worker says.

#[cfg(feature = "tokio")]
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::Span;
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::message::{self, Call, MAX_LOG_BYTES, Reply, Request};
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use cofferdam_protocol::writes::{BufferPool, Writes};

use super::deadline::after;
use super::death::{Death, KillReason};
use super::failed_attempt::{FailedAttempt, WorkerInfo};
use super::job::Job;
use super::layers::StateLayer;
use super::reset::ResetHandle;
use super::result::JobOutput;
use super::settings::Limits;
use super::worker::{IdleWorker, Link, ReceiveError};

/// An answer that was checked.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) output: JobOutput,
    pub(super) log: String,
}

/// An attempt that a worker is making. The worker becomes idle again by [`Attempt::complete`], and in no other way.
#[derive(Debug)]
pub(super) struct Attempt {
    idle: IdleWorker,
    job_id: u64,
    /// The wall-clock time that the attempt may take.
    limit: Duration,
    pub(super) deadline: Instant,
    output_limit: u64,
    /// What the worker said, until it is checked.
    reply: Option<Reply>,
    /// Why there will be no answer, once that is known.
    pub(super) failure: Option<Failure>,
}

impl Attempt {
    /// Sends `job` to a worker.
    pub(super) fn start(idle: IdleWorker, job: &Job, job_id: u64, number: u32, limits: &Limits) -> Self {
        idle.worker.note_request(job_id, job.to_string());
        let limit = job.deadline.unwrap_or(limits.deadline);
        let mut attempt = Self {
            idle,
            job_id,
            limit,
            deadline: after(limit),
            output_limit: limits.output_bytes,
            reply: None,
            failure: None,
        };
        attempt.failure = attempt.send(job, number).err();
        attempt
    }

    fn send(&mut self, job: &Job, number: u32) -> Result<(), Failure> {
        let link = &mut self.idle.link;
        let input = link.input.write_parts(job.input.parts()).map_err(|error| Failure::violation(&error))?;
        let request = Request::Job(message::Job {
            id: self.job_id,
            attempt: number,
            call: job.call.clone(),
            height: job.height,
            input,
            state_tip: job.state_tip,
            base: job.base,
            layers: job.layers.iter().map(StateLayer::layer).collect(),
        });
        frame::send(&mut link.requests, &request).map_err(Failure::from_frame)
    }

    /// The descriptor that becomes readable when the answer is there, or never will be.
    #[cfg(feature = "tokio")]
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.idle.link.descriptor()
    }

    /// Waits until `until` for the reply, or for the reason why there will be none. Returns whether either has come.
    pub(super) fn wait_for_reply(&mut self, until: Instant) -> bool {
        if self.reply.is_some() || self.failure.is_some() {
            return true;
        }
        match self.idle.link.receive(until.min(self.deadline)) {
            Ok(reply) => self.reply = Some(reply),
            Err(ReceiveError::Timeout) if Instant::now() < self.deadline => return false,
            Err(ReceiveError::Timeout) => {
                self.failure = Some(Failure::Kill(KillReason::Deadline(self.limit)));
            }
            Err(ReceiveError::Frame(error)) => self.failure = Some(Failure::from_frame(error)),
        }
        true
    }

    /// The size of the output in bytes, as the worker reports it. None before the reply.
    #[cfg(feature = "tokio")]
    pub(super) fn output_bytes(&self) -> Option<u64> {
        self.reply.as_ref().map(|reply| reply.output.length)
    }

    /// Waits until `until` for the answer, and checks it. None if the answer has not come by then, and still may.
    pub(super) fn wait_for_answer(&mut self, job: &Job, until: Instant) -> Option<Result<Answer, Failure>> {
        if !self.wait_for_reply(until) {
            return None;
        }
        match (self.failure.take(), self.reply.take()) {
            (Some(failure), _) => Some(Err(failure)),
            (None, Some(reply)) => Some(self.check(job, reply)),
            (None, None) => None,
        }
    }

    /// Waits for the answer, at most until the attempt's deadline.
    pub(super) fn wait_for_end(&mut self, job: &Job) -> Result<Answer, Failure> {
        loop {
            if let Some(end) = self.wait_for_answer(job, self.deadline) {
                return end;
            }
        }
    }

    /// Gives the worker back, after a sound answer.
    pub(super) fn complete(self, answer: &Answer) -> (IdleWorker, ResetHandle) {
        let Self { idle, job_id, .. } = self;
        idle.worker.note_answer(|| answer.reply.verdict.to_string());
        let reset = ResetHandle::new(&idle.worker, job_id);
        (idle, reset)
    }

    /// Gives the worker up, and says what that means for the job.
    pub(super) fn fail(self, failure: Failure) -> Loss {
        let Self { idle, .. } = self;
        let (worker, info) = (Arc::clone(&idle.worker), idle.worker.info());
        let is_gone = matches!(failure, Failure::Gone);
        let (reason, death) = match failure {
            Failure::Gone => (None, idle.wait_exit()),
            Failure::Kill(reason) => (Some(reason.clone()), idle.kill(reason)),
        };
        let is_unbegun = !matches!(worker.status.phase(), Some(Phase::Running) | None);
        let lost = failed_attempt(info, death, reason.as_ref());
        match lost {
            _ if worker.was_stopped() => Loss::PoolStopping,
            lost if is_gone && is_unbegun => Loss::BeforeJob(lost),
            lost => Loss::DuringJob(lost),
        }
    }

    /// Copies out what the reply names, and checks all of it: a worker is not trusted.
    fn check(&self, job: &Job, reply: Reply) -> Result<Answer, Failure> {
        if reply.job != self.job_id {
            let text = format!("the worker answered job {} when it was asked job {}", reply.job, self.job_id);
            return Err(Failure::Kill(KillReason::Violation(text)));
        }
        if reply.output.length > self.output_limit || reply.log.length > MAX_LOG_BYTES {
            let text = format!("{} bytes of output, {} of log", reply.output.length, reply.log.length);
            return Err(Failure::Kill(KillReason::Violation(text)));
        }
        let copy = |span: Span| match span.length {
            0 => Ok(Vec::new()),
            _ => self.idle.link.output.copy_out(span).map_err(|error| Failure::violation(&error)),
        };
        let log = copy(reply.log)?;
        let output = match (reply.verdict, &job.call) {
            (GuestVerdict::Completed, Call::Block) => JobOutput::Writes(self.copy_writes(reply.output)?),
            (GuestVerdict::Completed, Call::View { .. }) => JobOutput::View(copy(reply.output)?),
            _ => JobOutput::Nothing,
        };
        Ok(Answer { reply, output, log: String::from_utf8_lossy(&log).into_owned() })
    }

    /// Copies pairs out, into the pool's result buffer if they are many, and checks them.
    fn copy_writes(&self, span: Span) -> Result<Writes, Failure> {
        let Link { output, result_buffer, .. } = &self.idle.link;
        let mut is_lent = false;
        let lend = |bytes| result_buffer.lend(bytes).inspect(|_| is_lent = true);
        // A span outside the arena is refused before the buffer is lent. The buffer is lost only if the kernel fails to read the
        // arena, and the kernel has no reason to fail.
        let bytes = output.copy_out_to(span, lend).map_err(|error| Failure::violation(&error))?;
        let writes = if is_lent {
            Writes::parse_pooled(bytes, Arc::clone(result_buffer) as Arc<dyn BufferPool>)
        } else {
            Writes::parse(bytes)
        };
        writes.map_err(|error| Failure::violation(&error))
    }
}

/// How an attempt was lost.
pub(super) enum Loss {
    /// The pool is stopping, and killed the worker.
    PoolStopping,
    /// The worker was dying before it began the job. This death says nothing about the job, and does not count as an attempt.
    BeforeJob(FailedAttempt),
    /// The worker had begun the job, or was killed for what it did.
    DuringJob(FailedAttempt),
}

/// Why an attempt has no answer.
#[derive(Debug)]
pub(super) enum Failure {
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
            // This is what a death looks like: the pipe is closed, breaks, or ends within a frame.
            FrameError::Closed | FrameError::Truncated { .. } | FrameError::Io(_) => Self::Gone,
            other => Self::violation(&other),
        }
    }
}

fn failed_attempt(worker: WorkerInfo, death: Option<Death>, reason: Option<&KillReason>) -> FailedAttempt {
    if let Some(Death { verdict, detail, exit, .. }) = death {
        let exit = exit.and_then(WorkerExit::from_code);
        let supervisors_fault = exit == Some(WorkerExit::ProtocolViolated);
        return FailedAttempt { worker, verdict, detail, supervisors_fault };
    }
    // The kernel holds the process, in uninterruptible sleep for example. So it is known why the process was killed, but not how
    // the process will end.
    let undead = "the process was sent SIGKILL and has not ended yet";
    let (verdict, detail) = match reason.and_then(KillReason::verdict) {
        Some((verdict, why)) => (verdict, format!("{why}; {undead}")),
        None => (HostVerdict::Killed, undead.to_owned()),
    };
    FailedAttempt { worker, verdict, detail, supervisors_fault: false }
}
