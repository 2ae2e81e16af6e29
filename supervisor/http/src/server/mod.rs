//! A listener with limits on connections, and a shutdown that loses no request.
//!
//! Clients may be slow, idle, or too many. The headers of a request have a time limit and a size limit. A connection whose
//! client does not read its response for too long is closed. If there are too many connections, the one that has been idle
//! for longest is closed: ten thousand idle clients keep nobody else out.

mod address;
mod connection_task;
mod connections;
mod limits;
mod listen;
mod stream;
mod unix_socket;
mod write_timeout;

use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::service::{Phase, Service};
use connection_task::serve_connection;
use connections::Connections;

pub use address::{Address, Host};
pub use limits::ConnectionLimits;
pub use listen::Listener;

/// A tokio runtime for a server with `workers` workers. The runtime has as many threads as there are workers, and at most as
/// many as there are processors. With few threads, a request wakes few threads. On a machine with few processors, waking threads
/// takes more time than the rest of a small request.
///
/// # Errors
/// The operating system's error if a thread cannot be started.
pub fn runtime(workers: usize) -> io::Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = workers.min(processors).max(1);
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Serves `router` on `listener` until `service` closes ([`Service::close`]). Then waits for running requests, for at most
/// `grace`. Returns how many connections still have a running request after that. These requests are cut off when the runtime
/// ends.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    service: Service,
    limits: ConnectionLimits,
    grace: Duration,
) -> usize {
    let mut listener = listener.into();
    let connections = Connections::new(limits.connections);
    // Every connection holds a sender, and nothing is ever sent. `recv` ends when all senders are dropped.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let mut phase = service.watch();
    let spawn = |stream| {
        let connection = connections.add();
        let task = serve_connection(stream, router.clone(), service.clone(), limits.clone(), connection);
        let open = open.clone();
        tokio::spawn(async move {
            task.await;
            drop(open);
        });
    };
    {
        let mut closing = pin!(phase.wait_for(|phase| *phase == Phase::Closing));
        loop {
            let accepted = tokio::select! {
                _ = &mut closing => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => spawn(stream),
                Err(error) => recover(&error, &connections).await,
            }
        }
    }
    listener.into_accepted().for_each(spawn);
    drop(open);
    // After the timeout, the connections that are still busy are counted.
    let _ = tokio::time::timeout(grace, all_closed.recv()).await;
    connections.busy()
}

/// Recovers from an error of `accept`. If the system is out of file descriptors or memory, an idle connection is closed.
/// Any other error means that the client has already disconnected.
async fn recover(error: &io::Error, connections: &Connections) {
    const BACKOFF: Duration = Duration::from_millis(50);
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) {
        tracing::warn!("no connection can be accepted, closing an idle one: {error}");
        connections.evict_idle();
        // No event tells when the system has a free descriptor again, so this wait has a fixed length.
        tokio::time::sleep(BACKOFF).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::stream::Stream;
    use super::*;

    #[tokio::test]
    async fn connections_that_the_kernel_has_accepted_are_taken_before_the_listener_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let taken: Vec<_> = Listener::from(listener).into_accepted().collect();
        let peer = |stream: &Stream| match stream {
            Stream::Tcp(stream) => stream.peer_addr().unwrap(),
            Stream::Unix(_) => panic!("the listener has an IP address"),
        };
        let mut peers: Vec<_> = taken.iter().map(peer).collect();
        let mut addresses: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        peers.sort_unstable();
        addresses.sort_unstable();
        assert_eq!(peers, addresses);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
