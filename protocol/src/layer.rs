//! Layers: the writes of blocks that the store does not hold yet, in memory that every worker can read.
//!
//! A block runs on the state of the block before it. Committing that state to the store often takes longer than the next block
//! runs. So the supervisor writes the pairs of a block whose commit is not finished as a *layer* into an arena that all workers
//! of a pool map read-only. A job names the layers that cover the state it reads. Every worker sees the same state.
//!
//! A layer is a hash table of u64 (little-endian), followed by the pairs in flush order ([`crate::writes`]):
//!
//! ```text
//! ┌──────────────────────────────┬──────────────────────────┐
//! │ slots: 0, or tag ‖ offset + 1│ pairs, in flush order    │
//! └──────────────────────────────┴──────────────────────────┘
//! ```
//!
//! The upper 16 bits of a slot, its tag, are the upper 16 bits of the key's hash. The lower 48 bits are the pair's offset behind
//! the table, plus one. Keys are found by linear probing. The hash function is SipHash-1-3 under a random key of the pool: a
//! module chooses its keys, and must not be able to choose keys that collide.
//!
//! The supervisor writes a layer before it names the layer in a job, and does not change the layer while such a job runs.

use bincode::{Decode, Encode};
use siphasher::sip::SipHasher13;
use thiserror::Error;

use crate::arena::Span;
use crate::writes::{Writes, pair_at};

/// The most layers that one job may name. A read searches the layers, newest first, until it finds the key.
pub const MAX_LAYERS: usize = 32;

const SLOT_BYTES: u64 = 8;
const OFFSET_BITS: u32 = 48;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// The key of the hash function, which is the same for all layers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Seed(pub u64, pub u64);

impl Seed {
    /// The hash of `key`, by which a layer is searched.
    pub fn hash(self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0, self.1).hash(key)
    }
}

/// The description of a layer in a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Layer {
    /// Height of the block that wrote the pairs.
    pub height: u32,
    /// Where the layer is in the arena of layers.
    pub span: Span,
    /// Number of slots of the hash table, a power of two.
    pub slots: u64,
}

/// Why bytes are not a layer.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
pub enum LayerError {
    /// The table does not fit, or its number of slots is not a power of two.
    #[error("a layer of {bytes} bytes cannot have a table of {slots} slots")]
    Table {
        /// Size of the layer in bytes.
        bytes: u64,
        /// Number of slots in the description.
        slots: u64,
    },
    /// A slot names an offset at which there is no pair.
    #[error("a slot of a layer names byte {offset}, where there is no pair")]
    Slot {
        /// The offset in bytes from the first pair.
        offset: u64,
    },
}

crate::debug_as_display!(LayerError);

/// Number of slots of the layer of `writes`. At most three in four are used.
pub fn slots_for(writes: &Writes) -> u64 {
    (writes.count().saturating_mul(4) / 3 + 1).next_power_of_two()
}

/// Size in bytes of the layer of `writes`.
pub fn bytes_for(writes: &Writes) -> u64 {
    slots_for(writes).saturating_mul(SLOT_BYTES).saturating_add(writes.as_bytes().len() as u64)
}

/// Writes the layer of `writes` into `target`. Among pairs with equal keys the last one counts.
///
/// # Panics
/// If the length of `target` is not [`bytes_for`].
pub fn write(target: &mut [u8], writes: &Writes, seed: Seed) {
    let pairs = writes.as_bytes();
    assert_eq!(target.len() as u64, bytes_for(writes), "the target of a layer has the size of the layer");
    let (table, copy) = target.split_at_mut(target.len() - pairs.len());
    table.fill(0);
    copy.copy_from_slice(pairs);
    let mut offset = 0;
    while let Some((key, _, next)) = pair_at(pairs, offset) {
        let hash = seed.hash(key);
        let slot = free_slot(table, pairs, hash, key);
        let entry = (hash & !OFFSET_MASK) | (offset as u64 + 1);
        table[slot..slot + 8].copy_from_slice(&entry.to_le_bytes());
        offset = next;
    }
}

/// Offset of the slot in which `key` is put: the first slot of its probe sequence that is free or has the same key. A quarter of
/// the slots are free, so the search ends.
fn free_slot(table: &[u8], pairs: &[u8], hash: u64, key: &[u8]) -> usize {
    let mut sequence = probe(table, hash);
    loop {
        let (at, entry) = sequence.next_slot();
        let taken_by_another = entry != 0
            && !(same_tag(entry, hash)
                && offset_of(entry)
                    .and_then(|offset| pair_at(pairs, offset))
                    .is_some_and(|pair| pair.0 == key));
        if !taken_by_another {
            return at;
        }
    }
}

/// The bytes of a layer, ready to be searched.
#[derive(Clone, Copy, Debug)]
pub struct LayerView<'a> {
    table: &'a [u8],
    pairs: &'a [u8],
}

impl<'a> LayerView<'a> {
    /// The layer in `bytes`, whose table has `slots` slots.
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

    /// The value of `key` in this layer; none if the layer does not have the key. `hash` is the [`Seed::hash`] of the key.
    ///
    /// # Errors
    /// [`LayerError::Slot`].
    pub fn get(self, hash: u64, key: &[u8]) -> Result<Option<&'a [u8]>, LayerError> {
        let mut sequence = probe(self.table, hash);
        // Visits each slot at most once. `write` leaves free slots, but the bytes may be damaged.
        for _ in 0..self.table.len() / 8 {
            let (_, entry) = sequence.next_slot();
            if entry == 0 {
                return Ok(None);
            }
            if !same_tag(entry, hash) {
                continue;
            }
            let pair = offset_of(entry).and_then(|offset| pair_at(self.pairs, offset));
            let (found, value, _) = pair.ok_or(LayerError::Slot { offset: (entry & OFFSET_MASK) - 1 })?;
            if found == key {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The probe sequence of a key: all slots, one after the other, from the slot that the hash selects.
struct Probe<'a> {
    table: &'a [u8],
    at: usize,
}

fn probe(table: &[u8], hash: u64) -> Probe<'_> {
    // The number of slots is a power of two. The tag consists of other bits of the hash.
    let slots = table.len() as u64 / SLOT_BYTES;
    let at = usize::try_from(hash & (slots - 1)).unwrap_or(0) * 8;
    Probe { table, at }
}

impl Probe<'_> {
    /// Offset of the next slot in the table, and the slot's content.
    fn next_slot(&mut self) -> (usize, u64) {
        let at = self.at;
        self.at = if at + 8 == self.table.len() { 0 } else { at + 8 };
        let entry = self.table[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (at, entry)
    }
}

fn same_tag(entry: u64, hash: u64) -> bool {
    (entry ^ hash) & !OFFSET_MASK == 0
}

fn offset_of(entry: u64) -> Option<usize> {
    usize::try_from((entry & OFFSET_MASK).checked_sub(1)?).ok()
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
    fn keys_that_share_a_slot_and_a_tag_are_distinguished() {
        // With two slots, the probe sequence of every key has both.
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
        let slot = (SEED.hash(b"a") & !OFFSET_MASK) | 99;
        let bytes = slot.to_le_bytes();
        let view = LayerView::new(&bytes, 1).unwrap();
        assert_eq!(view.get(SEED.hash(b"a"), b"a"), Err(LayerError::Slot { offset: 98 }));
    }
}
