//! What goes wrong with a request, as `application/problem+json` (RFC 9457).
//!
//! The status code is for balancers, and says whether to try elsewhere: 503 is about this process at this moment, 422 is
//! about the block, and every other process would say the same.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use thiserror::Error;

use cofferdam_base::size::Bytes;

/// Why a request has no answer from a guest.
#[derive(Clone, Error, PartialEq, Eq)]
pub enum Problem {
    #[error("{0}")]
    Malformed(String),
    #[error("the body has more than the {} that are taken", Bytes(*limit))]
    TooLarge { limit: u64 },
    #[error("the body did not arrive within {0:?}")]
    SlowBody(Duration),
    #[error("the body ended early, or was not what its headers announced: {0}")]
    BrokenBody(String),
    #[error(
        "the body has the Content-Encoding {0:?}; send the bytes as they are, without a Content-Encoding"
    )]
    Encoded(String),
    #[error("no answer within the {0:?} that the request allowed")]
    ClientDeadline(Duration),
    #[error("the queue is full: {waiting} requests are waiting")]
    Saturated { waiting: usize, retry_after: u64 },
    #[error("no worker was free within {waited:?}")]
    NoTurn { waited: Duration, retry_after: u64 },
    #[error("the bodies and answers that are held at this moment leave no room")]
    NoRoom { retry_after: u64 },
    #[error("not ready yet: {0}")]
    Starting(String),
    #[error("this process is draining and takes no more requests")]
    Draining,
    #[error("no healthy worker is left")]
    NoWorker,
    #[error("the Idempotency-Key was used before, for another request")]
    KeyReused,
    #[error("there is nothing here: {0}")]
    NotFound(String),
    #[error("there is no state for height {height} yet: {}", newest(*tip))]
    AboveTip { height: u32, tip: Option<u32> },
    #[error("{0}")]
    Method(String),
    #[error("internal error: {0}")]
    Internal(String),
}

cofferdam_protocol::debug_as_display!(Problem);

fn newest(tip: Option<u32>) -> String {
    tip.map_or_else(
        || "the store has no block".to_owned(),
        |tip| format!("the store's newest block is {tip}"),
    )
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: String,
}

impl Problem {
    /// The last part of the problem's type, for programs, and its title, for people.
    fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed(_) => ("malformed", "The request is malformed"),
            Self::TooLarge { .. } => ("too-large", "The body is too large"),
            Self::SlowBody(_) => ("slow-body", "The body came too slowly"),
            Self::BrokenBody(_) => ("broken-body", "The body is broken"),
            Self::Encoded(_) => ("encoded", "The body is encoded"),
            Self::ClientDeadline(_) => ("client-deadline", "The time that the request allowed is over"),
            Self::Saturated { .. } => ("saturated", "Too many requests are waiting"),
            Self::NoTurn { .. } => ("no-turn", "No worker was free in time"),
            Self::NoRoom { .. } => ("no-room", "Too many bytes are held"),
            Self::Starting(_) => ("starting", "Workers are committing their memory"),
            Self::Draining => ("draining", "This process is draining"),
            Self::NoWorker => ("no-worker", "No healthy worker is left"),
            Self::KeyReused => ("key-reused", "The Idempotency-Key belongs to another request"),
            Self::NotFound(_) => ("not-found", "There is nothing here"),
            Self::AboveTip { .. } => ("above-tip", "The state is not there yet"),
            Self::Method(_) => ("method", "That is done by another method"),
            Self::Internal(_) => ("internal", "Internal error"),
        }
    }

    pub fn kind(&self) -> &'static str {
        self.name().0
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::BrokenBody(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ClientDeadline(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Saturated { .. }
            | Self::NoTurn { .. }
            | Self::NoRoom { .. }
            | Self::Starting(_)
            | Self::Draining
            | Self::NoWorker => StatusCode::SERVICE_UNAVAILABLE,
            // draft-ietf-httpapi-idempotency-key-header, section 2.7.
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound(_) | Self::AboveTip { .. } => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Seconds after which it may be worth trying again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Saturated { retry_after, .. }
            | Self::NoTurn { retry_after, .. }
            | Self::NoRoom { retry_after } => Some(*retry_after),
            Self::Starting(_) | Self::Draining => Some(1),
            Self::NoWorker => Some(10),
            _ => None,
        }
    }

    /// Whether the request was turned away for want of room, rather than for what it was.
    pub(super) fn is_shed(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Whether what is left of the body can no longer be told from the next request, or was not worth reading.
    fn ends_connection(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::SlowBody(_) | Self::BrokenBody(_) | Self::Encoded(_))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, title) = self.name();
        let r#type = format!("urn:cofferdam:problem:{name}");
        let body = Body { r#type: &r#type, title, status: self.status().as_u16(), detail: self.to_string() };
        let mut response = json(self.status(), &body);
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Encoded(_)) {
            // As RFC 9110 wants it (section 15.5.16).
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.ends_connection() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A problem document with this status.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/problem+json")], bytes).into_response(),
        // Maps with keys that are no strings are all that cannot be written, and none of ours has any.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_turned_away_for_want_of_room_is_told_when_to_come_again() {
        let room = [
            Problem::Saturated { waiting: 3, retry_after: 7 },
            Problem::NoTurn { waited: Duration::from_secs(5), retry_after: 1 },
            Problem::NoRoom { retry_after: 1 },
            Problem::Starting("committing".into()),
            Problem::Draining,
            Problem::NoWorker,
        ];
        for problem in room {
            assert!(problem.is_shed());
            let response = problem.clone().into_response();
            assert_eq!(response.status(), 503, "{problem}");
            assert!(response.headers().contains_key(header::RETRY_AFTER), "{problem}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        }
        assert!(!Problem::TooLarge { limit: 1 }.is_shed());
    }
}
