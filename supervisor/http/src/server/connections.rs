//! The open connections: which of them are idle, and in which order they became so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// All open connections of a server.
#[derive(Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How many connections may be open, unless more are busy.
    limit: usize,
    next_id: AtomicU64,
    /// Counts opened connections and ended requests. The count at each of these events orders the events.
    activity: AtomicU64,
    open: Mutex<HashMap<u64, Weak<Connection>>>,
    /// How many connections were asked to close and have not closed yet.
    closing: AtomicUsize,
}

/// One open connection. It is removed from [`Connections`] on drop.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    shared: Arc<Shared>,
    running: AtomicUsize,
    /// Whether a request has begun on this connection.
    used: AtomicBool,
    /// Whether this connection was asked to close.
    evicted: AtomicBool,
    /// The value of [`Shared::activity`] when this connection was opened or last ended a request.
    last_activity: AtomicU64,
    eviction: Notify,
    /// Notified when the last running request ends.
    idle: Notify,
}

/// A request that runs on a connection, until its response has been sent.
#[derive(Debug)]
pub(super) struct RunningRequest(Arc<Connection>);

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        let shared = Shared {
            limit,
            next_id: AtomicU64::new(0),
            activity: AtomicU64::new(0),
            open: Mutex::default(),
            closing: AtomicUsize::new(0),
        };
        Self(Arc::new(shared))
    }

    /// Adds a connection. If there are too many connections, asks the one that has been idle for longest to close.
    pub(super) fn add(&self) -> Arc<Connection> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            shared: Arc::clone(&self.0),
            running: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            last_activity: AtomicU64::new(self.0.next_activity()),
            eviction: Notify::new(),
            idle: Notify::new(),
        });
        let too_many = {
            let mut open = self.0.lock();
            open.insert(id, Arc::downgrade(&connection));
            // Connections that are closing do not count: otherwise a burst of new connections would evict new connections.
            open.len() > self.0.limit + self.0.closing.load(Ordering::Relaxed)
        };
        if too_many {
            self.evict_idle();
        }
        connection
    }

    /// Asks the connection that has been idle for longest to close. Does nothing if every connection is busy or closing.
    pub(super) fn evict_idle(&self) {
        let can_close = |connection: &Arc<Connection>| {
            connection.is_idle() && !connection.evicted.load(Ordering::Relaxed)
        };
        let idle = self.all().into_iter().filter(can_close);
        if let Some(oldest) = idle.min_by_key(|connection| connection.last_activity.load(Ordering::Relaxed)) {
            oldest.evicted.store(true, Ordering::Relaxed);
            self.0.closing.fetch_add(1, Ordering::Relaxed);
            oldest.eviction.notify_one();
        }
    }

    /// How many connections have running requests.
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

    fn next_activity(&self) -> u64 {
        self.activity.fetch_add(1, Ordering::Relaxed)
    }
}

impl Connection {
    /// Records that a request begins. It runs until the returned value is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> RunningRequest {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
        RunningRequest(Arc::clone(self))
    }

    /// Waits until this connection is asked to close.
    pub(super) async fn evicted(&self) {
        self.eviction.notified().await;
    }

    /// Waits until no request is running.
    pub(super) async fn becomes_idle(&self) {
        // A notification of an earlier request may be stored, so the count decides.
        while !self.is_idle() {
            self.idle.notified().await;
        }
    }

    /// Whether a request has begun on this connection.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether no request is running.
    pub(super) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.last_activity.store(connection.shared.next_activity(), Ordering::Relaxed);
        if connection.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            // At most one task waits for this notification: the task that serves the connection. If the task does not wait
            // yet, the notification is stored.
            connection.idle.notify_one();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.shared.lock();
        open.remove(&self.id);
        if self.evicted.load(Ordering::Relaxed) {
            self.shared.closing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_been_idle_for_longest_makes_room() {
        let connections = Connections::new(2);
        let first = connections.add();
        let second = connections.add();
        // The first connection is older, but busy.
        let request = first.begin_request();
        let third = connections.add();
        second.evicted().await;
        drop(request);
        assert_eq!((first.evicted().now_or_never(), third.evicted().now_or_never()), (None, None));
        assert_eq!(connections.busy(), 0);
        // The first connection ended a request after the third was opened.
        drop(second);
        let fourth = connections.add();
        third.evicted().await;
        assert_eq!((first.evicted().now_or_never(), fourth.evicted().now_or_never()), (None, None));
        drop((first, third, fourth));
        assert!(connections.all().is_empty());
    }

    #[tokio::test]
    async fn a_connection_becomes_idle_when_its_last_request_ends() {
        let connection = Connections::new(1).add();
        assert_eq!(connection.becomes_idle().now_or_never(), Some(()));
        // This request leaves a stored notification.
        drop(connection.begin_request());
        let requests = [connection.begin_request(), connection.begin_request()];
        let mut idle = Box::pin(connection.becomes_idle());
        assert_eq!(idle.as_mut().now_or_never(), None);
        for request in requests {
            assert_eq!(idle.as_mut().now_or_never(), None);
            drop(request);
        }
        idle.await;
    }
}
