//! Handles one HTTP request: checks its headers, reads its body, runs its calls, and writes the response.

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
use super::call::{Call, Returned};
use super::envelope::{self, Request, Requests};
use super::error::RpcError;
use super::method::Method;
use super::settings::RpcSettings;
use cofferdam_http::body::{BodyError, BodyLimits, MemoryBudget, Reservation, read_body};

/// The state that all requests share.
pub(super) struct Server<B> {
    backend: Arc<B>,
    settings: RpcSettings,
    budget: MemoryBudget,
}

impl<B: Backend> Server<B> {
    pub(super) fn new(backend: Arc<B>, settings: RpcSettings) -> Self {
        let budget = MemoryBudget::new(settings.buffered_bytes);
        Self { backend, settings, budget }
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

    /// Runs `call`, for at most as long as its method may take.
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
        // The length is checked before the digits are written: they take twice as much memory as the bytes.
        self.check_length(digits)?;
        let text = off_thread(digits, move || format!("0x{}", hex::encode(bytes))).await?;
        Ok(Value::String(text))
    }

    /// Checks that a response of `bytes` bytes may be sent.
    fn check_length(&self, bytes: usize) -> Result<(), RpcError> {
        let (bytes, limit) = (bytes as u64, self.settings.response_bytes);
        if bytes > limit { Err(RpcError::response_too_large(bytes, limit)) } else { Ok(()) }
    }

    /// Returns `written`, or an error if `written` is too long.
    fn within_limit(&self, id: Option<&RawValue>, written: Vec<u8>) -> Vec<u8> {
        match self.check_length(written.len()) {
            Ok(()) => written,
            Err(error) => envelope::write(id, Err(&error)),
        }
    }

    /// Answers a batch, in its order. If the answers together are too long, the answer is one error.
    async fn answer_batch(&self, requests: Vec<Request>) -> Option<Vec<u8>> {
        let answers = stream::iter(requests).map(|request| self.answer(request));
        let mut answers = std::pin::pin!(answers.buffered(self.settings.batch_concurrency.max(1)));
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            let Some(answer) = answer else { continue };
            // Two more bytes: the bracket or the comma before the answer, and the bracket at the end.
            if let Err(error) = self.check_length(all.len() + answer.len() + 2) {
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

    async fn receive(&self, body: Body) -> Result<(Vec<u8>, Reservation), BodyError> {
        let limits = BodyLimits {
            max_bytes: self.settings.request_bytes,
            receive_timeout: self.settings.body_timeout,
            memory_wait: self.settings.body_timeout,
            retry_after: 1,
        };
        let mut whole = Vec::new();
        let reservation =
            read_body(body, &limits, &self.budget, |piece| whole.extend_from_slice(&piece)).await?;
        Ok((whole, reservation))
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
    // The reservation ends with the response: the decoded request takes less memory than the body did.
    let (body, _reservation) = match server.receive(body).await {
        Ok(received) => received,
        Err(error) => return refuse_body(error),
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

/// `OPTIONS /`, if no layer has answered the request.
pub(super) async fn options() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Refuses a request whose headers do not announce JSON. A web page can send other content types, or none, to any server
/// without a preflight request, and could so make this server work. The replaced node refuses the same requests.
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
    // The connection cannot be used further, because the body was not read.
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

fn refuse_body(refused: BodyError) -> Response {
    let error = RpcError::of_body(&refused);
    // The status and the headers of the refusal stay. The headers tell clients when to send the request again.
    let mut response = refused.into_response();
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

/// Does `work` on `bytes` bytes. Work on many bytes is done on another thread, so that no connection waits for it.
async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RpcError> {
    /// From this number of bytes on, the work takes longer than the handover to another thread.
    const MUCH_BYTES: usize = 1 << 20;
    if bytes < MUCH_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(RpcError::internal)
}
