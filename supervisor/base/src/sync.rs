//! Locking for data that several threads share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if a thread panicked while it held the lock (a poisoned mutex).
///
/// Use this function only for data that is consistent after every single step of a critical section. The callers in Cofferdam's
/// crates lock only such data. So a panic in one thread does not stop the other threads.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
