//! Handing the slab to wasmtime: to one instance at a time, zero at the start, and zeroed again when it is returned.
#![allow(unsafe_code, reason = "implements wasmtime's MemoryCreator")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_protocol::exit::WorkerExit;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::gc_heap::{GC_HEAP_BYTES, GcHeap};
use super::open_memory::OpenMemory;
use super::reservation::{GUARD_BYTES, RESERVATION_BYTES, Reservation};
use super::reset::Resetter;
use crate::process::stderr::log_stderr;

/// The slab: the committed memory of the process, `limit` bytes, which instances use one after the other.
///
/// Invariant: while `in_use` is false, `[0, limit)` is zero.
/// Invariant: exactly `[0, accessible)` is open.
/// Invariant: at most one [`SlabMemory`] exists, and only while `in_use` is true. Nobody else changes what is open, or accesses
/// the memory.
#[derive(Debug)]
pub(super) struct Slab {
    reservation: Reservation,
    limit: usize,
    accessible: AtomicUsize,
    in_use: AtomicBool,
    resetter: Mutex<Resetter>,
    last_reset_bytes: AtomicU64,
}

impl Slab {
    /// Takes over a reservation.
    ///
    /// # Safety
    /// `[0, limit)` of the reservation must be committed, open and zero, and all behind it closed.
    pub(super) unsafe fn new(reservation: Reservation, limit: usize, resetter: Resetter) -> Self {
        Self {
            reservation,
            limit,
            accessible: AtomicUsize::new(limit),
            in_use: AtomicBool::new(false),
            resetter: Mutex::new(resetter),
            last_reset_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that the last reset zeroed.
    pub(super) fn last_reset_bytes(&self) -> u64 {
        self.last_reset_bytes.load(Ordering::Relaxed)
    }

    /// The addresses of the slab, which are not to be opened or closed.
    #[cfg(test)]
    pub(super) fn reservation(&self) -> &Reservation {
        &self.reservation
    }
}

/// Gives the slab to whichever instance asks first, and to the next one once that instance is dropped.
#[derive(Debug)]
pub struct SlabCreator {
    slab: Arc<Slab>,
}

impl SlabCreator {
    pub(super) fn new(slab: Arc<Slab>) -> Self {
        Self { slab }
    }
}

// SAFETY: the linear memory that is handed out is zero and has no other user (invariants of `Slab`). It has RESERVATION_BYTES
// of addresses and GUARD_BYTES behind them that always fault, and it never moves. A GC heap is a mapping of its own with a guard
// of the same size: see `GcHeap`.
unsafe impl MemoryCreator for SlabCreator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved_size_in_bytes.is_some_and(|bytes| bytes > RESERVATION_BYTES)
            || guard_size_in_bytes > GUARD_BYTES
        {
            return Err(format!(
                "the engine asks for a reservation of {reserved_size_in_bytes:?} bytes with a guard of {guard_size_in_bytes}; \
                 a worker has {RESERVATION_BYTES} and {GUARD_BYTES}"
            ));
        }
        if reserved_size_in_bytes == Some(GC_HEAP_BYTES) {
            return GcHeap::boxed(minimum);
        }
        let limit = self.slab.limit.min(maximum.unwrap_or(usize::MAX));
        if minimum > self.slab.limit {
            return Err(format!(
                "the module's memory starts with {minimum} bytes, above the memory limit of {} bytes",
                self.slab.limit
            ));
        }
        match SlabMemory::take(&self.slab, minimum, limit) {
            Some(memory) => Ok(Box::new(memory)),
            None => Err("a worker has one linear memory, and it is in use".to_owned()),
        }
    }
}

/// The right of one instance to use the slab. Dropping it zeroes the memory and lets the next instance have it.
struct SlabMemory {
    slab: Arc<Slab>,
    size: usize,
    limit: usize,
}

impl SlabMemory {
    /// The slab as a memory of `size` bytes that can grow to `limit`; none if the slab is in use.
    fn take(slab: &Arc<Slab>, size: usize, limit: usize) -> Option<Self> {
        if slab.in_use.swap(true, Ordering::Acquire) {
            return None;
        }
        let mut memory = Self { slab: Arc::clone(slab), size: 0, limit };
        memory.resize(size);
        Some(memory)
    }

    /// Opens exactly `[0, size)`.
    ///
    /// The memory is committed and accounted for. So opening it fails only if the kernel has no memory for its own
    /// bookkeeping. The guest would see a refused `memory.grow`, which it would not see on another host. So the process
    /// ends instead, and the supervisor runs the job elsewhere.
    fn resize(&mut self, size: usize) {
        let before = self.slab.accessible.swap(size, Ordering::Relaxed);
        let result = if size > before {
            self.slab.reservation.open(before..size)
        } else {
            self.slab.reservation.close(size..before)
        };
        if let Err(error) = result {
            log_stderr!("cofferdam-worker: could not protect memory: {error}");
            std::process::exit(WorkerExit::Internal.code());
        }
        self.size = size;
    }
}

// SAFETY: `byte_size` bytes are open (`resize`), the base never moves, and every access behind them faults.
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
        self.resize(new_size);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slab.reservation.base().as_ptr()
    }
}

impl Drop for SlabMemory {
    /// Zeroes `[0, size)`, which is all that the instance could write.
    fn drop(&mut self) {
        // Only the one `SlabMemory` takes this lock, and a panic ends the worker.
        let mut resetter = self.slab.resetter.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: `[0, size)` is open and stays open while `self` lives, and only the instance could access it (invariants of
        // `Slab`). The instance drops its memory last: it does not access it any more.
        let mut memory = unsafe { OpenMemory::assume(&self.slab.reservation, 0..self.size) };
        self.slab.last_reset_bytes.store(resetter.reset(&mut memory), Ordering::Relaxed);
        self.slab.in_use.store(false, Ordering::Release);
    }
}
