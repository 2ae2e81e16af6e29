//! The connections that are open, which of them are idle, and since when.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Weak<Connection>>>,
    /// How many of them were asked to leave and have not left yet.
    leaving: AtomicUsize,
}

/// One open connection; leaves when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    shared: Arc<Shared>,
    running: AtomicUsize,
    /// Whether it ever began a request.
    used: AtomicBool,
    /// Whether it was asked to leave.
    asked: AtomicBool,
    /// When it last began or ended a request, in microseconds since the server began.
    touched: AtomicU64,
    evict: Notify,
}

/// A request that runs on a connection, until its answer has been sent.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        let shared = Shared {
            most,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            leaving: AtomicUsize::new(0),
        };
        Self(Arc::new(shared))
    }

    /// Adds a connection. If there are too many, the one that has been idle for longest is asked to leave.
    pub(super) fn enter(&self) -> Arc<Connection> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            shared: Arc::clone(&self.0),
            running: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            touched: AtomicU64::new(self.0.now()),
            evict: Notify::new(),
        });
        let too_many = {
            let mut open = self.0.lock();
            open.insert(id, Arc::downgrade(&connection));
            // Those that leave make room already; without this, a crowd of them would have newcomers sent away.
            open.len() > self.0.most + self.0.leaving.load(Ordering::Relaxed)
        };
        if too_many {
            self.evict();
        }
        connection
    }

    /// Asks the connection that has been idle for longest to leave.
    pub(super) fn evict(&self) {
        let can_leave =
            |connection: &Arc<Connection>| connection.is_idle() && !connection.asked.load(Ordering::Relaxed);
        let idle = self.all().into_iter().filter(can_leave);
        if let Some(oldest) = idle.min_by_key(|connection| connection.touched.load(Ordering::Relaxed)) {
            // Once is enough.
            oldest.asked.store(true, Ordering::Relaxed);
            self.0.leaving.fetch_add(1, Ordering::Relaxed);
            oldest.evict.notify_one();
        }
    }

    /// How many connections have requests that run.
    pub(super) fn busy(&self) -> usize {
        self.all().iter().filter(|connection| !connection.is_idle()).count()
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        self.0.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Connection {
    /// Notes that a request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Waits until it is asked to leave.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// Whether a request ever began.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether no request runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touched.store(self.0.shared.now(), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.shared.lock();
        open.remove(&self.id);
        if self.asked.load(Ordering::Relaxed) {
            self.shared.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_has_been_idle_for_longest_makes_room() {
        let connections = Connections::new(2);
        let pause = || std::thread::sleep(std::time::Duration::from_millis(2));
        let first = connections.enter();
        pause();
        let second = connections.enter();
        pause();
        // The first is the older one, and busy.
        let busy = first.begin();
        let third = connections.enter();
        second.evicted().await;
        drop(busy);
        assert_eq!(
            (first.evict.notified().now_or_never(), third.evict.notified().now_or_never()),
            (None, None)
        );
        assert_eq!(connections.busy(), 0);
        drop((first, second, third));
        assert!(connections.all().is_empty());
    }

    use futures_util::FutureExt;
}
