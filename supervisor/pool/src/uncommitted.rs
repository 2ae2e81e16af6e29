//! The ordinary way to run a guest, for comparison: in this process, with a fresh instance for each job, on memory that the kernel
//! provides page by page when it is touched.
//!
//! The guest, the engine settings and the limits are those of a pool, so a job has the same result, as long as the host has
//! memory. Unlike with a pool, a host that runs out of memory kills this process in the middle of a block.
#![allow(unsafe_code, reason = "loads compiled code")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::Instant;

use cofferdam_protocol::arena::{OutputArena, OutputSink};
use cofferdam_protocol::message::{Call, MAX_LOG_BYTES};
use cofferdam_protocol::profile::Profile;
use cofferdam_protocol::verdict::{GuestVerdict, Verdict};
use cofferdam_protocol::writes::Writes;
use cofferdam_worker::guest::{Guest, GuestResult, InputBytes, JobInput, OutputBuffer};
use cofferdam_worker::state::{StateReader, StateView};
use cofferdam_worker::{compile, engine};

use super::error::PoolError;
use super::failed_attempt::WorkerInfo;
use super::job::Job;
use super::reset::ResetHandle;
use super::result::{JobOutput, JobResult};
use super::runner::Runner;
use super::settings::Settings;
use cofferdam_base::sync::lock;

/// A guest in this process, on memory that is not committed: see [`super::PoolBuilder::build_uncommitted`].
#[derive(Debug)]
pub struct Uncommitted {
    profile: Profile,
    runtime: Mutex<Runtime>,
}

/// What a job uses; one job at a time.
#[derive(Debug)]
struct Runtime {
    guest: Guest,
    state: Option<StateReader>,
    /// The largest input of a job, in bytes.
    input_bytes: u64,
    output: OutputArena,
    /// None while a job uses it, and after a job that failed for a reason of the host.
    sink: Option<OutputBuffer>,
}

impl Uncommitted {
    pub(super) fn new(
        profile: Profile,
        settings: &Settings,
        artifact: OwnedFd,
        state: Option<StateReader>,
    ) -> Result<Self, PoolError> {
        let start = |error: &dyn std::fmt::Display| PoolError::Start(error.to_string());
        let limits = &settings.limits;
        let engine = engine::build(limits.fuel.is_some(), None).map_err(|error| start(&error))?;
        // SAFETY: `artifact::obtain` returns what a compiler process wrote, directly or from a cache whose entries it checks by
        // their hash, in a memfd that is sealed against writing.
        let module = unsafe { compile::load(&engine, artifact) }.map_err(|error| start(&error))?;
        let guest = Guest::link(&engine, &module, limits.fuel).map_err(|error| start(&error))?;
        let bytes = usize::try_from(settings.memory.bytes).map_err(|error| start(&error))?;
        let arena = |error| start(&error);
        let output = OutputArena::create(limits.output_bytes + MAX_LOG_BYTES).map_err(arena)?;
        let theirs = |arena: &dyn AsFd| arena.as_fd().try_clone_to_owned().map_err(|error| start(&error));
        let sink = OutputSink::open(theirs(&output)?, limits.output_bytes + MAX_LOG_BYTES).map_err(arena)?;
        let sink = Some(OutputBuffer::new(sink, limits.output_bytes));
        let guest = guest.with_memory_limit(bytes);
        let runtime = Runtime { guest, state, input_bytes: limits.input_bytes, output, sink };
        Ok(Self { profile, runtime: Mutex::new(runtime) })
    }
}

impl Runner for Uncommitted {
    /// Runs `job` in this thread. The measured time begins after the input was put in place. It ends after the instance was
    /// dropped and the output was copied.
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        lock(&self.runtime).run(job)
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Runtime {
    fn run(&mut self, job: &Job) -> Result<JobResult, PoolError> {
        let host = |error: &dyn std::fmt::Display| PoolError::Start(error.to_string());
        let (bytes, limit) = (job.input.len() as u64, self.input_bytes);
        if bytes > limit {
            return Err(PoolError::InputTooLarge { bytes, limit });
        }
        let input = InputBytes::Owned(job.input.parts().collect::<Vec<_>>().concat());
        let mut sink =
            self.sink.take().ok_or_else(|| host(&"an earlier job failed for a reason of the host"))?;
        sink.clear();
        let started = Instant::now();
        let state =
            self.state.as_ref().map(StateReader::snapshot).transpose().map_err(|error| host(&error))?;
        let input = JobInput::new(&job.call, job.height, input, StateView::new(state));
        let mut prepared = self.guest.prepare().map_err(|error| host(&error))?;
        let done = self.guest.run(&mut prepared, &job.call, input, sink).map_err(|error| host(&error))?;
        // The kernel gets the memory back here.
        drop(prepared);
        let output = self.output_of(job, &done)?;
        let total = started.elapsed();
        let log = self.output.copy_out(done.output.log_span()).map_err(|error| host(&error))?;
        let exec = done.exec.min(total);
        let GuestResult { verdict, detail, output: sink, memory_bytes, fuel_used, .. } = done;
        self.sink = Some(sink);
        Ok(JobResult {
            verdict: Verdict::Guest(verdict),
            detail,
            failed_attempts: Vec::new(),
            worker: WorkerInfo { pid: std::process::id(), slot: 0 },
            output,
            log: String::from_utf8_lossy(&log).into_owned(),
            exec,
            overhead: total - exec,
            memory_bytes,
            fuel_used,
            reset: ResetHandle::none(),
            quarantine: None,
        })
    }

    fn output_of(&self, job: &Job, done: &GuestResult) -> Result<JobOutput, PoolError> {
        if done.verdict != GuestVerdict::Completed {
            return Ok(JobOutput::Nothing);
        }
        let start = |error: &dyn std::fmt::Display| PoolError::Start(error.to_string());
        let bytes = self.output.copy_out(done.output.span()).map_err(|error| start(&error))?;
        Ok(match job.call {
            Call::Block => JobOutput::Writes(Writes::parse(bytes).map_err(|error| start(&error))?),
            Call::View { .. } => JobOutput::View(bytes),
        })
    }
}
