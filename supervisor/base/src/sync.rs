//! Locking for data that several threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if a thread panicked while it held the lock (a poisoned mutex).
///
/// Only for data that is consistent after every single step of a critical section. The callers in Cofferdam's crates keep
/// to that, so a panic elsewhere is no reason to stop working.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
