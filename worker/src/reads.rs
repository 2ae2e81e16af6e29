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

    /// Layers of these heights and pairs, given oldest first.
    fn layers(all: &[(u32, &[Pair<'_>])]) -> Layers {
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
        Layers::new(Arc::new(view), SEED, list)
    }

    #[test]
    fn the_newest_layer_at_or_below_the_height_counts() {
        let reads = Reads::new(None).under(
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
        let long = vec![9; MOST_KEPT + 1];
        let mut reads =
            Reads::new(None).under(layers(&[(1, &[(b"a", b"one"), (b"b", b"two"), (b"long", &long)])]), None);
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
        let mut broken = layers(&[(1, &[(b"a", b"one")])]);
        broken.layers[0].span.offset = 1 << 20;
        assert!(matches!(Reads::new(None).under(broken, None).get(b"a", 1), Err(StateError::LayerPlace(_))));
        let mut broken = layers(&[(1, &[(b"a", b"one")])]);
        broken.layers[0].slots = 3;
        assert!(matches!(Reads::new(None).under(broken, None).get(b"a", 1), Err(StateError::Layer(_))));
    }
}
