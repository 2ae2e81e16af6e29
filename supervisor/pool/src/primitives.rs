//! The building blocks of the pool's concurrent parts: locks and condition variables of the standard library. The tests in
//! `models` compile the same parts with the locks and condition variables of shuttle instead. Shuttle runs the threads in many
//! interleavings.

use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

pub(super) use std::sync::{Arc, Condvar, Mutex};

pub(super) use cofferdam_base::sync::lock;

/// Waits on `condvar` until it is notified, or until `deadline` if there is one. May also return earlier.
pub(super) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> MutexGuard<'a, T> {
    match deadline {
        None => condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(deadline) => {
            let timeout = deadline.saturating_duration_since(Instant::now());
            condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// Whether `deadline`, if there is one, has passed.
pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}
