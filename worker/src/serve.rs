//! Serving: receive a job, run it, and send the reply. Then reset the memory and prepare the next instance, while the supervisor
//! already uses the reply.
#![allow(unsafe_code, reason = "reads the spans of a job")]

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use cofferdam_protocol::arena::{ArenaError, InputView, Span};
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::frame::{self, FrameError, FrameReader};
use cofferdam_protocol::layer::Seed;
use cofferdam_protocol::message::{Job, Reply, Request, truncate_text};
use cofferdam_protocol::status::{Phase, ResetReport, StatusPage};
use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::wait;
use thiserror::Error;

use crate::fault_injection;
use crate::guest::{Guest, GuestError, GuestResult, InputBytes, JobInput, OutputBuffer, PreparedInstance};
use crate::memory::CommittedMemory;
use crate::state::{Layers, StateError, StateReader, StateView};

/// Why a worker stops serving without being told to.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    /// The supervisor's frame does not parse, or the pipe failed.
    #[error("request: {0}")]
    Request(FrameError),
    /// The supervisor named a span outside the input arena.
    #[error("request: {0}")]
    Input(#[from] ArenaError),
    /// The state has not reached the height that the job needs.
    #[error("the state is at height {found:?}, and the job needs height {needed}")]
    StateBehind {
        /// The state's newest height; none if the state is empty.
        found: Option<u32>,
        /// The height that the state must have reached.
        needed: u32,
    },
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host failed to run the guest.
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
    /// Serves until the supervisor sends `Stop` or closes the pipe.
    pub(crate) fn run(&mut self, mut output: OutputBuffer) -> Result<(), ServeError> {
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
            let result = self.run_job(&job, &mut prepared, output)?;
            // If the supervisor is gone, nobody needs the reply or this worker.
            if self.reply(&job, &result).is_err() {
                return Ok(());
            }
            self.status.set_phase(Phase::Resetting);
            prepared = self.reset(&job, prepared)?;
            output = result.output;
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

    fn run_job(
        &self,
        job: &Job,
        prepared: &mut PreparedInstance,
        output: OutputBuffer,
    ) -> Result<GuestResult, ServeError> {
        // SAFETY: the supervisor does not write to the input of a job before it has the reply (`cofferdam_protocol::arena`). The
        // bytes belong to the `JobInput`, which `Guest::run` drops. The reply is sent afterwards.
        let input = unsafe { self.input.stable_bytes(job.input) }?;
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
        // SAFETY: the supervisor does not write to a layer while a job that names the layer runs (`cofferdam_protocol::layer`).
        // The layers belong to the `JobInput` too.
        let layers = unsafe { Layers::new(&self.layers, self.layer_seed, &job.layers) }?;
        let view = StateView::new(state).with_layers(layers, job.base);
        let input = JobInput::new(&job.call, job.height, InputBytes::Arena(input), view);
        Ok(self.guest.run(prepared, &job.call, input, output)?)
    }

    fn reply(&mut self, job: &Job, result: &GuestResult) -> Result<(), FrameError> {
        let completed = result.verdict == GuestVerdict::Completed;
        let reply = Reply {
            job: job.id,
            verdict: result.verdict,
            detail: truncate_text(result.detail.clone()),
            output: if completed { result.output.span() } else { Span::default() },
            log: result.output.log_span(),
            exec_ns: u64::try_from(result.exec.as_nanos()).unwrap_or(u64::MAX),
            memory_bytes: result.memory_bytes,
            fuel_used: result.fuel_used,
        };
        let reply = match fault_injection::fault_of(&self.faults, job) {
            Some(kind) => fault_injection::inject(kind, reply, &mut self.replies, self.status)?,
            None => reply,
        };
        frame::send(&mut self.replies, &reply)
    }

    /// Drops the instance, which zeroes its memory, and prepares the next one.
    fn reset(&mut self, job: &Job, prepared: PreparedInstance) -> Result<PreparedInstance, ServeError> {
        let started = Instant::now();
        drop(prepared);
        let next = self.guest.prepare()?;
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.status
            .set_reset(job.id, ResetReport { nanoseconds, dirty_bytes: self.memory.last_reset_bytes() });
        Ok(next)
    }
}
