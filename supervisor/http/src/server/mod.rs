//! The listener of `cofferdam serve`: connections with bounds, and an end that loses no request.
//!
//! A client can be slow, idle, or one of too many. Headers have a time and a size; an answer that is not read is given up
//! after a time without progress; and where all places are taken, the connection that has been idle for longest makes room,
//! so that ten thousand idle clients keep nobody out.

mod connections;
mod listen;
mod patient;

use std::io;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::service::{Phase, Service};
use connections::{Busy, Connection, Connections};
use listen::Stream;
pub use listen::{Address, Host, Listener};
use patient::Patient;

/// Bytes of a request's line and headers.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Streams of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 256;

/// How long a connection is kept for a request that may be on its way to it when the server closes: a balancer may have
/// chosen it just before.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How long a head that has begun to come may take after that.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// What connections may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many there may be, unless more are in use. Default 4096.
    pub connections: usize,
    /// How long a request's headers may take, from when the connection is ready for them: so an idle connection is closed
    /// after this, too. Longer than a balancer keeps its own idle ones. Default 75 s.
    pub header_timeout: Duration,
    /// How long a client may read nothing of an answer. Default 30 s.
    pub write_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// The runtime for a server over so many workers: no more threads than those, nor than there are processors. Requests then
/// wake few threads, which where processors are few costs more than all else that is done for a small one.
///
/// # Errors
/// The system's, if there are no threads to be had.
pub fn runtime(workers: usize) -> io::Result<Runtime> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = workers.min(processors).max(1);
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Serves `router` on `listener` until `service` closes; then lets what runs finish, for at most `grace`. Returns how many
/// connections were cut off in the middle of a request.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    service: Service,
    bounds: Bounds,
    grace: Duration,
) -> usize {
    let mut listener = listener.into();
    let connections = Connections::new(bounds.connections);
    // Every connection holds a sender: when all are gone, nothing is received.
    let (open, mut closed) = mpsc::channel::<()>(1);
    let mut phase = service.watch();
    let begin = |stream| {
        let one = one(stream, router.clone(), service.clone(), bounds.clone(), connections.enter());
        let open = open.clone();
        tokio::spawn(async move {
            one.await;
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
                Ok(stream) => begin(stream),
                Err(error) => after_failure(&error, &connections).await,
            }
        }
    }
    listener.into_accepted().for_each(begin);
    drop(open);
    // Nothing is ever sent.
    let _ = tokio::time::timeout(grace, closed.recv()).await;
    connections.busy()
}

/// What to do when no connection could be accepted.
async fn after_failure(error: &io::Error, connections: &Connections) {
    const PAUSE: Duration = Duration::from_millis(50);
    // A client that was gone again at once is nothing. Out of descriptors, room has to be made.
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) {
        tracing::warn!("no connection can be accepted: {error}");
        connections.evict();
        tokio::time::sleep(PAUSE).await;
    }
}

/// One connection, to its end.
async fn one(stream: Stream, router: Router, service: Service, bounds: Bounds, connection: Arc<Connection>) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay();
    let metric = service.0.metrics.connections.clone();
    metric.inc();
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let (router, connection) = (router.clone(), Arc::clone(&connection));
        async move {
            let busy = connection.begin();
            let answered = router.oneshot(request).await;
            // Until the last byte of it is sent.
            answered.map(|response| response.map(|body| Whole { body, _busy: busy }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(bounds.header_timeout)
        .keep_alive_timeout(bounds.write_timeout);
    let io = TokioIo::new(Patient::new(stream, bounds.write_timeout));
    let mut conn = pin!(builder.serve_connection(io, answer));
    let mut phase = service.watch();
    let leaves = async {
        tokio::select! {
            () = closed(&mut phase) => LAST_HEAD,
            // Others need its place now.
            () = connection.evicted() => Duration::ZERO,
            () = silent(&connection, bounds.header_timeout) => Duration::ZERO,
        }
    };
    let ended = tokio::select! {
        ended = conn.as_mut() => ended,
        grace = leaves => {
            conn.as_mut().graceful_shutdown();
            tokio::select! {
                ended = conn.as_mut() => ended,
                () = idle(&connection, grace) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Clients that hang up, or speak no HTTP, are everyday.
        tracing::debug!("a connection ended: {error}");
    }
    metric.dec();
}

/// Ends when the server has been closing for long enough for requests that were on their way. On those connections that
/// have one, the answer has said that there will be no other.
async fn closed(phase: &mut watch::Receiver<Phase>) {
    // Its other end lives as long as the service.
    let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
    tokio::time::sleep(LAST_REQUEST).await;
}

/// Ends when a connection has not begun its first request in time. Before hyper knows which HTTP it is, it has no timer.
async fn silent(connection: &Connection, timeout: Duration) {
    tokio::time::sleep(timeout).await;
    if connection.is_used() {
        std::future::pending::<()>().await;
    }
}

/// Ends when a connection that is to leave has no request, after `grace`: hyper itself would wait for a head that has begun
/// to come.
async fn idle(connection: &Connection, grace: Duration) {
    tokio::time::sleep(grace).await;
    while !connection.is_idle() {
        tokio::time::sleep(LAST_HEAD).await;
    }
}

/// An answer's body, and that its connection is busy.
struct Whole {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_that_the_kernel_has_accepted_are_taken_before_the_listener_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let taken: Vec<_> = Listener::from(listener).into_accepted().collect();
        let peer = |stream: &Stream| match stream {
            Stream::Tcp(stream) => stream.peer_addr().unwrap(),
            Stream::Unix(_) => panic!("it listens at an address"),
        };
        let mut peers: Vec<_> = taken.iter().map(peer).collect();
        let mut addresses: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        peers.sort_unstable();
        addresses.sort_unstable();
        assert_eq!(peers, addresses);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
