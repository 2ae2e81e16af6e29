//! Waiting for threads that may run code of others, and so may take for ever, or be the ones that wait.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

thread_local! {
    /// The pool that this thread belongs to, if it belongs to one.
    static POOL: Cell<Option<PoolId>> = const { Cell::new(None) };
}

/// Tells one pool of this process from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolId(u64);

impl PoolId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes that this thread belongs to the pool, and may run code of others: a hook, a waker.
    pub(super) fn enter(self) {
        POOL.set(Some(self));
    }

    /// Whether this thread does.
    pub(super) fn is_here(self) -> bool {
        POOL.get() == Some(self)
    }
}

/// Waits until `threads` have ended, for at most `patience`. The thread that calls this is not waited for. Whatever has not
/// ended by then ends by itself.
pub(super) fn join_within(threads: Vec<JoinHandle<()>>, patience: Duration) {
    const STEP: Duration = Duration::from_millis(1);
    let this = thread::current().id();
    let deadline = Instant::now() + patience;
    for handle in threads {
        if handle.thread().id() == this {
            continue;
        }
        while !handle.is_finished() && Instant::now() < deadline {
            thread::sleep(STEP);
        }
        if handle.is_finished() {
            // A panic was printed by its hook.
            let _ = handle.join();
        }
    }
}
