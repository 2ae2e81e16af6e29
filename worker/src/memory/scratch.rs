//! Committed memory outside a worker, for benchmarks that measure the cost of writing over it.

#![allow(unsafe_code, reason = "writes over memory that it has committed")]

use std::ops::Range;

use cofferdam_protocol::message::{CommitStrategy, MemoryPlan, ResetStrategy};

use super::commit::{self, CommitError};
use super::open_memory::OpenMemory;
use super::reservation::{RESERVATION_BYTES, Reservation};

/// Memory that is committed as in a worker, in huge pages where the host grants them.
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
        let mut reservation = Reservation::new(RESERVATION_BYTES)?;
        let (strategy, reset) = (CommitStrategy::Populate, ResetStrategy::Zero);
        let plan = MemoryPlan { bytes, strategy, huge_pages: true, lock: false, reset };
        commit::commit(&mut reservation, &plan, &mut |_| {})?;
        let bytes = usize::try_from(bytes).map_err(|_| CommitError::BadLimit { bytes })?;
        Ok(Self { reservation, bytes })
    }

    /// Writes zeros over `range`, in bytes from the start, by one memset.
    ///
    /// # Panics
    /// If `range` is not within the memory.
    pub fn zero(&mut self, range: Range<usize>) {
        assert!(range.end <= self.bytes, "{range:?} is outside {} bytes", self.bytes);
        // SAFETY: `commit` has opened the memory, nothing closes it, and `&mut self` excludes every other access.
        unsafe { OpenMemory::assume(&self.reservation, 0..self.bytes) }.zero(range);
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
