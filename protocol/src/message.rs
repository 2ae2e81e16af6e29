//! The messages on the pipes.
//!
//! ```text
//! supervisor ── Configure ─────────────▶ worker     once
//! supervisor ◀──────────────── Startup ── worker     once: Hello, or the reason why the worker ends
//! supervisor ── Request ───────────────▶ worker     any number of times
//! supervisor ◀────────────────── Reply ── worker     one reply to each job
//! ```
//!
//! A compiler process receives one [`CompileRequest`] and sends one [`CompileReply`]. Closing the request pipe ends a worker or
//! a compiler.

use bincode::{Decode, Encode};

use crate::arena::Span;
use crate::fault::Fault;
use crate::layer::{Layer, Seed};
use crate::path::PathBytes;
use crate::verdict::GuestVerdict;

/// The most bytes of text, such as a verdict's detail, in one message. Longer text is truncated.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The most bytes of guest log that are kept for one job. The rest is dropped, and a mark shows that it was.
pub const MAX_LOG_BYTES: u64 = 64 * 1024;

/// How a worker commits its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum CommitStrategy {
    /// `MADV_POPULATE_WRITE` (kernel 5.14). Where the kernel lacks it, the worker touches every page.
    #[default]
    Populate,
    /// Two phases: the worker writes a unique non-zero pattern into every page, then zeros.
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

/// How a worker makes its memory zero again after a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum ResetStrategy {
    /// Zeroes the parts that recent jobs wrote densely, and asks the kernel which pages of the rest were written (Linux
    /// 6.7, and userfaultfd). Where the kernel does not report this, the worker does the same as [`ResetStrategy::Zero`].
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
    /// How to commit.
    pub strategy: CommitStrategy,
    /// Whether to ask for huge pages. Where the host does not grant them, ordinary pages are committed.
    pub huge_pages: bool,
    /// Whether to lock the memory, so that it cannot be swapped out.
    pub lock: bool,
    /// How to make the memory zero again after a job.
    pub reset: ResetStrategy,
}

/// The first frame to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Configure {
    /// [`crate::PROTOCOL_VERSION`] of the supervisor.
    pub version: u32,
    /// [`crate::BUILD`] of the supervisor.
    pub build: String,
    /// Process id of the supervisor. A worker asks the kernel for a signal at the supervisor's end. If the supervisor ended
    /// before that, no signal comes. The worker notices this case by comparing this id with the id of its parent.
    pub supervisor: u32,
    /// The memory to commit.
    pub memory: MemoryPlan,
    /// Fuel limit of each job; none if fuel is not metered.
    pub fuel: Option<u64>,
    /// Bytes in the input arena.
    pub input_bytes: u64,
    /// The most bytes that one job may flush or return. The output arena is longer by [`MAX_LOG_BYTES`], for the log.
    pub output_bytes: u64,
    /// Directory of the state store that guests read; none for an empty state.
    pub state: Option<PathBytes>,
    /// Bytes in the arena of layers.
    pub layer_bytes: u64,
    /// Key of the hash function in layers.
    pub layer_seed: Seed,
    /// Faults to inject. Empty outside tests.
    pub faults: Vec<Fault>,
}

/// The first frame from a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Startup {
    /// The worker is ready for jobs: hardened, its memory committed, its artifact loaded.
    Hello(Hello),
    /// The worker ends now. Its exit code says at which step.
    Refused {
        /// The reason, in one sentence.
        reason: String,
    },
}

/// A worker's report on itself once it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the worker.
    pub version: u32,
    /// [`crate::BUILD`] of the worker.
    pub build: String,
    /// Bytes committed.
    pub committed_bytes: u64,
    /// Committed bytes that the kernel reports as resident, counted after the commit.
    pub resident_bytes: u64,
    /// Committed bytes in huge pages.
    pub huge_bytes: u64,
    /// Bytes in one page of the host.
    pub page_bytes: u64,
    /// Duration of the commit in microseconds, including the count of resident pages.
    pub commit_us: u64,
    /// How the memory was committed, with the reason if that differs from the request.
    pub commit: String,
    /// How the memory is reset, with the reason if that differs from the request.
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
    /// Identifies the job in the reply. The supervisor uses an id once for each worker.
    pub id: u64,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The function to call.
    pub call: Call,
    /// The height that the guest is given in front of its input.
    pub height: u32,
    /// Where the block or the view's input is in the input arena.
    pub input: Span,
    /// The height that the state must have reached; none if any height is acceptable.
    pub state_tip: Option<u32>,
    /// The newest height of the store that is visible under the layers; none if the job's own height is the only limit.
    pub base: Option<u32>,
    /// The layers over the store, newest first; at most [`crate::layer::MAX_LAYERS`].
    pub layers: Vec<Layer>,
}

/// The function of the guest to call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Call {
    /// `_start`, which indexes a block. Reads see the state before `height`.
    Block,
    /// A view, which is an export `() -> i32`. Reads see the state at `height`.
    View {
        /// Name of the export. A supervisor sends no name longer than 1 KiB.
        export: String,
    },
}

/// A frame from a worker: the result of a job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reply {
    /// The job's id.
    pub job: u64,
    /// The verdict. A worker can send guest verdicts only.
    pub verdict: GuestVerdict,
    /// The verdict in words, for people. It is the same on every host, except for the place of a trap: finding the place
    /// takes memory, and a worker that cannot get this memory leaves the place out.
    pub detail: String,
    /// Where the output is in the output arena: the pairs of a completed block ([`crate::writes`]), or the result of a
    /// completed view. Empty for any other verdict.
    pub output: Span,
    /// Where the guest's log is in the output arena, as UTF-8 lines.
    pub log: Span,
    /// Time that the guest ran, in nanoseconds, including host functions.
    pub exec_ns: u64,
    /// Size of the guest's memory at the end of the job, in bytes.
    pub memory_bytes: u64,
    /// Fuel used; none if fuel is not metered.
    pub fuel_used: Option<u64>,
}

/// The only frame to a compiler process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CompileRequest {
    /// [`crate::PROTOCOL_VERSION`] of the supervisor.
    pub version: u32,
    /// Whether to meter fuel. The metering is part of the compiled code.
    pub fuel: bool,
    /// The most memory that the compiler may use, in bytes (`RLIMIT_DATA`).
    pub memory_bytes: u64,
    /// The most processor time that the compiler may use, in seconds (`RLIMIT_CPU`).
    pub cpu_seconds: u64,
}

/// The only frame from a compiler process.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum CompileReply {
    /// The artifact is in the output memfd.
    Compiled {
        /// The artifact's size in bytes.
        bytes: u64,
    },
    /// The module is invalid, or uses a feature that is not supported.
    Refused {
        /// The reason, in one sentence.
        reason: String,
    },
}

/// `text`, truncated at a character boundary if it is longer than [`MAX_TEXT_BYTES`].
pub fn truncate_text(mut text: String) -> String {
    const MARK: &str = "…";
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES - MARK.len()));
        text.push_str(MARK);
    }
    text
}
