//! The GC heap that wasmtime needs for a module with tables of `externref`. The engine asks for it in the same way as for a
//! linear memory.
//!
//! The ABI gives no references to guests, and no accepted operation makes one. So the heap begins with zero bytes and never
//! grows, and there is nothing to commit. But the engine must get a heap, and the heap must not be the slab. It has a
//! fixed capacity on every host, and it is dropped with its instance.
#![allow(unsafe_code, reason = "implements wasmtime's LinearMemory")]

use cofferdam_protocol::exit::WorkerExit;
use wasmtime::LinearMemory;

use super::reservation::Reservation;
use crate::process::stderr::log_stderr;

/// Capacity of a GC heap in bytes. The engine reserves exactly this much for a heap, which distinguishes it from a memory.
pub const GC_HEAP_BYTES: usize = 16 << 20;

pub(super) struct GcHeap {
    reservation: Reservation,
    size: usize,
}

impl GcHeap {
    /// A heap of `minimum` zero bytes.
    pub(super) fn boxed(minimum: usize) -> Result<Box<dyn LinearMemory>, String> {
        let refused = |error: std::io::Error| format!("no addresses for a GC heap: {error}");
        let reservation = Reservation::new(GC_HEAP_BYTES).map_err(refused)?;
        if minimum > GC_HEAP_BYTES {
            return Err(format!("a GC heap of {minimum} bytes is above the limit of {GC_HEAP_BYTES} bytes"));
        }
        reservation.open(0..minimum).map_err(refused)?;
        Ok(Box::new(Self { reservation, size: minimum }))
    }
}

// SAFETY: `[0, size)` is open, and each byte is zero when it is first opened, because the private mapping is fresh. The base
// never moves. Every access behind `size` faults, in the guard of the reservation too.
unsafe impl LinearMemory for GcHeap {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        GC_HEAP_BYTES
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > GC_HEAP_BYTES {
            return Err(wasmtime::Error::msg("the GC heap has reached its limit"));
        }
        // This memory is not committed. The guest must not see whether the host has it, so the process ends if it does not.
        if let Err(error) = self.reservation.open(self.size..new_size) {
            log_stderr!("cofferdam-worker: could not grow a GC heap: {error}");
            std::process::exit(WorkerExit::Internal.code());
        }
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.base().as_ptr()
    }
}
