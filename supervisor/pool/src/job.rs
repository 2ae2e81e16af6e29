//! Jobs and their results, as a user of the pool sees them.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_protocol::message::Call;
use cofferdam_protocol::status::ResetReport;
use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use cofferdam_protocol::writes::Writes;

use super::layers::StateLayer;
use super::quarantine::Quarantined;
use super::worker::Worker;
pub use cofferdam_protocol::layer::MAX_LAYERS;

/// The bytes that a job works on: a block, or the input of a view. As many parts as they came in, so that what a network
/// delivers piece by piece is copied once, into the worker's arena. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Input {
    parts: Vec<Bytes>,
    bytes: usize,
}

impl Input {
    /// The parts, one behind the other.
    pub fn from_parts(parts: Vec<Bytes>) -> Self {
        let bytes = parts.iter().map(Bytes::len).sum();
        Self { parts, bytes }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The parts in order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(AsRef::as_ref)
    }
}

impl From<Bytes> for Input {
    fn from(bytes: Bytes) -> Self {
        Self::from_parts(vec![bytes])
    }
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

/// One call of the guest.
#[derive(Clone, Debug)]
pub struct Job {
    pub(super) call: Call,
    pub(super) height: u32,
    pub(super) input: Input,
    pub(super) state_tip: Option<u32>,
    pub(super) base: Option<u32>,
    /// Newest first.
    pub(super) layers: Vec<StateLayer>,
    pub(super) deadline: Option<Duration>,
    pub(super) despite_quarantine: bool,
}

impl Job {
    /// Indexes `block` at `height`, reading the state before it.
    pub fn block(height: u32, block: impl Into<Input>) -> Self {
        Self::new(Call::Block, height, block.into())
    }

    /// Calls the view `export` with `input`, reading the state at `height`.
    pub fn view(export: impl Into<String>, height: u32, input: impl Into<Input>) -> Self {
        Self::new(Call::View { export: export.into() }, height, input.into())
    }

    fn new(call: Call, height: u32, input: Input) -> Self {
        Self {
            call,
            height,
            input,
            state_tip: None,
            base: None,
            layers: Vec::new(),
            deadline: None,
            despite_quarantine: false,
        }
    }

    /// Demands that the state has reached `height` when the job reads it.
    #[must_use]
    pub fn on_state(mut self, height: Option<u32>) -> Self {
        self.state_tip = height;
        self
    }

    /// Has the job see, over the state, what `layers` hold: newest first, and at most [`MAX_LAYERS`]. A layer counts for reads
    /// at and above its height.
    #[must_use]
    pub fn over(mut self, layers: Vec<StateLayer>) -> Self {
        self.layers = layers;
        self
    }

    /// Hides what the store has above `height`: for a job whose layers take the place of that.
    #[must_use]
    pub fn based_on(mut self, height: Option<u32>) -> Self {
        self.base = height;
        self
    }

    /// Gives the job a deadline of its own in place of the pool's: wall-clock time of one attempt, what may be left of
    /// the reset after the worker's last job included.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The height of the block, or that a view reads at.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The height that the state must have reached.
    pub fn state_height(&self) -> Option<u32> {
        self.state_tip
    }

    /// What lies over the state: newest first.
    pub fn layers(&self) -> &[StateLayer] {
        &self.layers
    }

    /// Has the job run though it is in quarantine. For whoever stops by itself at a job that ends its workers.
    #[must_use]
    pub fn despite_quarantine(mut self) -> Self {
        self.despite_quarantine = true;
        self
    }

    /// The block, or the view's input.
    pub fn input(&self) -> &Input {
        &self.input
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.call {
            Call::Block => write!(f, "block {}", self.height)?,
            Call::View { export } => write!(f, "view `{export}` at {}", self.height)?,
        }
        write!(f, " ({} bytes)", self.input.len())
    }
}

/// What a job gave.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum JobOutput {
    /// Nothing: it did not complete.
    #[default]
    Nothing,
    /// The pairs that a block flushed.
    Writes(Writes),
    /// The result of a view.
    View(Vec<u8>),
}

impl fmt::Debug for JobOutput {
    /// Prints how large the output is, and not the bytes: a view can return many megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Writes(writes) => fmt::Debug::fmt(writes, f),
            Self::View(result) => write!(f, "View({} bytes)", result.len()),
        }
    }
}

/// The worker that gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its process id.
    pub pid: u32,
    /// The slot that it has.
    pub slot: usize,
}

/// An attempt that ended in a host verdict, with the evidence.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    /// The worker that was lost.
    pub worker: WorkerInfo,
    /// What happened to it.
    pub verdict: HostVerdict,
    /// The evidence in words.
    pub detail: String,
    /// Whether the worker ended because of what the supervisor sent it: a state that is behind the one that was asked for, say
    /// ([`ProtocolViolated`](cofferdam_protocol::exit::WorkerExit::ProtocolViolated)). The job is not to blame then.
    pub supervisors_fault: bool,
}

/// What came of a job.
#[derive(Clone)]
pub struct JobResult {
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict in words; empty for a completed job.
    pub detail: String,
    /// The attempts that were lost to the host, oldest first. If the verdict is a host verdict, the last one is it.
    pub failed_attempts: Vec<FailedAttempt>,
    /// The worker that answered, or that was lost last.
    pub worker: WorkerInfo,
    /// What a completed job gave.
    pub output: JobOutput,
    /// What the guest logged, up to 64 KiB; damaged UTF-8 is replaced.
    pub log: String,
    /// The guest's own time, host functions included; zero for a host verdict.
    pub exec: Duration,
    /// Everything else between handing the job over and having its result.
    pub overhead: Duration,
    /// Size of the guest's memory at the end, in bytes.
    pub memory_bytes: u64,
    /// Fuel used, if it is metered.
    pub fuel_used: Option<u64>,
    /// The reset of the worker's memory, which begins after the answer.
    pub reset: ResetHandle,
    /// That the job is in quarantine, by this result or since an earlier one.
    pub quarantine: Option<Box<Quarantined>>,
}

impl fmt::Debug for JobResult {
    /// Prints what fits a message: of the output its size, and of the log its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How much of the log is shown, in bytes.
        const SHOWN: usize = 400;
        let end = &self.log[self.log.ceil_char_boundary(self.log.len().saturating_sub(SHOWN))..];
        f.debug_struct("JobResult")
            .field("verdict", &self.verdict)
            .field("detail", &self.detail)
            .field("failed_attempts", &self.failed_attempts)
            .field("worker", &self.worker)
            .field("output", &self.output)
            .field("log_bytes", &self.log.len())
            .field("log_end", &end)
            .field("exec", &self.exec)
            .field("overhead", &self.overhead)
            .field("memory_bytes", &self.memory_bytes)
            .field("fuel_used", &self.fuel_used)
            .field("quarantine", &self.quarantine)
            .finish_non_exhaustive()
    }
}

impl JobResult {
    /// Whether no attempt was made, because the job is in quarantine: the failed attempts are those of an earlier one.
    pub fn is_from_memory(&self) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.from_memory)
    }

    /// How many attempts were made.
    pub fn attempts(&self) -> usize {
        match self.verdict {
            _ if self.is_from_memory() => 0,
            Verdict::Guest(_) => self.failed_attempts.len() + 1,
            Verdict::Host(_) => self.failed_attempts.len(),
        }
    }

    /// The pairs that a completed block flushed; none of anything else.
    pub fn writes(&self) -> &Writes {
        static NONE: std::sync::LazyLock<Writes> = std::sync::LazyLock::new(Writes::default);
        match &self.output {
            JobOutput::Writes(writes) => writes,
            _ => &NONE,
        }
    }

    /// The result of a completed view; empty for anything else.
    pub fn view_result(&self) -> &[u8] {
        match &self.output {
            JobOutput::View(bytes) => bytes,
            _ => &[],
        }
    }
}

/// Asks how the reset after one job went.
#[derive(Clone)]
pub struct ResetHandle {
    /// Gone with the worker, whose descriptors a result must not keep open.
    worker: Weak<Worker>,
    job: u64,
}

impl ResetHandle {
    pub(super) fn new(worker: &Arc<Worker>, job: u64) -> Self {
        Self { worker: Arc::downgrade(worker), job }
    }

    /// Of a job that no worker did: there is nothing to wait for.
    pub fn none() -> Self {
        Self { worker: Weak::new(), job: 0 }
    }

    /// The report, once the reset is done; none before, none once a later job of the same worker was reset, and none once the
    /// worker is gone.
    pub fn report(&self) -> Option<ResetReport> {
        self.worker.upgrade()?.status.reset(self.job)
    }

    /// Whether the worker's reset can still be waited for.
    pub fn is_pending(&self) -> bool {
        self.worker.upgrade().is_some_and(|worker| worker.is_alive() && worker.last_job() == self.job)
            && self.report().is_none()
    }

    /// Waits for the report, for at most `patience`.
    pub fn wait(&self, patience: Duration) -> Option<ResetReport> {
        const STEP: Duration = Duration::from_micros(100);
        let deadline = super::worker::after(patience);
        while self.is_pending() && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        self.report()
    }
}

impl fmt::Debug for ResetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetHandle").field("job", &self.job).field("report", &self.report()).finish()
    }
}
