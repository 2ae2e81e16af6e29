//! The handlers of `POST /v1/blocks/{height}` and `POST /v1/views/{export}`: parse the request, run its job, and send the
//! response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use cofferdam_protocol::profile::Hash;
use sha2::{Digest, Sha256};
use tracing::Instrument;

use crate::body::{self, BodyLimits};
use crate::idempotency::Key;
use crate::job_kind::JobKind;
use crate::problem::Problem;
use crate::request::{LARGE_BYTES, Request};
use crate::response::Format;
use crate::service::{Inner, Service};
use crate::trace;

/// How many milliseconds the client waits for its response, counted from when the headers of its request were read.
const DEADLINE_HEADER: &str = "cofferdam-deadline-ms";

/// The height of a view whose request names none. No block is above this height, so the view reads the newest state.
const NEWEST: u32 = u32::MAX;

/// `POST /v1/blocks/{height}`.
pub(crate) async fn block(
    State(service): State<Service>,
    height: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let height = in_path(height).and_then(|height| parse_height(&height, "the height in the path"));
    let target = height.map(|height| (JobKind::Block, height, None));
    handle(service, target, headers, body).await
}

/// `POST /v1/views/{export}?height=N`.
pub(crate) async fn view(
    State(service): State<Service>,
    export: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let export = in_path(export);
    let target =
        export.and_then(|export| Ok((JobKind::View, height_of_query(query.as_deref())?, Some(export))));
    handle(service, target, headers, body).await
}

/// What the path and the query name: the kind of job, the height, and the export of a view.
type Target = (JobKind, u32, Option<String>);

async fn handle(
    service: Service,
    target: Result<Target, Problem>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let inner = service.0;
    let answered = match target {
        Ok(target) => {
            let span = trace::span(&headers, target.0.name(), target.1);
            answer(&inner, target, &headers, body).instrument(span).await
        }
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| {
        inner.record_problem(&problem);
        problem.into_response()
    })
}

async fn answer(
    inner: &Arc<Inner>,
    target: Target,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (kind, height, export) = target;
    let run_height = run_height(inner, kind, height)?;
    let deadline = deadline(headers)?;
    body::check_encoding(headers)?;
    let limits = BodyLimits {
        max_bytes: inner.body_bytes(),
        receive_timeout: inner.settings.body_timeout,
        memory_wait: inner.settings.queue_wait,
        retry_after: inner.admission.retry_after(),
    };
    let body = body::receive_input(body, &limits, &inner.budget).await?;
    let key = Key::of(headers, || fingerprint(kind, height, export.as_deref(), body.sha256))?;
    // With a key, several clients may wait for the same answer, each with its own deadline. The job then has no deadline.
    let job_deadline = if key.is_some() { None } else { deadline };
    let request = Request {
        kind,
        height: run_height,
        export,
        body,
        layers: Vec::new(),
        base: None,
        deadline: job_deadline,
    };
    let work = Arc::clone(inner).answer(request);
    let answer = match key {
        None => work.await?,
        Some(key) => within(deadline, inner.answers.get(key, work.in_current_span())).await?,
    };
    let format = Format::of(headers);
    let bytes = answer.response_bytes(format);
    let reservation = inner.reserve_response(bytes).await?;
    if format == Format::Bytes || bytes < LARGE_BYTES as u64 {
        return Ok(answer.respond(format, reservation));
    }
    let response = tokio::task::spawn_blocking(move || answer.respond(format, reservation)).await;
    response.map_err(|error| Problem::Internal(error.to_string()))
}

/// The height that the job runs at: the height in the request, or the newest height of the store for a view without a height.
/// Refuses a height whose state does not exist yet. A view reads the state after the block at its height. A block reads the
/// state after the block before it.
fn run_height(inner: &Inner, kind: JobKind, height: u32) -> Result<u32, Problem> {
    let Some(state) = inner.state.get() else { return Ok(height) };
    let tip = state.snapshot().and_then(|snapshot| snapshot.tip());
    let tip = tip.map_err(|error| Problem::Internal(error.to_string()))?;
    let highest = match kind {
        JobKind::View if height == NEWEST => return Ok(tip.unwrap_or(NEWEST)),
        JobKind::View => tip,
        JobKind::Block => Some(tip.map_or(NEWEST, |tip| tip.saturating_add(1))),
    };
    match highest {
        Some(highest) if height <= highest => Ok(height),
        _ => Err(Problem::AboveTip { height, tip }),
    }
}

/// Waits for `answer`, but not past the request's deadline.
async fn within<T>(
    deadline: Option<(Instant, Duration)>,
    answer: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let Some((at, allowed)) = deadline else { return answer.await };
    tokio::time::timeout_at(at.into(), answer).await.unwrap_or(Err(Problem::ClientDeadline(allowed)))
}

/// A hash over everything that distinguishes one request from another. Each Idempotency-Key is valid for one fingerprint.
fn fingerprint(kind: JobKind, height: u32, export: Option<&str>, body: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(kind.name());
    hasher.update(height.to_le_bytes());
    hasher.update(body.0);
    hasher.update(export.unwrap_or_default());
    Hash(hasher.finalize().into())
}

/// The parameter in the path. It may not be valid UTF-8.
fn in_path(named: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    named.map(|Path(named)| named).map_err(|rejection| Problem::Malformed(rejection.body_text()))
}

fn parse_height(text: &str, what: &str) -> Result<u32, Problem> {
    // `parse` alone would accept a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let height = if digits { text.parse().ok() } else { None };
    height.ok_or_else(|| {
        Problem::Malformed(format!("{what}: expected a number up to {}, not {text:?}", u32::MAX))
    })
}

fn height_of_query(query: Option<&str>) -> Result<u32, Problem> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut height = None;
    for pair in pairs {
        match pair.split_once('=') {
            Some(("height", text)) if height.is_none() => height = Some(parse_height(text, "height")?),
            _ => {
                return Err(Problem::Malformed(format!(
                    "unknown or repeated query parameter {pair:?}: expected height=N"
                )));
            }
        }
    }
    Ok(height.unwrap_or(NEWEST))
}

fn deadline(headers: &HeaderMap) -> Result<Option<(Instant, Duration)>, Problem> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let wrong =
        || Problem::Malformed(format!("{DEADLINE_HEADER}: expected milliseconds, at least 1, not {text:?}"));
    let millis: u64 = text.parse().ok().filter(|millis| *millis > 0).ok_or_else(wrong)?;
    let allowed = Duration::from_millis(millis);
    // A deadline beyond the range of the clock is no deadline.
    Ok(Instant::now().checked_add(allowed).map(|at| (at, allowed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_plain_numbers() {
        assert_eq!(parse_height("0", "x"), Ok(0));
        assert_eq!(parse_height("4294967295", "x"), Ok(u32::MAX));
        for bad in ["", "-1", "+1", "4294967296", "1.5", "0x1", " 1", "１"] {
            assert!(parse_height(bad, "x").is_err(), "{bad:?}");
        }
        assert_eq!(height_of_query(None), Ok(u32::MAX));
        assert_eq!(height_of_query(Some("height=7")), Ok(7));
        for bad in ["height=", "height=1&height=2", "hight=1", "height"] {
            assert!(height_of_query(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
