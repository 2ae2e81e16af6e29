//! The threads of a pool: how they are started, how the pool waits for their ends, and how it recognises them.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

thread_local! {
    /// The pool that this thread belongs to, if it belongs to one.
    static POOL: Cell<Option<PoolId>> = const { Cell::new(None) };
}

/// Distinguishes the pools of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolId(u64);

impl PoolId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Marks this thread as one of the pool's that may run code of the embedding program: a death hook or a waker.
    pub(super) fn enter(self) {
        POOL.set(Some(self));
    }

    /// Whether this thread was marked as one of this pool's.
    pub(super) fn is_here(self) -> bool {
        POOL.get() == Some(self)
    }
}

/// A thread of the pool whose end can be waited for until a deadline, which [`JoinHandle`] does not offer.
#[derive(Debug)]
pub(super) struct PoolThread {
    handle: JoinHandle<()>,
    /// Disconnected when the thread's work has ended, by a panic too. Nothing is ever sent.
    ended: Receiver<()>,
}

impl PoolThread {
    /// Starts a thread that does `work`.
    pub(super) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (running, ended) = bounded::<()>(0);
        let handle = thread::Builder::new().name(name).spawn(move || {
            // Dropped when `work` has returned or panicked.
            let _running = running;
            work();
        })?;
        Ok(Self { handle, ended })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until the thread's work has ended, or until `deadline`. Returns whether it has ended.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }

    /// The event of the thread's end: the receiver is disconnected then. For a caller that must not hold a lock on the thread
    /// while it waits.
    pub(super) fn end_event(&self) -> Receiver<()> {
        self.ended.clone()
    }

    /// Waits until the thread is gone. After the thread's work has ended, this takes a moment only.
    pub(super) fn join(self) {
        // The panic hook has printed a panic.
        let _ = self.handle.join();
    }

    fn is_current(&self) -> bool {
        self.handle.thread().id() == thread::current().id()
    }
}

/// Joins every one of `threads` that ends by `deadline`. The others end by themselves. The calling thread does not wait for
/// itself.
pub(super) fn join_by(threads: Vec<PoolThread>, deadline: Instant) {
    for thread in threads {
        if !thread.is_current() && thread.wait_until(deadline) {
            thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_end_of_a_thread_is_seen_though_it_panics() {
        let far = Instant::now() + Duration::from_secs(60);
        let quiet = PoolThread::spawn("quiet".to_owned(), || ()).unwrap();
        let panics = PoolThread::spawn("panics".to_owned(), || panic!("on purpose")).unwrap();
        let (release, held) = bounded::<()>(0);
        let waits = PoolThread::spawn("waits".to_owned(), move || _ = held.recv()).unwrap();
        assert!(quiet.wait_until(far) && panics.wait_until(far) && panics.has_ended());
        assert!(!waits.wait_until(Instant::now() + Duration::from_millis(5)) && !waits.has_ended());
        drop(release);
        join_by(vec![quiet, panics, waits], far);
    }
}
