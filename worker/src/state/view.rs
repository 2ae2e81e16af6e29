//! The state as one job sees it: a snapshot of the store, and the layers over it.
//!
//! A guest asks twice for every value, first for its length and then for its bytes. So the value is kept from the first call to the
//! second.
#![allow(unsafe_code, reason = "reads layers that the supervisor has written")]

use std::sync::Arc;

use cofferdam_protocol::arena::{InputView, StableBytes};
use cofferdam_protocol::layer::{Layer, LayerView, Seed};
use cofferdam_protocol::message::Call;

use super::error::StateError;
use super::reader::Snapshot;

/// A longer value is not kept. It is looked up twice, which costs less than copying it.
const MAX_KEPT_BYTES: usize = 4096;

/// The layers of a job over the store's state, newest first.
#[derive(Clone, Debug)]
pub struct Layers {
    seed: Seed,
    layers: Vec<(Layer, StableBytes)>,
}

impl Layers {
    /// The layers of a job, which are in `arena`.
    ///
    /// # Errors
    /// [`StateError::LayerPlace`] or [`StateError::Layer`] if a description does not fit the arena.
    ///
    /// # Safety
    /// Until the returned value is dropped, no process may write to the spans of `layers` in the arena: see
    /// [`InputView::stable_bytes`].
    pub unsafe fn new(arena: &Arc<InputView>, seed: Seed, layers: &[Layer]) -> Result<Self, StateError> {
        let bytes = |layer: &Layer| {
            // SAFETY: the caller vouches for the spans of all layers.
            let bytes = unsafe { arena.stable_bytes(layer.span) }?;
            LayerView::new(&bytes, layer.slots)?;
            Ok((*layer, bytes))
        };
        Ok(Self { seed, layers: layers.iter().map(bytes).collect::<Result<_, StateError>>()? })
    }

    /// The newest value of `key` in the layers up to the height `at_most`.
    fn get(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        if self.layers.is_empty() {
            return Ok(None);
        }
        let hash = self.seed.hash(key);
        for (layer, bytes) in self.layers.iter().filter(|(layer, _)| layer.height <= at_most) {
            let view = LayerView::new(bytes, layer.slots)?;
            if let Some(value) = view.get(hash, key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The state as one job sees it.
#[derive(Debug)]
pub struct StateView {
    snapshot: Option<Snapshot>,
    layers: Option<Layers>,
    /// The newest height of the snapshot that is visible.
    base: u32,
    kept: KeptValue,
}

/// The value whose length was asked for last.
#[derive(Debug, Default)]
struct KeptValue {
    key: Vec<u8>,
    /// None if no value is kept.
    value: Option<Vec<u8>>,
}

impl StateView {
    /// The state in `snapshot`; an empty state without a snapshot.
    pub fn new(snapshot: Option<Snapshot>) -> Self {
        Self { snapshot, layers: None, base: u32::MAX, kept: KeptValue::default() }
    }

    /// Adds `layers`, and hides the blocks above `base` in the snapshot.
    #[must_use]
    pub fn with_layers(self, layers: Layers, base: Option<u32>) -> Self {
        Self { layers: Some(layers), base: base.unwrap_or(u32::MAX), ..self }
    }

    /// The newest height that `call` at `height` may read. A block reads the state of the block before; a view reads the state at
    /// its own height. None for a block at height 0, which reads nothing.
    pub fn newest_visible(call: &Call, height: u32) -> Option<u32> {
        match call {
            Call::Block => height.checked_sub(1),
            Call::View { .. } => Some(height),
        }
    }

    /// Length in bytes of the newest value of `key` at or below the height `at_most`; none if there is no value.
    ///
    /// # Errors
    /// [`StateError`] if the store or a layer cannot be read.
    pub fn length(&mut self, key: &[u8], at_most: u32) -> Result<Option<usize>, StateError> {
        let mut kept = std::mem::take(&mut self.kept);
        let value = self.find(key, at_most)?;
        kept.set(key, value);
        let length = value.map(<[u8]>::len);
        self.kept = kept;
        Ok(length)
    }

    /// The newest value of `key` at or below the height `at_most`; none if there is no value.
    ///
    /// # Errors
    /// [`StateError`] if the store or a layer cannot be read.
    pub fn get(&self, key: &[u8], at_most: u32) -> Result<Option<&[u8]>, StateError> {
        match &self.kept {
            KeptValue { key: kept, value: Some(value) } if kept == key => Ok(Some(value)),
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

impl KeptValue {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value.filter(|value| value.len() <= MAX_KEPT_BYTES) else {
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use cofferdam_protocol::arena::{InputArena, Span};
    use cofferdam_protocol::layer;
    use cofferdam_protocol::writes::{Writes, put_field};

    use super::*;

    const SEED: Seed = Seed(3, 4);

    type Pair<'a> = (&'a [u8], &'a [u8]);

    fn writes(pairs: &[Pair<'_>]) -> Writes {
        let mut bytes = Vec::new();
        for field in pairs.iter().flat_map(|(key, value)| [*key, *value]) {
            let at = bytes.len();
            bytes.resize(at + 4 + field.len(), 0);
            put_field(&mut bytes[at..], field).unwrap();
        }
        Writes::parse(bytes).unwrap()
    }

    /// An arena with layers of these heights and pairs, given oldest first.
    fn arena(all: &[(u32, &[Pair<'_>])]) -> (Arc<InputView>, Vec<Layer>) {
        let mut arena = InputArena::create(1 << 20).unwrap();
        let (mut offset, mut list) = (0, Vec::new());
        for (height, pairs) in all {
            let writes = writes(pairs);
            let span = Span { offset, length: layer::bytes_for(&writes) };
            layer::write(arena.slice_mut(span).unwrap(), &writes, SEED);
            list.insert(0, Layer { height: *height, span, slots: layer::slots_for(&writes) });
            offset += span.length;
        }
        let view = InputView::open(arena.as_fd().try_clone_to_owned().unwrap(), 1 << 20).unwrap();
        (Arc::new(view), list)
    }

    fn layers(all: &[(u32, &[Pair<'_>])]) -> Layers {
        let (arena, layers) = arena(all);
        // SAFETY: nobody has the writable side of the arena any more.
        unsafe { Layers::new(&arena, SEED, &layers) }.unwrap()
    }

    #[test]
    fn the_newest_layer_at_or_below_the_height_counts() {
        let reads = StateView::new(None).with_layers(
            layers(&[(5, &[(b"a", b"five"), (b"b", b"5")]), (6, &[(b"a", b"")]), (7, &[(b"a", b"seven")])]),
            None,
        );
        let get = |at_most| reads.get(b"a", at_most).unwrap();
        assert_eq!(
            (get(4), get(5), get(6), get(9)),
            (None, Some(&b"five"[..]), Some(&b""[..]), Some(&b"seven"[..]))
        );
        assert_eq!(reads.get(b"b", 9).unwrap(), Some(&b"5"[..]));
        assert_eq!(reads.get(b"c", 9).unwrap(), None);
    }

    #[test]
    fn a_value_is_kept_from_its_length_to_its_bytes_and_for_no_other_key() {
        let long = vec![9; MAX_KEPT_BYTES + 1];
        let mut reads = StateView::new(None)
            .with_layers(layers(&[(1, &[(b"a", b"one"), (b"b", b"two"), (b"long", &long)])]), None);
        for (key, value) in [(&b"a"[..], &b"one"[..]), (b"b", b"two"), (b"long", &long), (b"a", b"one")] {
            assert_eq!(reads.length(key, 1).unwrap(), Some(value.len()));
            for (other, expected) in [(&b"a"[..], &b"one"[..]), (b"b", b"two"), (b"long", &long)] {
                assert_eq!(reads.get(other, 1).unwrap(), Some(expected));
            }
            assert_eq!(reads.get(key, 1).unwrap(), Some(value));
        }
        assert_eq!(reads.length(b"none", 1).unwrap(), None);
        assert_eq!(reads.get(b"none", 1).unwrap(), None);
    }

    #[test]
    fn a_layer_outside_the_arena_is_an_error() {
        let (arena, layers) = arena(&[(1, &[(b"a", b"one")])]);
        let refused = |change: &dyn Fn(&mut Layer)| {
            let mut layers = layers.clone();
            change(&mut layers[0]);
            // SAFETY: nobody has the writable side of the arena any more.
            unsafe { Layers::new(&arena, SEED, &layers) }.unwrap_err()
        };
        assert!(matches!(refused(&|layer| layer.span.offset = 1 << 20), StateError::LayerPlace(_)));
        assert!(matches!(refused(&|layer| layer.slots = 3), StateError::Layer(_)));
    }
}
