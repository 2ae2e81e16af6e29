//! Why a request has no result of a guest, as `application/problem+json` (RFC 9457).
//!
//! The status tells a load balancer whether another process may give a better answer. 503 concerns this process at this moment.
//! 422 is for a verdict of the guest, which every other process would give, too, and for a key that was used for another request.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error;

use crate::body::BodyError;

/// Why a request has no result of a guest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Problem {
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("no result within the {0:?} that the request allows in Cofferdam-Deadline-Ms")]
    ClientDeadline(Duration),
    #[error("the queue is full: {waiting} of {limit} requests are waiting")]
    QueueFull { waiting: usize, limit: usize, retry_after: u64 },
    #[error("no worker became free within {waited:?}")]
    WaitTimedOut { waited: Duration, retry_after: u64 },
    #[error("not ready yet: {0}")]
    Starting(String),
    #[error("this process is draining and takes no more requests")]
    Draining,
    #[error("no healthy worker is left")]
    NoWorker,
    #[error("the Idempotency-Key was used before for a different request: use a new key")]
    KeyReused,
    #[error("nothing was found: {0}")]
    NotFound(String),
    #[error("there is no state for height {height} yet: {}", newest(*tip))]
    AboveTip { height: u32, tip: Option<u32> },
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("internal error: {0}")]
    Internal(String),
}

fn newest(tip: Option<u32>) -> String {
    tip.map_or_else(
        || "the store has no block".to_owned(),
        |tip| format!("the store's newest block is {tip}"),
    )
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: String,
}

impl Problem {
    /// The last part of the document's `type`, for programs. It does not change between versions.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Body(error) => error.kind(),
            Self::ClientDeadline(_) => "client-deadline",
            Self::QueueFull { .. } => "saturated",
            Self::WaitTimedOut { .. } => "no-turn",
            Self::Starting(_) => "starting",
            Self::Draining => "draining",
            Self::NoWorker => "no-worker",
            Self::KeyReused => "key-reused",
            Self::NotFound(_) => "not-found",
            Self::AboveTip { .. } => "above-tip",
            Self::MethodNotAllowed(_) => "method",
            Self::Internal(_) => "internal",
        }
    }

    /// The document's `title`, for people.
    fn title(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "The request is malformed",
            Self::Body(BodyError::TooLarge { .. }) => "The body is too large",
            Self::Body(BodyError::TooSlow(_)) => "The body arrived too slowly",
            Self::Body(BodyError::Broken(_)) => "The body is incomplete or invalid",
            Self::Body(BodyError::Encoded(_)) => "The body has a Content-Encoding",
            Self::Body(BodyError::NoMemory { .. }) => "The memory for bodies is in use",
            Self::ClientDeadline(_) => "The request's own deadline passed",
            Self::QueueFull { .. } => "Too many requests are waiting",
            Self::WaitTimedOut { .. } => "No worker became free in time",
            Self::Starting(_) => "Workers are committing their memory",
            Self::Draining => "This process is draining",
            Self::NoWorker => "No healthy worker is left",
            Self::KeyReused => "The Idempotency-Key belongs to another request",
            Self::NotFound(_) => "Nothing was found",
            Self::AboveTip { .. } => "There is no state for this height yet",
            Self::MethodNotAllowed(_) => "The path does not support this method",
            Self::Internal(_) => "Internal error",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::Body(BodyError::Broken(_)) => StatusCode::BAD_REQUEST,
            Self::Body(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::TooSlow(_)) => StatusCode::REQUEST_TIMEOUT,
            Self::Body(BodyError::Encoded(_)) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ClientDeadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::QueueFull { .. }
            | Self::WaitTimedOut { .. }
            | Self::Body(BodyError::NoMemory { .. })
            | Self::Starting(_)
            | Self::Draining
            | Self::NoWorker => StatusCode::SERVICE_UNAVAILABLE,
            // draft-ietf-httpapi-idempotency-key-header, section 2.7.
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound(_) | Self::AboveTip { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which the client may try again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after, .. }
            | Self::WaitTimedOut { retry_after, .. }
            | Self::Body(BodyError::NoMemory { retry_after }) => Some(*retry_after),
            Self::Starting(_) | Self::Draining => Some(1),
            Self::NoWorker => Some(10),
            _ => None,
        }
    }

    /// Whether the request was refused because of the state of this process, and not because of the request.
    pub(crate) fn is_shed(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Whether the connection is closed after the response. It is closed if the rest of the body was not read, or if the end of
    /// the body is not known.
    fn closes_connection(&self) -> bool {
        match self {
            Self::Body(error) => !matches!(error, BodyError::NoMemory { .. }),
            _ => false,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let r#type = format!("urn:cofferdam:problem:{}", self.kind());
        let (title, status) = (self.title(), self.status());
        let document = Document { r#type: &r#type, title, status: status.as_u16(), detail: self.to_string() };
        let mut response = problem_document(status, &document);
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Body(BodyError::Encoded(_))) {
            // RFC 9110, section 15.5.16, asks for this header.
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.closes_connection() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        Problem::Body(self).into_response()
    }
}

/// `body` as a problem document with this status.
pub(crate) fn problem_document(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/problem+json")], bytes).into_response(),
        // Only maps with keys that are not strings cannot be written as JSON. No document here has one.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_shed_learns_when_to_retry() {
        let shed = [
            Problem::QueueFull { waiting: 3, limit: 3, retry_after: 7 },
            Problem::WaitTimedOut { waited: Duration::from_secs(5), retry_after: 1 },
            BodyError::NoMemory { retry_after: 1 }.into(),
            Problem::Starting("committing".into()),
            Problem::Draining,
            Problem::NoWorker,
        ];
        for problem in shed {
            assert!(problem.is_shed());
            let response = problem.clone().into_response();
            assert_eq!(response.status(), 503, "{problem}");
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{problem}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            assert!(!response.headers().contains_key(header::CONNECTION), "{problem}");
        }
        let too_large = BodyError::TooLarge { limit: 1 };
        assert!(!Problem::from(too_large.clone()).is_shed());
        let response = too_large.into_response();
        assert_eq!(response.status(), 413);
        assert_eq!(response.headers()[header::CONNECTION], "close");
    }
}
