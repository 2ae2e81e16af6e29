//! Resident memory outside any worker's life: to measure what it costs to write over it.

use std::ops::Range;

use cofferdam_protocol::message::{CommitStrategy, MemoryPlan, ResetStrategy};

use super::commit::{self, CommitError};
use super::reservation::{RESERVATION_BYTES, Reservation};

/// Memory as a worker commits it, in huge pages where the host grants them, and no more than that.
#[derive(Debug)]
pub struct Scratch {
    reservation: Reservation,
    bytes: usize,
}

impl Scratch {
    /// Commits `bytes`: a multiple of 64 KiB, up to 4 GiB.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn commit(bytes: u64) -> Result<Self, CommitError> {
        let reservation = Reservation::new(RESERVATION_BYTES)?;
        let (strategy, reset) = (CommitStrategy::Populate, ResetStrategy::Zero);
        let plan = MemoryPlan { bytes, strategy, huge_pages: true, lock: false, reset };
        commit::commit(&reservation, &plan, &mut |_| {})?;
        let bytes = usize::try_from(bytes).map_err(|_| CommitError::BadLimit { bytes })?;
        Ok(Self { reservation, bytes })
    }

    /// Writes zeros over `range`, in bytes from the start, by one memset.
    ///
    /// # Panics
    /// If `range` is not within the memory.
    pub fn zero(&mut self, range: Range<usize>) {
        assert!(range.end <= self.bytes, "{range:?} is outside {} bytes", self.bytes);
        self.reservation.zero(range);
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
