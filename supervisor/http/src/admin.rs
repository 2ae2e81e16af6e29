//! The admin API: swap the module, drain, and list or lift the quarantine. It belongs on a listener that only operators can
//! reach.

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

use crate::body;
use crate::handlers;
use crate::problem::{Problem, problem_document};
use crate::service::Service;
use crate::status;

/// Carries out the commands of the admin API. The program that runs the server implements it: only the program knows where
/// its modules come from and how it ends.
pub trait Operator: Send + Sync + 'static {
    /// Swaps the module for `module`, or for the present content of the module's source if `module` is none. Blocks until
    /// the swap is over. Returns the hash of the new profile in hexadecimal.
    ///
    /// # Errors
    /// A sentence that says why the module was not swapped. The old module still serves.
    fn swap(&self, module: Option<Vec<u8>>) -> Result<String, String>;

    /// Begins to drain and to end the process. Returns at once.
    fn drain(&self);
}

type OperatorState = State<Arc<dyn Operator>>;

/// The admin API: `POST /admin/swap`, `POST /admin/drain`, `GET /admin/status`, `GET /admin/quarantine`,
/// `POST /admin/quarantine/lift` and `POST /admin/quarantine/lift/{id}`.
pub fn admin_router(service: Service, operator: Arc<dyn Operator>) -> Router {
    let of_service = Router::new()
        .route("/admin/status", get(handlers::status))
        .route("/admin/quarantine", get(quarantine))
        .route("/admin/quarantine/lift", post(lift_all))
        .route("/admin/quarantine/lift/{id}", post(lift))
        .with_state(service);
    Router::new()
        .route("/admin/swap", post(swap))
        .route("/admin/drain", post(drain))
        .with_state(operator)
        .merge(of_service)
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
}

async fn swap(State(operator): OperatorState, headers: HeaderMap, body: Body) -> Response {
    if let Err(error) = body::check_encoding(&headers) {
        return error.into_response();
    }
    let limit = usize::try_from(MAX_MODULE_BYTES).unwrap_or(usize::MAX);
    let module = match Limited::new(body, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) => {
            return Problem::Malformed(format!("the module could not be read from the body: {error}"))
                .into_response();
        }
    };
    let module = (!module.is_empty()).then(|| module.to_vec());
    match tokio::task::spawn_blocking(move || operator.swap(module)).await {
        Ok(Ok(profile)) => {
            ([(header::CONTENT_TYPE, "application/json")], json!({ "profile": profile }).to_string())
                .into_response()
        }
        Ok(Err(reason)) => problem_document(
            StatusCode::CONFLICT,
            &json!({
                "type": "urn:cofferdam:problem:not-swapped",
                "title": "The module was not swapped: the old module still serves",
                "status": 409,
                "detail": reason,
            }),
        ),
        Err(error) => Problem::Internal(error.to_string()).into_response(),
    }
}

/// `GET /admin/quarantine`: every job in quarantine.
async fn quarantine(State(service): State<Service>) -> Response {
    json(&json!({ "quarantine": status::quarantine(&service.0, usize::MAX) }))
}

/// `POST /admin/quarantine/lift`: every job in quarantine runs again when it is next asked for.
async fn lift_all(State(service): State<Service>) -> Response {
    let lifted = service.pool().map_or(0, |pool| pool.lift_all_quarantines());
    tracing::info!("quarantine: lifted for all {lifted} jobs");
    json(&json!({ "lifted": lifted }))
}

/// `POST /admin/quarantine/lift/{id}`: one job in quarantine runs again when it is next asked for.
async fn lift(State(service): State<Service>, id: Result<Path<String>, PathRejection>) -> Response {
    let id = id.map_or_else(|rejection| rejection.body_text(), |Path(id)| id);
    let known = u64::from_str_radix(&id, 16).ok();
    let is_lifted = |id| service.pool().is_some_and(|pool| pool.lift_quarantine(id));
    if known.is_some_and(is_lifted) {
        tracing::info!("quarantine: lifted for the job {id}");
        return json(&json!({ "lifted": 1 }));
    }
    let id: String = id.chars().take(100).collect();
    Problem::NotFound(format!("no job with the id {id:?} is in quarantine")).into_response()
}

fn json(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}

async fn drain(State(operator): OperatorState) -> Response {
    operator.drain();
    StatusCode::ACCEPTED.into_response()
}
