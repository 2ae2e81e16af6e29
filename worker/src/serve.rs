//! Serving: job in, answer out, then the reset and the next instance, while the supervisor is already busy elsewhere.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use cofferdam_protocol::arena::{ArenaError, InputView, Span};
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::frame::{self, FrameError, FrameReader};
use cofferdam_protocol::layer::Seed;
use cofferdam_protocol::message::{Job, Reply, Request, capped};
use cofferdam_protocol::status::{Phase, ResetReport, StatusPage};
use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::wait;
use thiserror::Error;

use crate::fault;
use crate::guest::{Done, Guest, GuestError, JobInput, Output, Prepared};
use crate::memory::CommittedMemory;
use crate::reads::{Layers, Reads};
use crate::state::{StateError, StateReader};

/// Why a worker stops serving before it is told to.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    /// The supervisor's frame does not parse, or the pipe failed.
    #[error("request: {0}")]
    Request(FrameError),
    /// The supervisor named input outside the arena.
    #[error("request: {0}")]
    Input(#[from] ArenaError),
    /// The state is not at the height that the supervisor said.
    #[error("the state is at height {found:?}, the job needs {needed}")]
    StateBehind {
        /// The state's newest height.
        found: Option<u32>,
        /// The height that it must have reached.
        needed: u32,
    },
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host failed the guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// A worker that is ready for jobs.
pub(crate) struct Server {
    pub(crate) requests: File,
    pub(crate) replies: File,
    pub(crate) reader: FrameReader,
    pub(crate) status: &'static StatusPage,
    pub(crate) input: Arc<InputView>,
    pub(crate) state: Option<StateReader>,
    pub(crate) layers: Arc<InputView>,
    pub(crate) layer_seed: Seed,
    pub(crate) memory: CommittedMemory,
    pub(crate) guest: Guest,
    pub(crate) faults: Vec<Fault>,
}

impl Server {
    /// Serves until the supervisor says stop or closes the pipe.
    pub(crate) fn run(&mut self, mut output: Output) -> Result<(), ServeError> {
        let mut prepared = self.guest.prepare()?;
        loop {
            self.status.set_phase(Phase::Idle);
            let job = match self.next_request() {
                Ok(Request::Job(job)) => job,
                Ok(Request::Stop) | Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(ServeError::Request(error)),
            };
            self.status.set_phase(Phase::Running);
            output.clear();
            let done = self.run_job(&job, &mut prepared, output)?;
            // A supervisor that is gone no longer wants the answer, nor this worker.
            if self.answer(&job, &done).is_err() {
                return Ok(());
            }
            self.status.set_phase(Phase::Resetting);
            prepared = self.reset(&job, prepared)?;
            output = done.output;
        }
    }

    fn next_request(&mut self) -> Result<Request, FrameError> {
        loop {
            if let Some(request) = self.reader.take()? {
                return Ok(request);
            }
            wait::until_readable(&self.requests).map_err(io::Error::from)?;
            self.reader.fill(&mut self.requests)?;
        }
    }

    fn run_job(&self, job: &Job, prepared: &mut Prepared, output: Output) -> Result<Done, ServeError> {
        self.input.read(job.input)?;
        let state = match &self.state {
            Some(reader) => Some(reader.snapshot()?),
            None => None,
        };
        if let (Some(needed), Some(state)) = (job.state_tip, &state) {
            let found = state.tip()?;
            if found.is_none_or(|found| found < needed) {
                return Err(ServeError::StateBehind { found, needed });
            }
        }
        let layers = Layers::new(Arc::clone(&self.layers), self.layer_seed, job.layers.clone());
        let reads = Reads::new(state).under(layers, job.base);
        let input = JobInput::new(&job.call, job.height, Arc::clone(&self.input), job.input, reads);
        Ok(self.guest.run(prepared, &job.call, input, output)?)
    }

    fn answer(&mut self, job: &Job, done: &Done) -> Result<(), FrameError> {
        let completed = done.verdict == GuestVerdict::Completed;
        let reply = Reply {
            job: job.id,
            verdict: done.verdict,
            detail: capped(done.detail.clone()),
            output: if completed { done.output.span() } else { Span::default() },
            log: done.output.log_span(),
            exec_ns: u64::try_from(done.exec.as_nanos()).unwrap_or(u64::MAX),
            memory_bytes: done.memory_bytes,
            fuel_used: done.fuel_used,
        };
        let reply = match fault::planted(&self.faults, job) {
            Some(kind) => fault::strike(kind, reply, &mut self.replies, self.status)?,
            None => reply,
        };
        frame::send(&mut self.replies, &reply)
    }

    /// Drops the instance, which makes the memory pristine, and prepares the next one.
    fn reset(&mut self, job: &Job, prepared: Prepared) -> Result<Prepared, ServeError> {
        let started = Instant::now();
        drop(prepared);
        let next = self.guest.prepare()?;
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.status
            .set_reset(job.id, ResetReport { nanoseconds, dirty_bytes: self.memory.last_reset_bytes() });
        Ok(next)
    }
}
