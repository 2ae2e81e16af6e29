//! A worker's linear memory: reserved, committed, proven, handed to guests one at a time, and made pristine again.
//!
//! ```text
//!  base (2 MiB aligned)      memory.size       limit                4 GiB           + guard
//!  │◀── accessible (RW) ──────▶│◀── closed ─────▶│◀── never opened ───▶│◀── guard ────▶│
//!  │◀───────────── committed: resident ─────────▶│
//! ```
//!
//! Compiled code carries no bounds checks on a 32-bit memory: everything from `memory.size` to 4 GiB and the guard
//! behind it must fault. Closing a range with `mprotect(PROT_NONE)` does not free its pages, so all bytes up to the
//! limit stay resident whatever the guest does, and growing is opening a little more.

pub mod addresses;
mod commit;
mod creator;
mod gc_heap;
pub(crate) mod heap;
mod reservation;
mod reset;
mod residency;
mod scratch;
mod streaming;
mod tracking;

use std::sync::Arc;

use cofferdam_protocol::message::{MemoryPlan, ResetStrategy};

pub use addresses::WORKER_ADDRESSES;
pub use commit::{CommitError, CommitReport};
pub use creator::SlabCreator;
pub use gc_heap::GC_HEAP_BYTES;
pub use reservation::{GUARD_BYTES, RESERVATION_BYTES};
pub use scratch::Scratch;
pub use tracking::{TrackingError, probe as probe_tracking};

use creator::Slab;
use reservation::Reservation;
use reset::Resetter;
use tracking::Tracker;

/// The committed memory of this process. It outlives every instance.
#[derive(Debug)]
pub struct CommittedMemory {
    slab: Arc<Slab>,
}

impl CommittedMemory {
    /// Commits what `plan` asks for and proves that it is resident. `progress` hears of the bytes committed so far.
    ///
    /// # Errors
    /// [`CommitError`] if the kernel refuses. If it does not refuse but has not enough memory, it kills this process.
    pub fn commit(
        plan: &MemoryPlan,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Self, CommitReport), CommitError> {
        let reservation = Reservation::new(RESERVATION_BYTES)?;
        let mut report = commit::commit(&reservation, plan, progress)?;
        let limit = usize::try_from(plan.bytes).map_err(|_| CommitError::BadLimit { bytes: plan.bytes })?;
        let (tracker, how) = tracker(&reservation, limit, plan.reset);
        report.reset = how;
        let resetter = Resetter::new(limit, commit::page_bytes(), tracker);
        Ok((Self { slab: Arc::new(Slab::new(reservation, limit, resetter)) }, report))
    }

    /// What wasmtime asks for linear memories.
    pub fn creator(&self) -> Arc<SlabCreator> {
        Arc::new(SlabCreator::new(Arc::clone(&self.slab)))
    }

    /// Bytes that the last reset had to write.
    pub fn last_reset_bytes(&self) -> u64 {
        self.slab.last_reset_bytes()
    }
}

/// The means to track writes, and how memory is reset, with the reason if not as asked.
fn tracker(reservation: &Reservation, limit: usize, strategy: ResetStrategy) -> (Option<Tracker>, String) {
    match strategy {
        ResetStrategy::Zero => (None, strategy.name().to_owned()),
        ResetStrategy::Adaptive if commit::page_bytes() > reset::CHUNK_BYTES => {
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
