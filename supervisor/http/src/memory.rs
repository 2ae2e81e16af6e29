//! A bound on the memory that the bodies of all requests and responses take together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that one permit of the semaphore stands for. A semaphore counts permits in 32 bits, so a permit is larger than a byte.
pub(crate) const UNIT_BYTES: u64 = 4096;

/// A number of bytes that all requests share. Clones share the same bytes.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free_units: Arc<Semaphore>,
    total_units: u32,
}

/// A part of a [`MemoryBudget`]. It is returned to the budget on drop.
#[derive(Debug, Default)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

impl MemoryBudget {
    /// A budget of `bytes`, rounded down to a multiple of 4 KiB. A budget has at least 4 KiB and at most 16 TiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total_units = u32::try_from((bytes / UNIT_BYTES).max(1)).unwrap_or(u32::MAX);
        // The largest semaphore has more permits than fit into 32 bits.
        let free_units = Semaphore::new(usize::try_from(total_units).unwrap_or(Semaphore::MAX_PERMITS));
        Self { free_units: Arc::new(free_units), total_units }
    }

    /// Reserves `bytes`, rounded up to a multiple of 4 KiB. Waits for them for at most `max_wait`, then returns none. More
    /// bytes than the budget has reserve the whole budget, so that one large body is possible when nothing else is
    /// reserved.
    pub(crate) async fn reserve(&self, bytes: u64, max_wait: Duration) -> Option<Reservation> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.total_units);
        if units == 0 {
            return Some(Reservation::default());
        }
        let permit = timeout(max_wait, Arc::clone(&self.free_units).acquire_many_owned(units)).await;
        // The inner error is that of a closed semaphore, and this semaphore is never closed.
        Some(Reservation(Some(permit.ok()?.ok()?)))
    }

    /// Bytes that are reserved now.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        let free = u64::try_from(self.free_units.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.total_units).saturating_sub(free) * UNIT_BYTES
    }
}

impl Reservation {
    /// Adds `more`, which must be of the same budget.
    pub(crate) fn add(&mut self, more: Self) {
        match (&mut self.0, more.0) {
            (Some(permit), Some(more)) => permit.merge(more),
            (empty @ None, more) => *empty = more,
            (Some(_), None) => {}
        }
    }

    /// Whether nothing is reserved.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reservations_return_to_the_budget_when_they_are_dropped() {
        let budget = MemoryBudget::new(4 * UNIT_BYTES);
        let mut reservation = budget.reserve(1, Duration::ZERO).await.unwrap();
        reservation.add(budget.reserve(UNIT_BYTES + 1, Duration::ZERO).await.unwrap());
        reservation.add(budget.reserve(0, Duration::ZERO).await.unwrap());
        assert_eq!(budget.reserved_bytes(), 3 * UNIT_BYTES);
        assert!(budget.reserve(u64::MAX, Duration::ZERO).await.is_none(), "a part of the budget is reserved");
        drop(reservation);
        assert_eq!(budget.reserved_bytes(), 0);
        let whole = budget.reserve(u64::MAX, Duration::ZERO).await.unwrap();
        assert_eq!(budget.reserved_bytes(), 4 * UNIT_BYTES);
        assert!(budget.reserve(1, Duration::ZERO).await.is_none(), "the whole budget is reserved");
        drop(whole);
    }
}
