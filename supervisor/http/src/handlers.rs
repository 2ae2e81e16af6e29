//! The handlers that tell the state of the service: probes, status and metrics. Also the answers for unknown paths and methods.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::exposition::Exposition;
use crate::health::{self, Probe, Readiness};
use crate::metrics::CurrentValues;
use crate::problem::Problem;
use crate::service::Service;
use crate::status::Status;

/// `GET /v1/status` and `GET /admin/status`.
pub(crate) async fn status(State(service): State<Service>) -> Response {
    match serde_json::to_string(&Status::read(&service.0)) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], text)
            .into_response(),
        Err(error) => Problem::Internal(error.to_string()).into_response(),
    }
}

/// `GET /livez`.
pub(crate) async fn livez(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Live, is_verbose(query.as_deref()))
}

/// `GET /readyz`.
pub(crate) async fn readyz(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Ready, is_verbose(query.as_deref()))
}

/// `GET /startupz`.
pub(crate) async fn startupz(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    health::respond(&service.0, Probe::Startup, is_verbose(query.as_deref()))
}

fn is_verbose(query: Option<&str>) -> bool {
    let names_verbose = |pair: &str| pair.split('=').next() == Some("verbose");
    query.unwrap_or_default().split('&').any(names_verbose)
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(service): State<Service>, headers: HeaderMap) -> Response {
    let inner = &service.0;
    let health = inner.health();
    let generation = inner.generation();
    let current = CurrentValues {
        health: &health,
        deaths: &inner.deaths(),
        load: inner.admission.load(),
        held_bytes: inner.budget.reserved_bytes(),
        ready: Readiness::of(inner, &health).is_ready(),
        profile: generation.as_ref().map_or("", |generation| &generation.profile_text),
        application: inner.application.get().map_or_else(Vec::new, |application| application.metrics()),
    };
    let exposition = Exposition::negotiated(headers.get(header::ACCEPT));
    let text = exposition.convert(inner.metrics.to_text(&current));
    ([(header::CONTENT_TYPE, exposition.content_type()), (header::VARY, "Accept")], text).into_response()
}

/// Any path that is not a route.
pub(crate) async fn not_found(uri: Uri) -> Problem {
    // The client chose the path, and it may be long.
    Problem::NotFound(uri.path().chars().take(100).collect())
}

/// Any method that a route does not have.
pub(crate) async fn method_not_allowed(method: Method) -> Problem {
    Problem::MethodNotAllowed(format!("this path does not support the method {method}"))
}
