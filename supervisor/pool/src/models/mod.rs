//! Models of what threads share. The same source files are compiled with shuttle's locks and threads instead of the real ones, and
//! run in thousands of interleavings. An interleaving that fails is printed, and can be run again (`shuttle::replay`).

mod completion_model;
mod idle_model;
mod permits_model;

/// Shuttle's counterpart of `super::primitives`.
mod primitives {
    use std::sync::PoisonError;
    use std::time::Instant;

    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `primitives::wait`. A deadline is never reached: what waits for ever is a deadlock, which shuttle reports.
    pub(super) fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _deadline: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_passed(_deadline: Option<Instant>) -> bool {
        false
    }
}

/// How many interleavings are tried of each model.
const ORDERS: usize = 5_000;
