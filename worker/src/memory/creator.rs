//! Handing the slab to wasmtime: one memory at a time, zeros at the start, zeros again when it is given back.
#![allow(unsafe_code, reason = "implements wasmtime's MemoryCreator")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_protocol::exit::WorkerExit;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::gc_heap::{GC_HEAP_BYTES, GcHeap};
use super::reservation::{GUARD_BYTES, RESERVATION_BYTES, Reservation};
use super::reset::Resetter;
use crate::complaint::complain;

/// The slab: committed up to `limit`.
///
/// Invariant: while `taken` is false, `[0, limit)` reads as zeros.
/// Invariant: exactly `[0, accessible)` is open.
#[derive(Debug)]
pub(super) struct Slab {
    pub(super) reservation: Reservation,
    limit: usize,
    accessible: AtomicUsize,
    taken: AtomicBool,
    resetter: Mutex<Resetter>,
    last_reset: AtomicU64,
}

impl Slab {
    /// Takes over a reservation of which `[0, limit)` is committed, open and zero.
    pub(super) fn new(reservation: Reservation, limit: usize, resetter: Resetter) -> Self {
        Self {
            reservation,
            limit,
            accessible: AtomicUsize::new(limit),
            taken: AtomicBool::new(false),
            resetter: Mutex::new(resetter),
            last_reset: AtomicU64::new(0),
        }
    }

    pub(super) fn last_reset_bytes(&self) -> u64 {
        self.last_reset.load(Ordering::Relaxed)
    }

    /// Opens exactly `[0, size)`. Only the one memory that has the slab calls this, so there is no race.
    ///
    /// Opening memory that is committed and accounted for fails only when the kernel has no room for its own
    /// bookkeeping. To a guest that would look like a refused `memory.grow`, and another host would say otherwise;
    /// so the process ends instead, and the supervisor runs the job elsewhere.
    fn set_accessible(&self, size: usize) {
        let before = self.accessible.swap(size, Ordering::Relaxed);
        let result = if size > before {
            self.reservation.open(before..size)
        } else {
            self.reservation.close(size..before)
        };
        if let Err(error) = result {
            complain!("cofferdam-worker: could not protect memory: {error}");
            std::process::exit(WorkerExit::Internal.code());
        }
    }

    /// Makes `[0, size)`, all that the memory which is given back could write, zero again.
    fn give_back(&self, size: usize) {
        // Only whoever gives the slab back takes the lock; a panic in a worker ends it.
        let mut resetter = self.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        self.last_reset.store(resetter.reset(&self.reservation, size), Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
    }
}

/// Gives the slab to whichever instance asks first, and again once that one is dropped.
#[derive(Debug)]
pub struct SlabCreator {
    slab: Arc<Slab>,
}

impl SlabCreator {
    pub(super) fn new(slab: Arc<Slab>) -> Self {
        Self { slab }
    }
}

// SAFETY: a linear memory that is handed out is zero (invariant of `Slab`), alone (`taken`), has RESERVATION_BYTES of
// addresses and GUARD_BYTES behind them that always fault, and never moves. A heap
// for references is a mapping of its own: see `GcHeap`.
unsafe impl MemoryCreator for SlabCreator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved_size_in_bytes == Some(GC_HEAP_BYTES) {
            return GcHeap::boxed(minimum);
        }
        if reserved_size_in_bytes.is_some_and(|bytes| bytes > RESERVATION_BYTES)
            || guard_size_in_bytes > GUARD_BYTES
        {
            return Err("the engine expects a larger reservation than a worker has".to_owned());
        }
        let limit = self.slab.limit.min(maximum.unwrap_or(usize::MAX));
        if minimum > self.slab.limit {
            return Err(format!(
                "the module's memory starts with {minimum} bytes, above the memory limit of {} bytes",
                self.slab.limit
            ));
        }
        if self.slab.taken.swap(true, Ordering::Acquire) {
            return Err("a worker has one linear memory, and it is in use".to_owned());
        }
        self.slab.set_accessible(minimum);
        Ok(Box::new(SlabMemory { slab: Arc::clone(&self.slab), size: minimum, limit }))
    }
}

/// The slab in the hands of one instance.
struct SlabMemory {
    slab: Arc<Slab>,
    size: usize,
    limit: usize,
}

// SAFETY: `byte_size` bytes are open (`set_accessible`), the base never moves, and what is behind faults.
unsafe impl LinearMemory for SlabMemory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        RESERVATION_BYTES
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > self.limit {
            return Err(wasmtime::Error::msg("the memory limit is reached"));
        }
        self.slab.set_accessible(new_size);
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slab.reservation.base().as_ptr()
    }
}

impl Drop for SlabMemory {
    fn drop(&mut self) {
        self.slab.give_back(self.size);
    }
}
