//! The way of a request: its headers and its body, its calls, at most so many at a time, and the response.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::backend::{Backend, CallError};
use super::call::{Call, Method, Returned};
use super::envelope::{self, Request, Requests};
use super::error::RpcError;
use super::settings::RpcSettings;
use cofferdam_http::body::{Bounds, Held, Room, read};
use cofferdam_http::problem::Problem;

/// What all requests share.
pub(super) struct Server<B> {
    backend: Arc<B>,
    settings: RpcSettings,
    room: Room,
}

impl<B: Backend> Server<B> {
    pub(super) fn new(backend: Arc<B>, settings: RpcSettings) -> Self {
        let room = Room::new(settings.buffered_bytes);
        Self { backend, settings, room }
    }

    /// Answers one request.
    async fn answer(&self, request: Request) -> Option<Vec<u8>> {
        let (id, outcome) = match request {
            Request::Notification => return None,
            Request::Refused { id, error } => (id, Err(error)),
            Request::Call { id, method, call } => (id, self.run(method, call).await),
        };
        let bytes = match &outcome {
            Ok(Value::String(text)) => text.len(),
            _ => 0,
        };
        let written = off_thread(bytes, move || {
            let written = envelope::write(id.as_deref(), outcome.as_ref());
            (id, written)
        });
        match written.await {
            Ok((id, written)) => Some(self.within_limit(id.as_deref(), written)),
            Err(error) => Some(envelope::write(None, Err(&error))),
        }
    }

    /// Runs `call` for as long as its method may take.
    async fn run(&self, method: Method, call: Call) -> Result<Value, RpcError> {
        let limit = method.timeout(&self.settings);
        let began = Instant::now();
        let outcome = timeout(limit, call.run(&self.backend)).await;
        let outcome = outcome.unwrap_or(Err(CallError::Deadline(limit)));
        let error = outcome.as_ref().err().map(tracing::field::display);
        debug!(method = method.name(), took = ?began.elapsed(), error, "call");
        match outcome {
            Ok(Returned::Json(value)) => Ok(value),
            Ok(Returned::Bytes(bytes)) => self.hexadecimal(bytes).await,
            Err(error) => Err(RpcError::of_failure(method, &error)),
        }
    }

    async fn hexadecimal(&self, bytes: Vec<u8>) -> Result<Value, RpcError> {
        let digits = 2 + 2 * bytes.len();
        // Before they are written: that takes twice what the guest could return.
        self.check(digits)?;
        let text = off_thread(digits, move || format!("0x{}", hex::encode(bytes))).await?;
        Ok(Value::String(text))
    }

    fn check(&self, bytes: usize) -> Result<(), RpcError> {
        let (bytes, limit) = (bytes as u64, self.settings.response_bytes);
        if bytes > limit { Err(RpcError::response_too_large(bytes, limit)) } else { Ok(()) }
    }

    /// What is sent for `written`.
    fn within_limit(&self, id: Option<&RawValue>, written: Vec<u8>) -> Vec<u8> {
        match self.check(written.len()) {
            Ok(()) => written,
            Err(error) => envelope::write(id, Err(&error)),
        }
    }

    /// Answers a batch, in its order. Where its answers together are too large, it has one error for an answer.
    async fn answer_batch(&self, requests: Vec<Request>) -> Option<Vec<u8>> {
        let answers = stream::iter(requests).map(|request| self.answer(request));
        let mut answers = std::pin::pin!(answers.buffered(self.settings.batch_concurrency.max(1)));
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            let Some(answer) = answer else { continue };
            // With the bracket or comma before it, and the bracket at the end.
            if let Err(error) = self.check(all.len() + answer.len() + 2) {
                return Some(envelope::write(None, Err(&error)));
            }
            all.push(if all.is_empty() { b'[' } else { b',' });
            all.extend_from_slice(&answer);
        }
        if all.is_empty() {
            return None;
        }
        all.push(b']');
        Some(all)
    }

    async fn receive(&self, body: Body) -> Result<(Vec<u8>, Vec<Held>), Problem> {
        let bounds = Bounds {
            bytes: self.settings.request_bytes,
            time: self.settings.body_timeout,
            patience: self.settings.body_timeout,
            retry_after: 1,
        };
        let mut whole = Vec::new();
        let held = read(body, &bounds, &self.room, |part| whole.extend_from_slice(&part)).await?;
        Ok((whole, held))
    }
}

/// `POST /`
pub(super) async fn post<B: Backend>(
    State(server): State<Arc<Server<B>>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Err(why) = check_headers(&headers) {
        return refuse_headers(why);
    }
    // The room is given back when the response is there: what was decoded takes less than the body did.
    let (body, _held) = match server.receive(body).await {
        Ok(received) => received,
        Err(problem) => return refuse_body(problem),
    };
    let limit = server.settings.batch_entries;
    let requests = off_thread(body.len(), move || Requests::read(&body, limit)).await;
    let answer = match requests {
        Ok(Ok(Requests::One(request))) => server.answer(request).await,
        Ok(Ok(Requests::Batch(requests))) => server.answer_batch(requests).await,
        Ok(Err(error)) | Err(error) => return refuse(error.status(), &error),
    };
    match answer {
        Some(answer) => json(StatusCode::OK, answer),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// `OPTIONS /`, where no layer has answered it.
pub(super) async fn options() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Refuses what is not JSON by its headers. A web page can send other types, or none, to any server without being asked
/// whether it may, and so could have this one work; and the replaced node refuses the same.
fn check_headers(headers: &HeaderMap) -> Result<(), &'static str> {
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        return Err(
            "the content type must be application/json: with curl, -H 'content-type: application/json'",
        );
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if coding != "identity" => Err("the body must not be compressed"),
        _ => Ok(()),
    }
}

fn refuse_headers(why: &str) -> Response {
    let mut response = refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &RpcError::invalid_request(why));
    // The body was not read.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whether a content type is JSON: `application/json`, one that ends in `+json`, or `application/json-rpc`.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some((_, subtype)) => subtype == "json" || subtype.ends_with("+json") || subtype == "json-rpc",
        None => false,
    }
}

fn refuse_body(problem: Problem) -> Response {
    let error = RpcError::of_body(&problem);
    // With its status, and its headers for clients that go on.
    let mut response = problem.into_response();
    *response.body_mut() = Body::from(envelope::write(None, Err(&error)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

fn refuse(status: StatusCode, error: &RpcError) -> Response {
    json(status, envelope::write(None, Err(error)))
}

const JSON: &str = "application/json";

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// Does `work` on `bytes` bytes where it keeps no connection waiting.
async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    /// From so much on it takes longer than to hand it over.
    const MUCH_BYTES: usize = 1 << 20;
    if bytes < MUCH_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(RpcError::internal)
}
