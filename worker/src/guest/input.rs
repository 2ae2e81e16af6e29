//! What a job gives to its guest: the height, the input, and the state.

use std::ops::Deref;

use cofferdam_protocol::arena::StableBytes;
use cofferdam_protocol::message::Call;

use crate::state::{StateError, StateView};

/// The bytes of a block or of a view's input.
#[derive(Debug)]
pub enum InputBytes {
    /// Bytes in the input arena.
    Arena(StableBytes),
    /// Bytes of this process.
    Owned(Vec<u8>),
}

impl Deref for InputBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Arena(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The input of a job, and the state that the job may read.
#[derive(Debug)]
pub struct JobInput {
    /// The height that the guest is given.
    pub(super) height: u32,
    bytes: InputBytes,
    state: StateView,
    /// The newest height that reads may see; none if they see nothing.
    reads_at: Option<u32>,
    /// Whether `__flush` writes, as in a block, or does nothing, as in a view.
    pub(super) flushes: bool,
}

impl JobInput {
    /// The input of `call` at `height`. A block reads the state before its height; a view reads the state at its height.
    pub fn new(call: &Call, height: u32, bytes: InputBytes, state: StateView) -> Self {
        let (reads_at, flushes) = (StateView::newest_visible(call, height), matches!(call, Call::Block));
        Self { height, bytes, state, reads_at, flushes }
    }

    /// The bytes of the block or of the view's input.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length in bytes of the newest value of `key` that the job may see; none if there is none.
    pub(super) fn length(&mut self, key: &[u8]) -> Result<Option<usize>, StateError> {
        self.reads_at.map_or(Ok(None), |height| self.state.length(key, height))
    }

    /// The newest value of `key` that the job may see; none if there is none.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, StateError> {
        self.reads_at.map_or(Ok(None), |height| self.state.get(key, height))
    }
}
