//! What a guest answered, and how that looks as an HTTP response.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use cofferdam_protocol::writes::pairs;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::Held;
use super::gate::Lane;
use super::problem;
use cofferdam_pool::{FailedAttempt, JobOutput, JobResult, Quarantined, WorkerInfo};
use cofferdam_protocol::digest;

const VERDICT: HeaderName = HeaderName::from_static("cofferdam-verdict");
const DIGEST: HeaderName = HeaderName::from_static("cofferdam-digest");
const ATTEMPTS: HeaderName = HeaderName::from_static("cofferdam-attempts");
const WORKER: HeaderName = HeaderName::from_static("cofferdam-worker");
const PROFILE: HeaderName = HeaderName::from_static("cofferdam-profile");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How the result is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The bytes as they are: the pairs of a block as in [`cofferdam_protocol::writes`], the result of a view.
    Bytes,
    Json,
}

impl Format {
    /// What an Accept header asks for. Bytes, unless JSON is named with a higher quality, or alone.
    pub(super) fn of(headers: &HeaderMap) -> Self {
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

/// The answer to one request. Kept for its idempotency key, so it holds what was said and nothing of the worker.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) lane: Lane,
    pub(super) height: u32,
    pub(super) export: Option<String>,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    pub(super) digest: Option<Hash>,
    pub(super) attempts: usize,
    pub(super) worker: WorkerInfo,
    pub(super) profile: Arc<str>,
    pub(super) queued: Duration,
    pub(super) exec: Duration,
    pub(super) overhead: Duration,
    pub(super) quarantine: Option<Quarantined>,
    memory_bytes: u64,
    fuel_used: Option<u64>,
    log: String,
    failed: Vec<FailedAttempt>,
    output: Bytes,
}

/// What an answer is to.
pub(super) struct Question {
    pub(super) lane: Lane,
    pub(super) height: u32,
    pub(super) export: Option<String>,
    /// SHA-256 of the body.
    pub(super) sha256: Hash,
    /// The profile's hash, and the same as it is written.
    pub(super) profile: Hash,
    pub(super) profile_text: Arc<str>,
    /// How long it waited for its turn.
    pub(super) queued: Duration,
}

impl Answer {
    pub(super) fn new(question: Question, result: JobResult) -> Self {
        let attempts = result.attempts();
        let JobResult { verdict, detail, failed_attempts, worker, output, log, exec, overhead, .. } = result;
        let quarantine = result.quarantine.as_deref().copied();
        let output = match output {
            JobOutput::Nothing => Bytes::new(),
            // In the memory that the pool lends for it, if it is large.
            JobOutput::Writes(writes) => Bytes::from_owner(writes),
            JobOutput::View(bytes) => bytes.into(),
        };
        let digest = match verdict {
            Verdict::Guest(verdict) => {
                let Question { profile, height, sha256, .. } = question;
                Some(digest::extend(profile, height, sha256, verdict, Hash::of(&output)))
            }
            Verdict::Host(_) => None,
        };
        Self {
            lane: question.lane,
            height: question.height,
            export: question.export,
            verdict,
            detail,
            digest,
            attempts,
            worker,
            profile: question.profile_text,
            queued: question.queued,
            exec,
            overhead,
            quarantine,
            memory_bytes: result.memory_bytes,
            fuel_used: result.fuel_used,
            log,
            failed: failed_attempts,
            output,
        }
    }

    /// What was indexed, without what it wrote: that is in the store.
    pub(super) fn of_block(height: u32, digest: Option<Hash>, result: &JobResult) -> Self {
        Self {
            lane: Lane::Blocks,
            height,
            export: None,
            verdict: result.verdict,
            detail: result.detail.clone(),
            digest,
            attempts: result.attempts(),
            worker: result.worker,
            profile: Arc::from(""),
            queued: Duration::ZERO,
            exec: result.exec,
            overhead: result.overhead,
            quarantine: result.quarantine.as_deref().copied(),
            memory_bytes: result.memory_bytes,
            fuel_used: result.fuel_used,
            log: String::new(),
            failed: result.failed_attempts.clone(),
            output: Bytes::new(),
        }
    }

    /// What the guest gave.
    pub(super) fn output(&self) -> Bytes {
        self.output.clone()
    }

    /// Whether no attempt was made for it, because the job is in quarantine.
    pub(super) fn is_from_memory(&self) -> bool {
        self.quarantine.is_some_and(|quarantine| quarantine.from_memory)
    }

    /// What came of the request, in a word.
    pub(super) fn word(&self) -> &'static str {
        if self.is_from_memory() { "quarantined" } else { self.verdict.name() }
    }

    /// How many attempts were lost to the host.
    pub(super) fn lost(&self) -> usize {
        if self.is_from_memory() { 0 } else { self.failed.len() }
    }

    /// Bytes that it takes to keep.
    pub(super) fn bytes(&self) -> u64 {
        (self.output.len() + self.log.len() + self.detail.len()) as u64 + 512
    }

    /// Bytes of the response's body.
    pub(super) fn response_bytes(&self, format: Format) -> u64 {
        let bytes = self.output.len() as u64;
        match format {
            Format::Bytes => bytes,
            // Two digits a byte, while it is put together.
            Format::Json => bytes.saturating_mul(2),
        }
    }

    /// The response. What it holds of the room is given back when it has been sent.
    pub(super) fn respond(&self, format: Format, held: Held) -> Response {
        let mut response = match self.verdict {
            Verdict::COMPLETED if format == Format::Bytes => {
                let body = Body::new(HeldBody { bytes: self.output.clone(), _held: held });
                ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
            }
            Verdict::COMPLETED => match serde_json::to_vec(&self.to_json()) {
                Ok(bytes) => {
                    let body = Body::new(HeldBody { bytes: bytes.into(), _held: held });
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
                (StatusCode::UNPROCESSABLE_ENTITY, "The guest failed, as it would on every host")
            }
            _ if self.is_from_memory() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The request is in quarantine: it ended the workers that ran it",
            ),
            Verdict::Host(HostVerdict::Deadline) => (StatusCode::GATEWAY_TIMEOUT, "The deadline passed"),
            Verdict::Host(_) => (StatusCode::SERVICE_UNAVAILABLE, "The host lost every attempt"),
        };
        let mut body = self.to_json();
        let r#type = match self.is_from_memory() {
            true => "urn:cofferdam:problem:quarantined".to_owned(),
            false => format!("urn:cofferdam:verdict:{}", self.verdict.name()),
        };
        body["type"] = Value::from(r#type);
        body["title"] = Value::from(title);
        body["status"] = Value::from(status.as_u16());
        let mut response = problem::json(status, &body);
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
        match self.lane {
            Lane::Blocks => {
                let pair = |(key, value)| json!({ "key": hex::encode(key), "value": hex::encode(value) });
                let writes: Vec<Value> =
                    pairs(&self.output).map(|(key, value): (&[u8], &[u8])| pair((key, value))).collect();
                value["writes"] = Value::from(writes);
            }
            Lane::Views => {
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
            // Digits, hexadecimal, and punctuation.
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

/// Seconds, rounded up, and at least one.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// Microseconds, to the nanosecond.
fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A body of known length that holds room until it has been sent.
struct HeldBody {
    bytes: Bytes,
    _held: Held,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        /// The server takes a part when it has sent most of the one before: handed over at once, a body would be gone, and
        /// its room with it, while a client that reads nothing has the server hold all of it.
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

/// For lines that name a job's kind.
impl Serialize for Lane {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Lane {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Blocks => "block",
            Self::Views => "view",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_given_to_those_who_ask_for_it() {
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
