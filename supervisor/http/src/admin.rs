//! What only an operator may do, on a listener of its own: swap the module, drain, look.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cofferdam_worker::module::MAX_MODULE_BYTES;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::body;
use super::problem::{self, Problem};
use super::service::Service;
use super::{method, not_found, snapshot, status};

/// Does what an operator asks for. Given by whoever runs the server, because only they know where modules come from.
pub trait Operator: Send + Sync + 'static {
    /// Swaps the module for `module`, or, if it is none, for what is now where the one that is served came from. Blocks.
    /// Returns the hash of the new profile.
    ///
    /// # Errors
    /// Why not, in a sentence.
    fn swap(&self, module: Option<Vec<u8>>) -> Result<String, String>;

    /// Begins to drain.
    fn drain(&self);
}

type Given = State<Arc<dyn Operator>>;

/// The admin API: `POST /admin/swap`, `POST /admin/drain`, `GET /admin/status`, `GET /admin/quarantine`,
/// `POST /admin/quarantine/lift` and `POST /admin/quarantine/lift/{id}`.
pub fn admin_router(service: Service, operator: Arc<dyn Operator>) -> Router {
    let status = Router::new()
        .route("/admin/status", get(status))
        .route("/admin/quarantine", get(quarantine))
        .route("/admin/quarantine/lift", post(lift_all))
        .route("/admin/quarantine/lift/{id}", post(lift))
        .with_state(service);
    Router::new()
        .route("/admin/swap", post(swap))
        .route("/admin/drain", post(drain))
        .with_state(operator)
        .merge(status)
        .fallback(not_found)
        .method_not_allowed_fallback(method)
}

async fn swap(State(operator): Given, headers: HeaderMap, body: Body) -> Response {
    if let Err(problem) = body::check_coding(&headers) {
        return problem.into_response();
    }
    let limit = usize::try_from(MAX_MODULE_BYTES).unwrap_or(usize::MAX);
    let module = match Limited::new(body, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => return Problem::Malformed(format!("the module: {error}")).into_response(),
    };
    let module = (!module.is_empty()).then(|| module.to_vec());
    match tokio::task::spawn_blocking(move || operator.swap(module)).await {
        Ok(Ok(profile)) => {
            ([(header::CONTENT_TYPE, "application/json")], json!({ "profile": profile }).to_string())
                .into_response()
        }
        Ok(Err(reason)) => problem::json(
            StatusCode::CONFLICT,
            &json!({
                "type": "urn:cofferdam:problem:not-swapped",
                "title": "The module was not swapped; the old one serves on",
                "status": 409,
                "detail": reason,
            }),
        ),
        Err(error) => Problem::Internal(error.to_string()).into_response(),
    }
}

/// Every job that is in quarantine.
async fn quarantine(State(service): State<Service>) -> Response {
    json(&json!({ "quarantine": snapshot::quarantine(&service.0, usize::MAX) }))
}

/// Has every job that is in quarantine run again when it is next asked for.
async fn lift_all(State(service): State<Service>) -> Response {
    let lifted = service.pool().map_or(0, |pool| pool.lift_all_quarantines());
    tracing::info!("quarantine: all {lifted} were lifted");
    json(&json!({ "lifted": lifted }))
}

/// The same for one job, by its id in the list.
async fn lift(State(service): State<Service>, id: Result<Path<String>, PathRejection>) -> Response {
    let id = id.map_or_else(|rejection| rejection.body_text(), |Path(id)| id);
    let known = u64::from_str_radix(&id, 16).ok();
    let is_lifted = |id| service.pool().is_some_and(|pool| pool.lift_quarantine(id));
    if known.is_some_and(is_lifted) {
        tracing::info!("quarantine: {id} was lifted");
        return json(&json!({ "lifted": 1 }));
    }
    let id: String = id.chars().take(100).collect();
    Problem::NotFound(format!("nothing with the id {id:?} is in quarantine")).into_response()
}

fn json(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}

async fn drain(State(operator): Given) -> Response {
    operator.drain();
    StatusCode::ACCEPTED.into_response()
}
