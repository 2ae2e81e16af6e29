//! Layers: what blocks wrote that the store does not hold yet, where every worker finds it without asking.
//!
//! A block runs on the state of the block before it, and committing that takes longer than many a block. So the pairs of a
//! block whose commit is still under way lie as a *layer* in an arena that all workers of a pool map read-only, and a job
//! names the layers that lie over the state it reads. Whichever worker gets the job, it sees the same.
//!
//! A layer is a hash table of u64 (little-endian), and behind it the pairs as they were flushed ([`crate::writes`]):
//!
//! ```text
//! ┌──────────────────────────────┬──────────────────────────┐
//! │ slots: 0, or tag ‖ place + 1 │ pairs, in flush order    │
//! └──────────────────────────────┴──────────────────────────┘
//! ```
//!
//! A slot's upper 16 bits are those of the key's hash, its lower 48 the pair's offset behind the table, plus one. Keys are
//! found by linear probing. They are hashed by SipHash-1-3 under a key that a pool draws for itself, because a module
//! chooses its keys, and must not be able to choose them so that they collide.
//!
//! The supervisor writes a layer before it names it, and nothing while a job that names it runs.

use bincode::{Decode, Encode};
use siphasher::sip::SipHasher13;
use thiserror::Error;

use crate::arena::Span;
use crate::writes::{Writes, pair_at};

/// The most layers that one job may name. Each that lies over a key costs its reader one probe.
pub const MAX_LAYERS: usize = 32;

const SLOT_BYTES: u64 = 8;
const PLACE_BITS: u32 = 48;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// The key of the hash function; the same for all layers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seed(pub u64, pub u64);

impl Seed {
    /// The hash by which every layer is searched for `key`.
    pub fn hash(self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0, self.1).hash(key)
    }
}

/// A layer, as a job names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Layer {
    /// The height of the block that wrote it.
    pub height: u32,
    /// Where it is in the arena of layers.
    pub span: Span,
    /// How many slots its table has; a power of two.
    pub slots: u64,
}

/// Bytes that are not a layer.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum LayerError {
    /// The table does not fit, or has a number of slots that is no power of two.
    #[error("a layer of {bytes} bytes cannot have a table of {slots} slots")]
    Table {
        /// Bytes of the layer.
        bytes: u64,
        /// Slots announced.
        slots: u64,
    },
    /// A slot leads to no pair.
    #[error("a slot leads to byte {place}, where no pair is")]
    Slot {
        /// Where it leads, in bytes from the first pair.
        place: u64,
    },
}

crate::debug_as_display!(LayerError);

/// How many slots the layer of `writes` has: at most three in four are taken.
pub fn slots_for(writes: &Writes) -> u64 {
    (writes.count().saturating_mul(4) / 3 + 1).next_power_of_two()
}

/// Bytes that the layer of `writes` takes.
pub fn bytes_for(writes: &Writes) -> u64 {
    slots_for(writes).saturating_mul(SLOT_BYTES).saturating_add(writes.as_bytes().len() as u64)
}

/// Writes the layer of `writes` into `target`. Of pairs with equal keys the last one counts.
///
/// # Panics
/// If `target` has not exactly [`bytes_for`] bytes.
pub fn write(target: &mut [u8], writes: &Writes, seed: Seed) {
    let pairs = writes.as_bytes();
    assert_eq!(target.len() as u64, bytes_for(writes), "the room for a layer is measured before");
    let (table, copy) = target.split_at_mut(target.len() - pairs.len());
    table.fill(0);
    copy.copy_from_slice(pairs);
    let mut place = 0;
    while let Some((key, _, next)) = pair_at(pairs, place) {
        let hash = seed.hash(key);
        let slot = free_slot(table, pairs, hash, key);
        let entry = (hash & !PLACE_MASK) | (place as u64 + 1);
        table[slot..slot + 8].copy_from_slice(&entry.to_le_bytes());
        place = next;
    }
}

/// Where in the table `key` goes: the first slot on its way that is free, or its own. There is a free one, because a
/// quarter of them are.
fn free_slot(table: &[u8], pairs: &[u8], hash: u64, key: &[u8]) -> usize {
    let mut way = probe(table, hash);
    loop {
        let (at, entry) = way.next_slot();
        let taken_by_another = entry != 0
            && !(same_tag(entry, hash)
                && place_of(entry).and_then(|place| pair_at(pairs, place)).is_some_and(|pair| pair.0 == key));
        if !taken_by_another {
            return at;
        }
    }
}

/// A layer that can be searched.
#[derive(Clone, Copy, Debug)]
pub struct LayerView<'a> {
    table: &'a [u8],
    pairs: &'a [u8],
}

impl<'a> LayerView<'a> {
    /// The layer in `bytes`, whose table has so many slots.
    ///
    /// # Errors
    /// [`LayerError::Table`].
    pub fn new(bytes: &'a [u8], slots: u64) -> Result<Self, LayerError> {
        let refused = LayerError::Table { bytes: bytes.len() as u64, slots };
        let table = slots.checked_mul(SLOT_BYTES).filter(|_| slots.is_power_of_two());
        let table = table.and_then(|table| usize::try_from(table).ok()).ok_or(refused)?;
        let (table, pairs) = bytes.split_at_checked(table).ok_or(refused)?;
        Ok(Self { table, pairs })
    }

    /// The value that the layer has for `key`, whose [`Seed::hash`] is `hash`.
    ///
    /// # Errors
    /// [`LayerError::Slot`].
    pub fn get(self, hash: u64, key: &[u8]) -> Result<Option<&'a [u8]>, LayerError> {
        let mut way = probe(self.table, hash);
        // Of a table without a free slot, which nothing writes, each slot once.
        for _ in 0..self.table.len() / 8 {
            let (_, entry) = way.next_slot();
            if entry == 0 {
                return Ok(None);
            }
            if !same_tag(entry, hash) {
                continue;
            }
            let pair = place_of(entry).and_then(|place| pair_at(self.pairs, place));
            let (found, value, _) = pair.ok_or(LayerError::Slot { place: (entry & PLACE_MASK) - 1 })?;
            if found == key {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The slots that a key may be in, one after the other and around.
struct Probe<'a> {
    table: &'a [u8],
    at: usize,
}

fn probe(table: &[u8], hash: u64) -> Probe<'_> {
    // The number of slots is a power of two, and the tag is of other bits than these.
    let slots = table.len() as u64 / SLOT_BYTES;
    let at = usize::try_from(hash & (slots - 1)).unwrap_or(0) * 8;
    Probe { table, at }
}

impl Probe<'_> {
    /// Where the slot is, and what is in it.
    fn next_slot(&mut self) -> (usize, u64) {
        let at = self.at;
        self.at = if at + 8 == self.table.len() { 0 } else { at + 8 };
        let entry = self.table[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (at, entry)
    }
}

fn same_tag(entry: u64, hash: u64) -> bool {
    (entry ^ hash) & !PLACE_MASK == 0
}

fn place_of(entry: u64) -> Option<usize> {
    usize::try_from((entry & PLACE_MASK).checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::writes::put_field;

    const SEED: Seed = Seed(1, 2);

    fn writes(pairs: &[(Vec<u8>, Vec<u8>)]) -> Writes {
        let mut bytes = Vec::new();
        for field in pairs.iter().flat_map(|(key, value)| [key, value]) {
            let at = bytes.len();
            bytes.resize(at + 4 + field.len(), 0);
            put_field(&mut bytes[at..], field).unwrap();
        }
        Writes::parse(bytes).unwrap()
    }

    fn layer(writes: &Writes) -> (Vec<u8>, u64) {
        let mut bytes = vec![0xAA; usize::try_from(bytes_for(writes)).unwrap()];
        write(&mut bytes, writes, SEED);
        (bytes, slots_for(writes))
    }

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..4, 0..4)
    }

    proptest! {
        #[test]
        fn a_layer_answers_as_a_map_does(pairs in prop::collection::vec((keys(), any::<Vec<u8>>()), 0..200), other in keys()) {
            let (bytes, slots) = layer(&writes(&pairs));
            let view = LayerView::new(&bytes, slots).unwrap();
            let map: BTreeMap<_, _> = pairs.iter().cloned().collect();
            for key in map.keys().chain([&other]) {
                let found = view.get(SEED.hash(key), key).unwrap();
                prop_assert_eq!(found, map.get(key).map(Vec::as_slice));
            }
        }

        #[test]
        fn damaged_layers_never_panic(bytes: Vec<u8>, slots in 0u64..9, hash: u64, key in keys()) {
            if let Ok(view) = LayerView::new(&bytes, slots) {
                let _ = view.get(hash, &key);
                let _ = view.get(SEED.hash(&key), &key);
            }
        }
    }

    #[test]
    fn keys_that_share_a_slot_and_a_tag_are_told_apart() {
        // Whatever the hash is, a table of two slots has both on the way of each key.
        let (bytes, slots) = layer(&writes(&[(b"a".to_vec(), b"1".to_vec())]));
        assert_eq!(slots, 2);
        let view = LayerView::new(&bytes, slots).unwrap();
        assert_eq!(view.get(SEED.hash(b"a"), b"b"), Ok(None), "the hash of another key");
        assert_eq!(view.get(SEED.hash(b"a"), b"a"), Ok(Some(b"1".as_slice())));
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused() {
        for slots in [0, 3, 8, u64::MAX, 1 << 63] {
            assert!(matches!(LayerView::new(&[0; 32], slots), Err(LayerError::Table { .. })), "{slots}");
        }
        let slot = (SEED.hash(b"a") & !PLACE_MASK) | 99;
        let bytes = slot.to_le_bytes();
        let view = LayerView::new(&bytes, 1).unwrap();
        assert_eq!(view.get(SEED.hash(b"a"), b"a"), Err(LayerError::Slot { place: 98 }));
    }
}
