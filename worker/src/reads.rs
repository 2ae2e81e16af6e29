//! What one job reads: the snapshot of the store, and the layers that lie over it.
//!
//! A guest asks twice for every value, first for its length and then for its bytes, so the answer to the first question is
//! kept for the second.

use std::sync::Arc;

use cofferdam_protocol::arena::InputView;
use cofferdam_protocol::layer::{Layer, LayerView, Seed};
use cofferdam_protocol::message::Call;

use crate::state::{Snapshot, StateError};

/// Values of more bytes than this are looked up again rather than kept: copying them would cost more.
const MOST_KEPT: usize = 4096;

/// Layers over the store's state, newest first.
#[derive(Clone, Debug)]
pub struct Layers {
    arena: Arc<InputView>,
    seed: Seed,
    layers: Vec<Layer>,
}

impl Layers {
    /// The layers of a job, which lie in `arena`.
    pub fn new(arena: Arc<InputView>, seed: Seed, layers: Vec<Layer>) -> Self {
        Self { arena, seed, layers }
    }

    /// The newest value of `key` in layers up to the height `at_most`.
    fn get(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        if self.layers.is_empty() {
            return Ok(None);
        }
        let hash = self.seed.hash(key);
        for layer in self.layers.iter().filter(|layer| layer.height <= at_most) {
            let view = LayerView::new(self.arena.read(layer.span)?, layer.slots)?;
            if let Some(value) = view.get(hash, key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The state as one job sees it.
#[derive(Debug)]
pub struct Reads {
    snapshot: Option<Snapshot>,
    layers: Option<Layers>,
    /// The newest height of the snapshot that may be seen.
    base: u32,
    last: Last,
}

/// The answer to the last question for a length.
#[derive(Debug, Default)]
struct Last {
    key: Vec<u8>,
    /// None if nothing is kept.
    value: Option<Vec<u8>>,
}

impl Reads {
    /// What is in `snapshot`.
    pub fn new(snapshot: Option<Snapshot>) -> Self {
        Self { snapshot, layers: None, base: u32::MAX, last: Last::default() }
    }

    /// Puts `layers` over it, and hides what the snapshot has above `base`.
    #[must_use]
    pub fn under(self, layers: Layers, base: Option<u32>) -> Self {
        Self { layers: Some(layers), base: base.unwrap_or(u32::MAX), ..self }
    }

    /// The newest height that reads of `call` at `height` see: of a block the one before, of a view its own. None if they
    /// see nothing.
    pub fn newest(call: &Call, height: u32) -> Option<u32> {
        match call {
            Call::Block => height.checked_sub(1),
            Call::View { .. } => Some(height),
        }
    }

    /// Bytes of the newest value of `key` at or below the height `at_most`; none if there is no value.
    ///
    /// # Errors
    /// [`StateError`] if the store or a layer cannot be read.
    pub fn length(&mut self, key: &[u8], at_most: u32) -> Result<Option<usize>, StateError> {
        let mut last = std::mem::take(&mut self.last);
        let value = self.find(key, at_most)?;
        last.keep(key, value);
        let length = value.map(<[u8]>::len);
        self.last = last;
        Ok(length)
    }

    /// The newest value of `key` at or below the height `at_most`.
    ///
    /// # Errors
    /// [`StateError`] if the store or a layer cannot be read.
    pub fn get(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        match &self.last {
            Last { key: kept, value: Some(value) } if kept == key => Ok(Some(value)),
            _ => self.find(key, at_most),
        }
    }

    fn find(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        if let Some(layers) = &self.layers
            && let Some(value) = layers.get(key, at_most)?
        {
            return Ok(Some(value));
        }
        self.snapshot.as_ref().map_or(Ok(None), |snapshot| snapshot.get(key, at_most.min(self.base)))
    }
}

impl Last {
    fn keep(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value.filter(|value| value.len() <= MOST_KEPT) else {
            self.value = None;
            return;
        };
        self.key.clear();
        self.key.extend_from_slice(key);
        let kept = self.value.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(value);
    }
}
