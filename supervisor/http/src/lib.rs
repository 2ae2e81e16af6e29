//! A [`Pool`](cofferdam_pool::Pool) as an HTTP service behind a load balancer.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use axum::Router;
//! use cofferdam_pool::Pool;
//!
//! let pool = Arc::new(Pool::builder(std::fs::read("indexer.wasm")?).workers(2).build()?);
//! let app = Router::new().nest_service("/indexer", cofferdam_http::router(&pool));
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?;
//! # Ok(()) }
//! ```
//!
//! # What to use
//!
//! - [`router`] for the service as a part of an axum application, with default [`Settings`].
//! - [`Service`] and [`job_router`] for settings of your own, for a service that answers probes before its pool exists
//!   ([`Service::starting`]), for drain ([`Service::drain`], [`Service::close`]) and for swaps of the module ([`Service::swap`]).
//! - [`application_router`], [`Application`], [`Call`] and [`body`] for an application with routes of its own on the same
//!   workers.
//! - [`server`] for a listener with limits on connections and a shutdown that loses no request. axum's own `serve` works, too.
//! - [`agent`] for HAProxy's agent check, [`admin_router`] for the admin API.
//!
//! # The path of a request
//!
//! 1. `router` passes the request to a handler. The handlers of jobs are in `jobs`; the handlers of probes, status and metrics
//!    are in `handlers`.
//! 2. `body` reads the request's body in pieces, within the limits on one body and the `memory` budget of all bodies.
//! 3. If the request has an `Idempotency-Key`, `idempotency` looks for an earlier request with this key. If there is one,
//!    finished or running, the request gets the answer of the earlier request.
//! 4. `admission` gives the request a permit, keeps it in a queue, or refuses it.
//! 5. `request` submits the job to the pool that serves at that moment.
//! 6. `answer` holds the result, and `response` makes a response of the result. Without a result, the response is a `problem`.
//!
//! # What works beside the requests
//!
//! - `service` holds the state that these modules share: the pool that serves now, the phase, and what is recorded.
//! - `monitor` follows the number of ready workers. `swap` replaces the pool.
//! - `health` computes the answers for probes and for `agent`. `metrics` (with `exposition`), `history`, `status` and `events`
//!   publish measurements; `page` shows them.
//! - `call` runs jobs for an application in the same process.
//!
//! This crate knows nothing of chains or of the programs that use it. Dependencies point one way: an application implements
//! [`Application`] and [`Operator`], and this crate calls these traits.

mod admin;
mod admission;
#[cfg(test)]
mod admission_model;
#[cfg(test)]
mod admission_tests;
mod agent;
mod answer;
mod application;
pub mod body;
mod call;
mod events;
mod exposition;
mod handlers;
mod health;
mod history;
mod idempotency;
mod job_kind;
mod jobs;
mod memory;
mod metrics;
mod monitor;
mod page;
mod primitives;
mod problem;
mod records;
mod request;
mod response;
mod router;
pub mod server;
mod service;
mod settings;
mod status;
mod swap;
mod trace;

pub use admin::{Operator, admin_router};
pub use agent::agent;
pub use application::{Application, ApplicationMetric};
pub use call::{Call, CallAnswer, CallRejection};
pub use router::{application_router, job_router, router};
pub use service::{Phase, Service};
pub use settings::Settings;
pub use swap::SwapError;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
