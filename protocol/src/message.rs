//! The messages on the pipes.
//!
//! ```text
//! supervisor ── Configure ─────────────▶ worker     once
//! supervisor ◀──────────────── Startup ── worker     once: Hello, or why not
//! supervisor ── Request ───────────────▶ worker     then, again and again:
//! supervisor ◀────────────────── Reply ── worker     one reply to each job
//! ```
//!
//! A compiler process gets one [`CompileRequest`] and sends one [`CompileReply`]. The supervisor ends any of these
//! processes by closing the request pipe.

use bincode::{Decode, Encode};

use crate::arena::Span;
use crate::fault::Fault;
use crate::layer::{Layer, Seed};
use crate::path::PathBytes;
use crate::verdict::GuestVerdict;

/// The most bytes of text, such as a verdict's detail, that one message carries; longer text is cut.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The most bytes of guest log that are kept of one job; what comes after is dropped, and the cut is marked.
pub const MAX_LOG_BYTES: u64 = 64 * 1024;

/// How a worker commits its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum CommitStrategy {
    /// `MADV_POPULATE_WRITE` (kernel 5.14); touches every page by hand where the kernel lacks it.
    #[default]
    Populate,
    /// Two phases: a unique non-zero pattern into every page, then zeros.
    Touch,
}

impl CommitStrategy {
    /// The strategy's name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Populate => "populate",
            Self::Touch => "touch",
        }
    }
}

/// How a worker makes its memory pristine again after a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum ResetStrategy {
    /// Zeroes what recent jobs wrote much of, and asks the kernel what was written of the rest (Linux 6.7, and
    /// userfaultfd); as [`ResetStrategy::Zero`] where it will not tell.
    #[default]
    Adaptive,
    /// Zeroes all memory that the guest had.
    Zero,
}

impl ResetStrategy {
    /// The strategy's name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Zero => "zero",
        }
    }
}

/// The memory that a worker commits before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MemoryPlan {
    /// Bytes to commit: the guest's memory limit. A multiple of 64 KiB, at most 4 GiB.
    pub bytes: u64,
    /// How.
    pub strategy: CommitStrategy,
    /// Whether to ask for huge pages. Where the host does not grant them, ordinary ones are committed.
    pub huge_pages: bool,
    /// Whether to lock the memory, so that it cannot be swapped out.
    pub lock: bool,
    /// How it is made pristine again after a job.
    pub reset: ResetStrategy,
}

/// The first frame to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Configure {
    /// [`crate::PROTOCOL_VERSION`] of the supervisor.
    pub version: u32,
    /// [`crate::BUILD`] of the supervisor.
    pub build: String,
    /// Process id of the supervisor, by which a worker that outlived it before it could ask to be killed notices.
    pub supervisor: u32,
    /// What to commit.
    pub memory: MemoryPlan,
    /// Fuel per job.
    pub fuel: Option<u64>,
    /// Bytes in the input arena.
    pub input_bytes: u64,
    /// Bytes that one job may flush or return. The output arena has [`MAX_LOG_BYTES`] more behind them.
    pub output_bytes: u64,
    /// Directory of the state that guests read; none for an empty state.
    pub state: Option<PathBytes>,
    /// Bytes in the arena of layers.
    pub layer_bytes: u64,
    /// How keys are hashed in layers.
    pub layer_seed: Seed,
    /// Planted faults; empty in ordinary use.
    pub faults: Vec<Fault>,
}

/// The first frame from a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Startup {
    /// Committed, loaded, hardened: ready for jobs.
    Hello(Hello),
    /// It ends now; its exit code says at which step.
    Refused {
        /// Why, in one sentence.
        reason: String,
    },
}

/// What a worker says of itself once it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the worker.
    pub version: u32,
    /// [`crate::BUILD`] of the worker.
    pub build: String,
    /// Bytes committed.
    pub committed_bytes: u64,
    /// Bytes of those that the kernel reported as resident, counted after the commit.
    pub resident_bytes: u64,
    /// Bytes of those in huge pages.
    pub huge_bytes: u64,
    /// Bytes in one page of the host.
    pub page_bytes: u64,
    /// Microseconds that the commit took, proof included.
    pub commit_us: u64,
    /// How the memory was in fact committed, with the reason if it was not as asked.
    pub commit: String,
    /// How the memory is in fact reset, with the reason if it is not as asked.
    pub reset: String,
}

/// A frame to a worker that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Run this job.
    Job(Job),
    /// Exit with 0.
    Stop,
}

/// One call of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Job {
    /// Names the job in the reply; never used twice for one worker.
    pub id: u64,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// What to call.
    pub call: Call,
    /// Height that the guest is told, in front of its input.
    pub height: u32,
    /// The block, or the view's input, in the input arena.
    pub input: Span,
    /// The height that the state must have reached; none if that does not matter.
    pub state_tip: Option<u32>,
    /// The newest height of the store that reads may see under the layers; none for as new as the job itself may see.
    pub base: Option<u32>,
    /// What lies over the state, newest first; at most [`crate::layer::MAX_LAYERS`].
    pub layers: Vec<Layer>,
}

/// What to call in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Call {
    /// `_start`: index a block. Reads see the state before `height`.
    Block,
    /// A view: an export `() -> i32`. Reads see the state at `height`.
    View {
        /// Name of the export; a supervisor sends no name of more than 1 KiB.
        export: String,
    },
}

/// A frame from a worker: what came of a job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reply {
    /// The job's id.
    pub job: u64,
    /// What came of it. A worker can only speak for its guest.
    pub verdict: GuestVerdict,
    /// The verdict in words, for people. The same on every host, but for the place of a trap: it takes memory to find it,
    /// and a worker that cannot have that leaves it out.
    pub detail: String,
    /// In the output arena: of a completed block the pairs ([`crate::writes`]), of a completed view its result;
    /// empty otherwise.
    pub output: Span,
    /// In the output arena: what the guest logged, as UTF-8 lines.
    pub log: Span,
    /// Nanoseconds of the guest's own time, host functions included.
    pub exec_ns: u64,
    /// Size of the guest's memory at the end, in bytes.
    pub memory_bytes: u64,
    /// Fuel used, if it is metered.
    pub fuel_used: Option<u64>,
}

/// The only frame to a compiler process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CompileRequest {
    /// [`crate::PROTOCOL_VERSION`] of the supervisor.
    pub version: u32,
    /// Whether to meter fuel: that is compiled in.
    pub fuel: bool,
    /// The most memory that the compiler may use, in bytes (`RLIMIT_DATA`).
    pub memory_bytes: u64,
    /// The most processor time that it may use, in seconds (`RLIMIT_CPU`).
    pub cpu_seconds: u64,
}

/// The only frame from a compiler process.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CompileReply {
    /// The artifact is in the output memfd.
    Compiled {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The module is invalid or uses what is not supported.
    Refused {
        /// Why, in one sentence.
        reason: String,
    },
}

/// `text`, cut at a character boundary if it is longer than [`MAX_TEXT_BYTES`].
pub fn capped(mut text: String) -> String {
    const MARK: &str = "…";
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES - MARK.len()));
        text.push_str(MARK);
    }
    text
}
