//! The heap that wasmtime wants for a module with tables of `externref`, which it asks for as if it were one more
//! linear memory.
//!
//! The ABI hands no references to guests, and no operation that is accepted makes one: so the heap never grows beyond the
//! nothing that it begins with, and there is nothing to commit. But it must be there, and it must not be the slab. It is of
//! a fixed size on every host, and gone with its instance.
#![allow(unsafe_code, reason = "implements wasmtime's LinearMemory")]

use cofferdam_protocol::exit::WorkerExit;
use wasmtime::LinearMemory;

use super::reservation::Reservation;
use crate::complaint::complain;

/// Bytes that such a heap may grow to. The engine asks for exactly this much, by which a heap is told from a memory.
pub const GC_HEAP_BYTES: usize = 16 << 20;

pub(super) struct GcHeap {
    reservation: Reservation,
    size: usize,
}

impl GcHeap {
    /// A heap of `minimum` zero bytes.
    pub(super) fn boxed(minimum: usize) -> Result<Box<dyn LinearMemory>, String> {
        let refused = |error: std::io::Error| format!("no room for a heap of references: {error}");
        let reservation = Reservation::new(GC_HEAP_BYTES).map_err(refused)?;
        if minimum > GC_HEAP_BYTES {
            return Err(format!(
                "a heap of references of {minimum} bytes is above the limit of {GC_HEAP_BYTES}"
            ));
        }
        reservation.open(0..minimum).map_err(refused)?;
        Ok(Box::new(Self { reservation, size: minimum }))
    }
}

// SAFETY: `[0, size)` is open and zero when it is opened first (a fresh private mapping), the base never moves, and what
// is behind faults, the guard of the reservation included.
unsafe impl LinearMemory for GcHeap {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        GC_HEAP_BYTES
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > GC_HEAP_BYTES {
            return Err(wasmtime::Error::msg("the limit of the heap of references is reached"));
        }
        // Memory that was not committed. Whether the host has it must not be for the guest to see.
        if let Err(error) = self.reservation.open(self.size..new_size) {
            complain!("cofferdam-worker: could not grow a heap of references: {error}");
            std::process::exit(WorkerExit::Internal.code());
        }
        self.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.base().as_ptr()
    }
}
