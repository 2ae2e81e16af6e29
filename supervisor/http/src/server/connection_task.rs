//! The task that serves one connection, from its first byte to its end.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tower::ServiceExt;

use super::connections::{Connection, RunningRequest};
use super::limits::ConnectionLimits;
use super::stream::Stream;
use super::write_timeout::WriteTimeout;
use crate::service::{Phase, Service};

/// The largest request line and headers together, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// How many streams one HTTP/2 connection may have at a time.
const MAX_STREAMS: u32 = 256;

/// How long a connection stays open for a request that may already be on its way when the server closes: a load balancer
/// may have chosen the connection just before.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// After [`LAST_REQUEST`], how long headers that have begun to arrive may take.
const LAST_HEADERS: Duration = Duration::from_secs(1);

/// Serves `router` on one connection until the client closes it, the limits close it, or `service` closes.
pub(super) async fn serve_connection(
    stream: Stream,
    router: Router,
    service: Service,
    limits: ConnectionLimits,
    connection: Arc<Connection>,
) {
    // Most responses are small, and their clients wait for them. A failure only makes them slower.
    let _ = stream.set_nodelay();
    let open_connections = service.0.metrics.connections.clone();
    open_connections.inc();
    let respond = service_fn(|request: hyper::Request<Incoming>| {
        let (router, connection) = (router.clone(), Arc::clone(&connection));
        async move {
            let running = connection.begin_request();
            let response = router.oneshot(request).await;
            // The request runs until the last byte of its response has been passed to hyper.
            response.map(|response| response.map(|body| TrackedBody { body, _running: running }))
        }
    });
    let builder = builder(&limits);
    let io = TokioIo::new(WriteTimeout::new(stream, limits.write_timeout));
    let mut conn = pin!(builder.serve_connection(io, respond));
    let mut phase = service.watch();
    let must_close = async {
        tokio::select! {
            () = service_closed(&mut phase) => LAST_HEADERS,
            // A new connection needs the place of this connection now.
            () = connection.evicted() => Duration::ZERO,
            () = no_first_request(&connection, limits.header_timeout) => Duration::ZERO,
        }
    };
    let ended = tokio::select! {
        ended = conn.as_mut() => ended,
        grace = must_close => {
            conn.as_mut().graceful_shutdown();
            tokio::select! {
                ended = conn.as_mut() => ended,
                () = requests_end(&connection, grace) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        // Not a warning: clients that disconnect or speak no HTTP are normal.
        tracing::debug!("a connection ended: {error}");
    }
    open_connections.dec();
}

fn builder(limits: &ConnectionLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.write_timeout);
    builder
}

/// Waits until the service closes, and then [`LAST_REQUEST`] for requests that are already on their way. No event tells that no
/// request is on its way, so this wait has a fixed length. A client that got a response after the drain began knows from
/// `Connection: close` that it must open a new connection.
async fn service_closed(phase: &mut watch::Receiver<Phase>) {
    // This fails only if the sender is dropped, and the sender lives as long as the service.
    let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
    tokio::time::sleep(LAST_REQUEST).await;
}

/// Ends when the first request has not begun within `timeout`. hyper has no timer until it knows whether the client speaks
/// HTTP/1 or HTTP/2.
async fn no_first_request(connection: &Connection, timeout: Duration) {
    tokio::time::sleep(timeout).await;
    if connection.is_used() {
        std::future::pending::<()>().await;
    }
}

/// Waits `grace`, and then until the connection that must close has no running request. hyper alone would also wait for
/// headers that have begun to arrive and never end.
async fn requests_end(connection: &Connection, grace: Duration) {
    tokio::time::sleep(grace).await;
    while !connection.is_idle() {
        connection.becomes_idle().await;
        // hyper still has to send the last bytes of the response, and then closes the connection by itself. No event tells
        // when the bytes are sent, so this wait has a fixed length. Headers that have arrived meanwhile get the same time.
        tokio::time::sleep(LAST_HEADERS).await;
    }
}

/// The body of a response. Its request runs until this body is dropped.
struct TrackedBody {
    body: Body,
    _running: RunningRequest,
}

impl HttpBody for TrackedBody {
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
