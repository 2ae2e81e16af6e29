//! Jobs, as a user of the pool describes them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_protocol::message::Call;

use super::layers::StateLayer;

/// The bytes that a job works on: a block, or the input of a view. An input may consist of parts, so that what a network
/// delivers piece by piece is copied only once, into the worker's arena. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Input {
    parts: Vec<Bytes>,
    bytes: usize,
}

impl Input {
    /// An input of these parts, in this order.
    pub fn from_parts(parts: Vec<Bytes>) -> Self {
        let bytes = parts.iter().map(Bytes::len).sum();
        Self { parts, bytes }
    }

    /// The size in bytes, all parts together.
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
    /// Indexes `block` at `height`. The guest reads the state before the block.
    pub fn block(height: u32, block: impl Into<Input>) -> Self {
        Self::new(Call::Block, height, block.into())
    }

    /// Calls the view `export` with `input`. The guest reads the state at `height`.
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

    /// Lays `layers` over the state that the job reads: newest first, and at most [`MAX_LAYERS`](super::MAX_LAYERS). A layer
    /// counts for reads at and above its height.
    #[must_use]
    pub fn over(mut self, layers: Vec<StateLayer>) -> Self {
        self.layers = layers;
        self
    }

    /// Hides what the store holds above `height`. Use this for a job whose layers replace that part of the store.
    #[must_use]
    pub fn based_on(mut self, height: Option<u32>) -> Self {
        self.base = height;
        self
    }

    /// Sets the job's deadline, in place of the pool's: the wall-clock time of one attempt. The time includes what is left of
    /// the reset after the worker's previous job.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The height of the block, or the height that a view reads at.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The height that the state must have reached.
    pub fn state_height(&self) -> Option<u32> {
        self.state_tip
    }

    /// The layers over the state, newest first.
    pub fn layers(&self) -> &[StateLayer] {
        &self.layers
    }

    /// Runs the job even if it is in quarantine. Use this in a caller that itself stops at a job that kills its workers.
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
