//! The HTTP response of an [`Answer`]: its status, its headers, and its body as bytes or as JSON.

use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use cofferdam_protocol::writes::pairs;
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::job_kind::JobKind;
use crate::memory::Reservation;
use crate::problem::problem_document;
use cofferdam_pool::FailedAttempt;

const VERDICT: HeaderName = HeaderName::from_static("cofferdam-verdict");
const DIGEST: HeaderName = HeaderName::from_static("cofferdam-digest");
const ATTEMPTS: HeaderName = HeaderName::from_static("cofferdam-attempts");
const WORKER: HeaderName = HeaderName::from_static("cofferdam-worker");
const PROFILE: HeaderName = HeaderName::from_static("cofferdam-profile");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The format of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The output of the guest, unchanged: the key-value pairs of a block as in [`cofferdam_protocol::writes`], or the
    /// result of a view.
    Bytes,
    /// A JSON object with the output in hexadecimal and all figures of the run.
    Json,
}

impl Format {
    /// The format that the `Accept` header asks for: JSON if the header gives JSON a higher quality than bytes, or names JSON and
    /// not bytes.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut bytes, mut json) = (0.0, 0.0);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            match name {
                "application/json" => json = quality,
                "application/octet-stream" => bytes = quality,
                _ => {}
            }
        }
        if json > bytes { Self::Json } else { Self::Bytes }
    }
}

impl Answer {
    /// Bytes that the response body takes.
    pub(crate) fn response_bytes(&self, format: Format) -> u64 {
        let bytes = self.output.len() as u64;
        match format {
            Format::Bytes => bytes,
            // While the JSON is written, each byte of the output takes two digits.
            Format::Json => bytes.saturating_mul(2),
        }
    }

    /// The response. It keeps `reservation` until its body has been sent.
    pub(crate) fn respond(&self, format: Format, reservation: Reservation) -> Response {
        let mut response = match self.verdict {
            Verdict::COMPLETED if format == Format::Bytes => {
                let body = Body::new(ReservedBody { bytes: self.output.clone(), _reservation: reservation });
                ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
            }
            Verdict::COMPLETED => match serde_json::to_vec(&self.to_json()) {
                Ok(bytes) => {
                    let body = Body::new(ReservedBody { bytes: bytes.into(), _reservation: reservation });
                    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
                }
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            },
            _ => self.failure(),
        };
        self.add_headers(response.headers_mut());
        response
    }

    fn failure(&self) -> Response {
        let (status, title) = match self.verdict {
            Verdict::Guest(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "The guest failed: every host gives the same verdict")
            }
            _ if self.is_from_memory() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The request is in quarantine: it ended every worker that ran it",
            ),
            Verdict::Host(HostVerdict::Deadline) => {
                (StatusCode::GATEWAY_TIMEOUT, "The job ran past the pool's deadline")
            }
            Verdict::Host(_) => (StatusCode::SERVICE_UNAVAILABLE, "Every attempt failed because of the host"),
        };
        let mut body = self.to_json();
        let r#type = match self.is_from_memory() {
            true => "urn:cofferdam:problem:quarantined".to_owned(),
            false => format!("urn:cofferdam:verdict:{}", self.verdict.name()),
        };
        body["type"] = Value::from(r#type);
        body["title"] = Value::from(title);
        body["status"] = Value::from(status.as_u16());
        let mut response = problem_document(status, &body);
        let retry_after = match &self.quarantine {
            Some(quarantine) => Some(whole_seconds(quarantine.left())),
            None => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn to_json(&self) -> Value {
        let lost = |attempt: &FailedAttempt| {
            json!({
                "worker": attempt.worker.pid,
                "verdict": attempt.verdict.name(),
                "detail": attempt.detail,
            })
        };
        let mut value = json!({
            "height": self.height,
            "verdict": self.verdict.name(),
            "detail": self.detail,
            "digest": self.digest.map(|digest| digest.to_string()),
            "profile": self.profile.as_ref(),
            "attempts": self.attempts,
            "worker": { "pid": self.worker.pid, "slot": self.worker.slot },
            "queued_us": micros(self.queued),
            "exec_us": micros(self.exec),
            "overhead_us": micros(self.overhead),
            "memory_bytes": self.memory_bytes,
            "fuel_used": self.fuel_used,
            "log": self.log,
            "lost": self.failed.iter().map(lost).collect::<Vec<_>>(),
        });
        if let Some(quarantine) = &self.quarantine {
            value["quarantine"] = json!({
                "since": humantime::format_rfc3339_seconds(quarantine.since).to_string(),
                "until": humantime::format_rfc3339_seconds(quarantine.until).to_string(),
                "from_memory": quarantine.from_memory,
            });
        }
        match self.kind {
            JobKind::Block => {
                let pair = |(key, value)| json!({ "key": hex::encode(key), "value": hex::encode(value) });
                let writes: Vec<Value> =
                    pairs(&self.output).map(|(key, value): (&[u8], &[u8])| pair((key, value))).collect();
                value["writes"] = Value::from(writes);
            }
            JobKind::View => {
                value["export"] = Value::from(self.export.clone());
                value["result"] = Value::from(hex::encode(&self.output));
            }
        }
        value
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(VERDICT, HeaderValue::from_static(self.verdict.name()));
        headers.insert(ATTEMPTS, HeaderValue::from(self.attempts));
        let mut put = |name: HeaderName, text: &str| {
            // Every value here has only digits, letters and punctuation, so this does not fail.
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        };
        put(PROFILE, &self.profile);
        put(WORKER, &format!("pid={};slot={}", self.worker.pid, self.worker.slot));
        if let Some(digest) = &self.digest {
            put(DIGEST, &digest.to_string());
        }
        let mut timing = String::new();
        for (name, time) in [("queue", self.queued), ("guest", self.exec), ("overhead", self.overhead)] {
            let comma = if timing.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(timing, "{comma}{name};dur={:.3}", time.as_secs_f64() * 1e3);
        }
        put(SERVER_TIMING, &timing);
    }
}

/// Seconds, rounded up. At least one.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// Microseconds, with the nanoseconds as decimals.
fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A body of known length that keeps its reservation until it has been sent.
struct ReservedBody {
    bytes: Bytes,
    _reservation: Reservation,
}

impl HttpBody for ReservedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        /// hyper asks for the next part when it has sent most of the part before. If the body were one part, this body and its
        /// reservation would be dropped at once, while hyper would still hold all bytes for a client that reads nothing.
        const PART_BYTES: usize = 64 << 10;
        let length = self.bytes.len().min(PART_BYTES);
        let part = self.bytes.split_to(length);
        Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_sent_to_clients_that_ask_for_it() {
        let format = |accept: &'static str| {
            Format::of(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(Format::of(&HeaderMap::new()), Format::Bytes);
        for (accept, expected) in [
            ("*/*", Format::Bytes),
            ("application/json", Format::Json),
            ("application/json;q=0.5, application/octet-stream", Format::Bytes),
            ("application/octet-stream;q=0.2, application/json;q=0.9", Format::Json),
            ("text/html, application/json;charset=utf-8", Format::Json),
            ("application/json;q=0", Format::Bytes),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }
}
