//! The pool as a service behind a load balancer: HTTP in, jobs on the pool, and a balancer that always knows the truth.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use cofferdam_pool::Pool;
//!
//! let pool = Arc::new(Pool::builder(std::fs::read("indexer.wasm")?).workers(2).build()?);
//! let app = axum::Router::new().nest_service("/indexer", cofferdam_http::router(&pool));
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await?;
//! # Ok(()) }
//! ```
//!
//! A request's way, in the order of the files: its body is read piece by piece (`body`), an answer given before is found
//! again (`idempotency`), it waits for its turn at a bounded gate (`gate`), runs on the pool that serves at that moment
//! (`request`), and becomes a response (`answer`) or a problem (`problem`). Beside that way: whether to be routed to
//! (`health`, `agent`), figures (`metrics`, `history`, `snapshot`, `events`), and putting another module in place (`swap`).
//! [`server`] is the listener of `cofferdam serve`; whoever embeds a [`router`] brings their own.

mod admin;
mod agent;
mod answer;
pub mod body;
mod events;
mod exposition;
mod extension;
mod gate;
#[cfg(test)]
mod gate_model;
#[cfg(test)]
mod gate_tests;
mod health;
mod history;
mod idempotency;
mod jobs;
mod metrics;
mod monitor;
mod primitives;
pub mod problem;
mod request;
pub mod server;
mod service;
mod settings;
mod snapshot;
mod swap;
mod trace;

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{OriginalUri, RawQuery, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};

pub use admin::{Operator, admin_router};
pub use agent::agent;
pub use extension::{Extension, Figure};
pub use extension::{InternalAnswer, InternalJob, InternalProblem};
pub use service::{Phase, Service};
pub use settings::Settings;
pub use swap::SwapError;

use exposition::Exposition;
use health::{Probe, Readiness};
use metrics::Now;
use problem::Problem;
use snapshot::Snapshot;

use cofferdam_pool::Pool;

/// The status page: one file that needs no other.
const PAGE: &str = include_str!("page/index.html");

/// What the page may load: nothing but itself and its events.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The service over `pool` with default settings, for an application of your own. Paths are relative: the router can be nested,
/// best by `nest_service`, which serves `/prefix/` as well as `/prefix`. Of these two `nest` serves only the second.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn router(pool: &Arc<Pool>) -> Router {
    router_of(Service::new(pool, "module", Settings::default()))
}

/// The routes of `service`.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn router_of(service: Service) -> Router {
    let jobs = Router::new()
        .route("/v1/blocks/{height}", post(jobs::block))
        .route("/v1/views/{export}", post(jobs::view))
        .with_state(service.clone());
    router_over(service, jobs)
}

/// The routes that say how `service` is (status page, probes, figures), and those of `application`, which asks it for jobs in
/// its own way.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn router_over(service: Service, application: Router) -> Router {
    monitor::start(&service.0);
    Router::new()
        .route("/", get(page))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events::events))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics))
        .with_state(service.clone())
        .merge(application)
        .fallback(not_found)
        .method_not_allowed_fallback(method)
        .layer(middleware::from_fn_with_state(service, close_when_draining))
}

/// Has clients come again by a new connection, which a balancer then leads elsewhere.
async fn close_when_draining(
    State(service): State<Service>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    let mut response = next.run(request).await;
    if matches!(service.phase(), Phase::Draining | Phase::Closing) {
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    response
}

async fn page(OriginalUri(uri): OriginalUri) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, page_at(uri.path())).into_response()
}

/// The status page for whoever finds it at `path`. Its links are relative to itself. Where the page is found under a prefix
/// without a slash at its end (`/indexer`), a link must begin with the last part of the prefix.
fn page_at(path: &str) -> Cow<'static, str> {
    const LINKS: [&str; 4] = ["v1/status", "v1/events", "metrics", "readyz?verbose"];
    let last = path.rsplit('/').next().unwrap_or_default();
    // Whatever else a path may have has a meaning in HTML, or in a script.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if last.is_empty() || !last.bytes().all(is_plain) {
        return Cow::Borrowed(PAGE);
    }
    let linked =
        |page: String, link: &str| page.replace(&format!("\"{link}\""), &format!("\"{last}/{link}\""));
    Cow::Owned(LINKS.into_iter().fold(PAGE.to_owned(), linked))
}

async fn status(State(service): State<Service>) -> Response {
    match serde_json::to_string(&Snapshot::take(&service.0)) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text)
            .into_response(),
        Err(error) => Problem::Internal(error.to_string()).into_response(),
    }
}

async fn livez(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Live, is_verbose(query.as_deref()))
}

async fn readyz(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Ready, is_verbose(query.as_deref()))
}

async fn startupz(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Startup, is_verbose(query.as_deref()))
}

fn is_verbose(query: Option<&str>) -> bool {
    let is_it = |pair: &str| pair.split('=').next() == Some("verbose");
    query.unwrap_or_default().split('&').any(is_it)
}

async fn metrics(State(service): State<Service>, headers: HeaderMap) -> Response {
    let inner = &service.0;
    let health = inner.health();
    let generation = inner.generation();
    let now = Now {
        health: &health,
        deaths: &inner.deaths(),
        load: inner.gate.load(),
        held_bytes: inner.room.taken(),
        ready: Readiness::of(inner, &health).is_ready(),
        profile: generation.as_ref().map_or("", |generation| &generation.profile_text),
        figures: inner.extension.get().map_or_else(Vec::new, |extension| extension.figures()),
    };
    let exposition = Exposition::asked(headers.get(header::ACCEPT));
    let text = exposition.of(inner.metrics.to_text(&now));
    ([(header::CONTENT_TYPE, exposition.content_type()), (header::VARY, "Accept")], text).into_response()
}

async fn not_found(uri: Uri) -> Problem {
    // A path is a client's word, and can be long.
    Problem::NotFound(uri.path().chars().take(100).collect())
}

async fn method(method: axum::http::Method) -> Problem {
    Problem::Method(format!("{method} is not what is done here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_links_to_what_is_beside_it() {
        for path in ["/", "/indexer/", "", "/\"><script>"] {
            assert_eq!(page_at(path), PAGE, "{path}");
        }
        let nested = page_at("/service/indexer");
        for link in ["v1/status", "v1/events", "metrics", "readyz?verbose"] {
            assert!(PAGE.contains(&format!("\"{link}\"")), "{link}");
            assert!(nested.contains(&format!("\"indexer/{link}\"")), "{link}");
            assert!(!nested.contains(&format!("\"{link}\"")), "{link}");
        }
    }
}
