//! The arena of layers. A layer holds the writes of a block that the store does not hold yet, so that jobs can already read them.
//!
//! All workers of a pool share one arena ([`cofferdam_protocol::layer`] describes its bytes). The room of a layer is freed when
//! the last [`StateLayer`] that stands for it is dropped. A job holds the layers that it reads, so nothing is written where a
//! worker may be reading.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use cofferdam_protocol::arena::{InputArena, Span};
use cofferdam_protocol::layer::{self, Layer, Seed};
use cofferdam_protocol::writes::Writes;

use cofferdam_base::sync::lock;

pub use cofferdam_protocol::layer::MAX_LAYERS;

/// The size in bytes of the arena of a pool without layers. An arena cannot be empty.
const NO_LAYERS: u64 = 4096;

/// Layers begin at multiples of this many bytes: a cache line of the processor.
const ALIGNMENT: u64 = 64;

/// The arena.
pub(super) struct LayerArena {
    arena: Mutex<InputArena>,
    descriptor: OwnedFd,
    used: Mutex<Used>,
    capacity: u64,
    seed: Seed,
}

/// The parts of the arena that are taken: the length of each by its offset.
#[derive(Debug, Default)]
struct Used(BTreeMap<u64, u64>);

impl Used {
    /// Takes the first free room for `length` bytes, so that as little memory as possible is ever touched.
    fn take(&mut self, length: u64, capacity: u64) -> Option<Span> {
        let mut offset = 0u64;
        for (start, taken) in &self.0 {
            if start - offset >= length {
                break;
            }
            offset = (start + taken).checked_next_multiple_of(ALIGNMENT)?;
        }
        if offset.checked_add(length)? > capacity {
            return None;
        }
        self.0.insert(offset, length);
        Some(Span { offset, length })
    }
}

impl fmt::Debug for LayerArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerArena")
            .field("capacity", &self.capacity)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl LayerArena {
    /// An arena of `capacity` bytes. The workers commit it.
    pub(super) fn create(capacity: u64) -> io::Result<Self> {
        let capacity = capacity.max(NO_LAYERS);
        let arena = InputArena::create(capacity).map_err(io::Error::other)?;
        let descriptor = arena.as_fd().try_clone_to_owned()?;
        // Two hashes under one random key.
        let random = RandomState::new();
        let seed = Seed(random.hash_one(0), random.hash_one(1));
        Ok(Self { arena: Mutex::new(arena), descriptor, used: Mutex::default(), capacity, seed })
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// Copies `writes`, of the block at `height`, into the arena. None if there is no room.
    pub(super) fn lay(self: &Arc<Self>, height: u32, writes: &Writes) -> Option<StateLayer> {
        // This lock is held for moments only: dropping a layer must not wait for a copy.
        let span = lock(&self.used).take(layer::bytes_for(writes), self.capacity)?;
        let layer = Layer { height, span, slots: layer::slots_for(writes) };
        // If `slice_mut` fails below, dropping this value frees the room again.
        let held = StateLayer(Arc::new(Reservation { layer, arena: Arc::clone(self) }));
        let mut arena = lock(&self.arena);
        layer::write(arena.slice_mut(span).ok()?, writes, self.seed);
        Some(held)
    }
}

impl AsFd for LayerArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What one block wrote, in memory that every worker of a pool reads. Made by [`Pool::layer`](super::Pool::layer). Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateLayer(Arc<Reservation>);

impl StateLayer {
    /// The height of the block.
    pub fn height(&self) -> u32 {
        self.0.layer.height
    }

    pub(super) fn layer(&self) -> Layer {
        self.0.layer
    }

    /// Whether the layer lies in `arena`. The workers of another pool would not find it.
    pub(super) fn is_in(&self, arena: &Arc<LayerArena>) -> bool {
        Arc::ptr_eq(&self.0.arena, arena)
    }
}

/// Layers without a pool, for a substitute of the pool in a test.
#[doc(hidden)]
#[derive(Debug)]
pub struct LayerRoom(Arc<LayerArena>);

impl LayerRoom {
    /// Room for layers of `bytes` in all.
    ///
    /// # Errors
    /// If the kernel refuses the memory.
    pub fn new(bytes: u64) -> io::Result<Self> {
        Ok(Self(Arc::new(LayerArena::create(bytes)?)))
    }

    /// As [`Pool::layer`](super::Pool::layer).
    pub fn lay(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        self.0.lay(height, writes)
    }
}

#[derive(Debug)]
struct Reservation {
    layer: Layer,
    arena: Arc<LayerArena>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.arena.used).0.remove(&self.layer.span.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_given_back() {
        let arena = Arc::new(LayerArena::create(1).unwrap());
        let none = Writes::default();
        // A layer of nothing still has a table of one slot.
        let layers: Vec<_> = (0..).map_while(|height| arena.lay(height, &none)).collect();
        assert_eq!(layers.len() as u64, NO_LAYERS / ALIGNMENT);
        let spans: Vec<_> = layers.iter().map(|layer| layer.layer().span.offset).collect();
        assert!(spans.windows(2).all(|pair| pair[1] - pair[0] == ALIGNMENT));
        let kept = layers[5].clone();
        drop(layers);
        assert_eq!(lock(&arena.used).0.len(), 1, "one clone is left");
        let again: Vec<_> = (0..).map_while(|height| arena.lay(height, &none)).collect();
        assert_eq!(again.len() as u64, NO_LAYERS / ALIGNMENT - 1);
        assert!(again.iter().all(|layer| layer.layer().span.offset != kept.layer().span.offset));
    }
}
