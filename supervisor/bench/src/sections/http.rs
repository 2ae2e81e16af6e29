//! The HTTP section: the time of a request to an empty guest, beside axum with a handler that does nothing. It is measured
//! with one connection and with many, and with one worker and with one worker for each processor (if there is memory for
//! them).
//!
//! Clients and servers share one process and one machine. Each has its own runtime: Cofferdam's server has the runtime of
//! `cofferdam serve`, and the other server has tokio's default runtime. Both servers use axum. They differ only in the guest
//! and in the path of a request to the guest. `scripts/bench-serve/run` measures the same from outside,
//! beside `wasmtime serve`.

use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::throughput;
use crate::context::{Bench, nanos};
use crate::error::BenchError;
use crate::figure::Figure;
use crate::guests;
use cofferdam_http::server;

/// Numbers of connections that send requests at the same time.
const CONNECTIONS: [usize; 2] = [1, 32];

/// The time for which each server gets requests in a round.
const ROUND: Duration = Duration::from_millis(1500);

const BODY_BYTES: usize = 100;

pub(super) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    let most = throughput::most_workers(bench);
    for workers in iter::once(1).chain((most > 1).then_some(most)) {
        figures.extend(with_workers(bench, workers)?);
    }
    Ok(figures)
}

fn with_workers(bench: &Bench<'_>, workers: usize) -> Result<Vec<Figure>, BenchError> {
    bench.doing(format!("starting servers, workers: {workers}"));
    let failed = |error| BenchError::io("a runtime")(error);
    let our_runtime = server::runtime(workers).map_err(failed)?;
    let bare_runtime = Runtime::new().map_err(failed)?;
    let clients = server::runtime(1).map_err(failed)?;
    let pool = Arc::new(bench.builder(guests::EMPTY).workers(workers).build()?);
    // The service starts its own tasks, which belong to this runtime.
    let router = our_runtime.block_on(async { cofferdam_http::router(&pool) });
    let ours = our_runtime.block_on(serve(router))?;
    let nothing = Router::new().route("/v1/blocks/{height}", post(|_: Bytes| async { "" }));
    let bare = bare_runtime.block_on(serve(nothing))?;
    let measured = clients.block_on(figures(bench, ours, bare, workers));
    // The routes hold a reference to the pool. Both references are dropped here, so that the pool ends and frees its memory
    // for the next measurement.
    our_runtime.shutdown_timeout(Duration::from_secs(10));
    drop(pool);
    measured
}

async fn figures(
    bench: &Bench<'_>,
    ours: SocketAddr,
    bare: SocketAddr,
    workers: usize,
) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for connections in CONNECTIONS {
        bench.doing(format!("requests over {connections} connections"));
        let (mut our, mut their) = (Round::default(), Round::default());
        for round in 0..=bench.args.rounds {
            let (a, b) = (load(ours, connections).await?, load(bare, connections).await?);
            // The first round is the warm-up.
            if round > 0 {
                our.add(a);
                their.add(b);
            }
        }
        let counted =
            |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let by = format!("{}, {}", counted(connections, "connection"), counted(workers, "worker"));
        let beside = "axum, a handler that does nothing";
        let case = format!("latency, {by}");
        figures.push(Figure::new("http", case, &our.latencies).beside(beside, &their.latencies));
        let case = format!("time a request, {by}");
        figures.push(Figure::new("http", case, &our.per_request).beside(beside, &their.per_request));
    }
    Ok(figures)
}

async fn serve(router: Router) -> Result<SocketAddr, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("a listener"))?;
    let address = listener.local_addr().map_err(BenchError::io("a listener"))?;
    // Nagle's algorithm, which delays small packets, is turned off for both servers.
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Nanoseconds of each request, and the wall-clock nanoseconds of a round divided by its requests.
#[derive(Default)]
struct Round {
    latencies: Vec<u64>,
    per_request: Vec<u64>,
}

impl Round {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.per_request.extend(other.per_request);
    }
}

async fn load(server: SocketAddr, connections: usize) -> Result<Round, BenchError> {
    let begun = Instant::now();
    let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(client(server, begun + ROUND))).collect();
    let mut latencies = Vec::new();
    for client in clients {
        let asked = client.await.map_err(std::io::Error::other).and_then(|asked| asked);
        latencies.extend(asked.map_err(BenchError::io("a request"))?);
    }
    let requests = u32::try_from(latencies.len()).unwrap_or(u32::MAX).max(1);
    Ok(Round { per_request: vec![nanos(begun.elapsed() / requests)], latencies })
}

/// One connection, which sends one request after the other.
async fn client(server: SocketAddr, until: Instant) -> std::io::Result<Vec<u64>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        ask(&mut sender, &body).await?;
        latencies.push(nanos(asked.elapsed()));
    }
    Ok(latencies)
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, body: &Bytes) -> std::io::Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/blocks/1")
        .header("host", "localhost")
        .body(Full::new(body.clone()))
        .map_err(std::io::Error::other)?;
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = response.status();
    response.into_body().collect().await.map_err(std::io::Error::other)?;
    match status {
        StatusCode::OK => Ok(()),
        other => Err(std::io::Error::other(format!("the answer was {other}"))),
    }
}
