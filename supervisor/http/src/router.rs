//! The routes of the service.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::service::{Phase, Service};
use crate::settings::Settings;
use crate::{events, handlers, jobs, monitor, page};
use cofferdam_pool::Pool;

/// The service over `pool` with default settings, for an axum application of your own. All paths are relative, so the
/// router can be nested. Prefer `nest_service("/prefix", …)`: it serves `/prefix` and `/prefix/`, while `nest` serves only
/// `/prefix`.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn router(pool: &Arc<Pool>) -> Router {
    job_router(Service::new(pool, "module", Settings::default()))
}

/// The routes of `service`: `POST /v1/blocks/{height}` and `POST /v1/views/{export}`, and those of [`application_router`].
///
/// # Panics
/// Outside of a tokio runtime.
pub fn job_router(service: Service) -> Router {
    let jobs = Router::new()
        .route("/v1/blocks/{height}", post(jobs::block))
        .route("/v1/views/{export}", post(jobs::view))
        .with_state(service.clone());
    application_router(service, jobs)
}

/// The routes that tell the state of `service` (status page, status, events, probes, metrics), merged with the routes of
/// `application`. The application asks for jobs with [`Service::call`]. Call this once for each service: it starts the task
/// that follows the pool.
///
/// # Panics
/// Outside of a tokio runtime, or if `application` has one of these routes with the method `GET`.
pub fn application_router(service: Service, application: Router) -> Router {
    monitor::start(&service.0);
    Router::new()
        .route("/", get(page::page))
        .route("/v1/status", get(handlers::status))
        .route("/v1/events", get(events::events))
        .route("/livez", get(handlers::livez))
        .route("/readyz", get(handlers::readyz))
        .route("/startupz", get(handlers::startupz))
        .route("/metrics", get(handlers::metrics))
        .with_state(service.clone())
        .merge(application)
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .layer(middleware::from_fn_with_state(service, close_when_draining))
}

/// Asks clients to open a new connection while the service drains. A load balancer leads the new connection to another server.
async fn close_when_draining(
    State(service): State<Service>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let mut response = next.run(request).await;
    if matches!(service.phase(), Phase::Draining | Phase::Closing) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
