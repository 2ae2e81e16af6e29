//! A worker's linear memory. In this order it is reserved, committed, counted, handed to one guest at a time, and zeroed again.
//!
//! ```text
//!  base (2 MiB aligned)      memory.size       limit                4 GiB           + guard
//!  │◀── accessible (RW) ──────▶│◀── closed ─────▶│◀── never opened ───▶│◀── guard ────▶│
//!  │◀───────────── committed: resident ─────────▶│
//! ```
//!
//! Compiled code has no bounds checks for a 32-bit memory. So every access from `memory.size` to 4 GiB, and to the guard behind,
//! must fault. Closing a range with `mprotect(PROT_NONE)` does not free its pages. So all bytes up to the limit stay resident,
//! whatever the guest does. Growing the memory only opens a larger part of these bytes.
//!
//! In order of use: `page` (the host's page size), `reservation` (addresses), `open_memory` (the proof that memory may be
//! accessed), `residency` (what is resident), [`address_space`] (how many addresses a process may reserve), `commit`, `tracking`
//! (which pages were written), `streaming` (fast zeroing), `reset`, `gc_heap`, `creator` (what wasmtime is given), `allocator` (the
//! memory of malloc), `scratch` (for benchmarks).

pub mod address_space;
pub(crate) mod allocator;
mod commit;
mod creator;
mod gc_heap;
mod open_memory;
mod page;
mod reservation;
mod reset;
mod residency;
mod scratch;
mod streaming;
mod tracking;

use std::sync::Arc;

use cofferdam_protocol::message::{MemoryPlan, ResetStrategy};

pub use commit::{CommitError, CommitReport};
pub use creator::SlabCreator;
pub use gc_heap::GC_HEAP_BYTES;
pub use reservation::{GUARD_BYTES, RESERVATION_BYTES};
pub use residency::ResidencyUnknown;
pub use scratch::Scratch;
pub use tracking::{TrackingError, probe as probe_tracking};

use creator::Slab;
use page::page_bytes;
use reservation::Reservation;
use reset::Resetter;
use tracking::Tracker;

/// The committed memory of this process, the slab. It outlives every instance.
#[derive(Debug)]
pub struct CommittedMemory {
    slab: Arc<Slab>,
}

impl CommittedMemory {
    /// Commits the memory of `plan` and checks that all of it is resident. Calls `progress` with the number of bytes committed
    /// so far.
    ///
    /// # Errors
    /// [`CommitError`] if the kernel refuses. If the kernel grants memory that it does not have, it kills this process.
    #[allow(unsafe_code, reason = "hands the committed memory to the slab")]
    pub fn commit(
        plan: &MemoryPlan,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Self, CommitReport), CommitError> {
        let mut reservation = Reservation::new(RESERVATION_BYTES)?;
        let mut report = commit::commit(&mut reservation, plan, progress)?;
        let limit = usize::try_from(plan.bytes).map_err(|_| CommitError::BadLimit { bytes: plan.bytes })?;
        let (tracker, how) = tracker(&reservation, limit, plan.reset);
        report.reset = how;
        let resetter = Resetter::new(limit, page_bytes(), tracker);
        // SAFETY: `commit` has opened and committed `[0, limit)`, which is zero, and nothing behind it was opened.
        let slab = unsafe { Slab::new(reservation, limit, resetter) };
        Ok((Self { slab: Arc::new(slab) }, report))
    }

    /// The creator of linear memories for [`crate::engine::build`].
    pub fn creator(&self) -> Arc<SlabCreator> {
        Arc::new(SlabCreator::new(Arc::clone(&self.slab)))
    }

    /// Bytes that the last reset zeroed.
    pub fn last_reset_bytes(&self) -> u64 {
        self.slab.last_reset_bytes()
    }
}

/// The tracker of writes if there is to be one, and how memory is reset, with the reason if that differs from the request.
fn tracker(reservation: &Reservation, limit: usize, strategy: ResetStrategy) -> (Option<Tracker>, String) {
    match strategy {
        ResetStrategy::Zero => (None, strategy.name().to_owned()),
        ResetStrategy::Adaptive if page_bytes() > reset::CHUNK_BYTES => {
            (None, format!("{}: the pages of this host are too large to track", ResetStrategy::Zero.name()))
        }
        ResetStrategy::Adaptive => match Tracker::new(reservation, limit) {
            Ok(tracker) => (Some(tracker), strategy.name().to_owned()),
            Err(error) => (None, format!("{}: {error}", ResetStrategy::Zero.name())),
        },
    }
}

#[cfg(test)]
mod tests;
