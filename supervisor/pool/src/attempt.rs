//! One attempt at a job: the round trip to one worker, and the checks of what it says.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::Span;
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::message::{self, Call, MAX_LOG_BYTES, Reply, Request};
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use cofferdam_protocol::writes::{Home, Writes};

use super::StateLayer;
use super::death::{Death, KillReason};
use super::job::{FailedAttempt, Job, JobOutput, ResetHandle, WorkerInfo};
use super::settings::Limits;
use super::worker::{IdleWorker, Link, Silence, after};

/// An answer that was checked.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) output: JobOutput,
    pub(super) log: String,
}

/// A job that a worker is at. The worker is idle again after [`Flight::end`], and in no other way.
#[derive(Debug)]
pub(super) struct Flight {
    idle: IdleWorker,
    id: u64,
    /// The job's wall-clock time, and when it is over.
    limit: Duration,
    pub(super) deadline: Instant,
    output_limit: u64,
    /// What the worker said, until it is checked.
    reply: Option<Reply>,
    /// Why there will be no answer, if that is known.
    pub(super) failure: Option<Failure>,
}

impl Flight {
    /// Hands `job` to a worker.
    pub(super) fn begin(idle: IdleWorker, job: &Job, id: u64, attempt: u32, limits: &Limits) -> Self {
        idle.worker.asked(id, job.to_string());
        let limit = job.deadline.unwrap_or(limits.deadline);
        let mut flight = Self {
            idle,
            id,
            limit,
            deadline: after(limit),
            output_limit: limits.output_bytes,
            reply: None,
            failure: None,
        };
        flight.failure = flight.send(job, attempt).err();
        flight
    }

    fn send(&mut self, job: &Job, attempt: u32) -> Result<(), Failure> {
        let link = &mut self.idle.link;
        let input = link.input.write_parts(job.input.parts()).map_err(|error| Failure::violation(&error))?;
        let request = Request::Job(message::Job {
            id: self.id,
            attempt,
            call: job.call.clone(),
            height: job.height,
            input,
            state_tip: job.state_tip,
            base: job.base,
            layers: job.layers.iter().map(StateLayer::layer).collect(),
        });
        frame::send(&mut link.requests, &request).map_err(Failure::from_frame)
    }

    /// What can be read when the answer is there, or never will be.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.idle.link.descriptor()
    }

    /// Waits until `until` for what the worker says, or for why it will say nothing; whether either has come.
    pub(super) fn await_reply(&mut self, until: Instant) -> bool {
        if self.reply.is_some() || self.failure.is_some() {
            return true;
        }
        match self.idle.link.receive(until.min(self.deadline)) {
            Ok(reply) => self.reply = Some(reply),
            Err(Silence::Timeout) if Instant::now() < self.deadline => return false,
            Err(Silence::Timeout) => self.failure = Some(Failure::Kill(KillReason::Deadline(self.limit))),
            Err(Silence::Frame(error)) => self.failure = Some(Failure::from_frame(error)),
        }
        true
    }

    /// Bytes of output that the worker says there are; none before it has said anything.
    pub(super) fn output_bytes(&self) -> Option<u64> {
        self.reply.as_ref().map(|reply| reply.output.length)
    }

    /// Waits for the answer until `until`, and checks it; none if it has not come by then, and may still come.
    pub(super) fn await_answer(&mut self, job: &Job, until: Instant) -> Option<Result<Answer, Failure>> {
        if !self.await_reply(until) {
            return None;
        }
        match (self.failure.take(), self.reply.take()) {
            (Some(failure), _) => Some(Err(failure)),
            (None, Some(reply)) => Some(self.check(job, reply)),
            (None, None) => None,
        }
    }

    /// Waits for the answer, or the end of the job's time.
    pub(super) fn await_end(&mut self, job: &Job) -> Result<Answer, Failure> {
        loop {
            if let Some(end) = self.await_answer(job, self.deadline) {
                return end;
            }
        }
    }

    /// Gives the worker back, after a sound answer.
    pub(super) fn end(self, answer: &Answer) -> (IdleWorker, ResetHandle) {
        let Self { idle, id, .. } = self;
        idle.worker.answered(|| answer.reply.verdict.to_string());
        let reset = ResetHandle::new(&idle.worker, id);
        (idle, reset)
    }

    /// Gives the worker up, and says what that means for the job.
    pub(super) fn lose(self, failure: Failure) -> Lost {
        let Self { idle, .. } = self;
        let (worker, info) = (Arc::clone(&idle.worker), idle.worker.info());
        let gone = matches!(failure, Failure::Gone);
        let (reason, death) = match failure {
            Failure::Gone => (None, idle.mourn()),
            Failure::Kill(reason) => (Some(reason.clone()), idle.condemn(reason)),
        };
        let unbegun = !matches!(worker.status.phase(), Some(Phase::Running) | None);
        let lost = failed_attempt(info, death, reason.as_ref());
        match lost {
            _ if worker.was_stopped() => Lost::ToDrain,
            lost if gone && unbegun => Lost::Unbegun(lost),
            lost => Lost::Attempt(lost),
        }
    }

    /// Copies out what the reply names and checks all of it: a worker is not trusted.
    fn check(&self, job: &Job, reply: Reply) -> Result<Answer, Failure> {
        if reply.job != self.id {
            let text = format!("it answered job {} when job {} was asked", reply.job, self.id);
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

    /// Copies pairs out, into the room that is held for them if they are many, and checks them.
    fn copy_writes(&self, span: Span) -> Result<Writes, Failure> {
        let Link { output, room, .. } = &self.idle.link;
        let mut lent = false;
        let lend = |bytes| room.lend(bytes).inspect(|_| lent = true);
        // A span outside the arena is refused before anything is lent. If the kernel fails to read it, which it has no reason
        // to, the room is lost.
        let bytes = output.copy_out_to(span, lend).map_err(|error| Failure::violation(&error))?;
        let writes = if lent {
            Writes::parse_lent(bytes, Arc::clone(room) as Arc<dyn Home>)
        } else {
            Writes::parse(bytes)
        };
        writes.map_err(|error| Failure::violation(&error))
    }
}

/// How an attempt was lost.
pub(super) enum Lost {
    /// The pool stops, and ended the worker.
    ToDrain,
    /// The worker was dying before it looked at the job: that says nothing of the job, and is no attempt at it.
    Unbegun(FailedAttempt),
    /// With the job begun, or for what the worker did.
    Attempt(FailedAttempt),
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
            // A pipe that is closed, or breaks, or ends within a frame, is what a death looks like.
            FrameError::Closed | FrameError::Torn { .. } | FrameError::Io(_) => Self::Gone,
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
    // The kernel holds it, in uninterruptible sleep for example: why it was killed is known, how it ends is not.
    let undead = "the process has not ended yet, though it was sent SIGKILL";
    let (verdict, detail) = match reason.and_then(KillReason::verdict) {
        Some((verdict, why)) => (verdict, format!("{why}; {undead}")),
        None => (HostVerdict::Killed, undead.to_owned()),
    };
    FailedAttempt { worker, verdict, detail, supervisors_fault: false }
}
