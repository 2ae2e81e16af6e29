//! `POST /v1/blocks/{height}` and `POST /v1/views/{export}`: from a request to a job, and from its answer to a response.

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

use super::answer::Format;
use super::body::{self, Bounds};
use super::gate::Lane;
use super::idempotency::Key;
use super::problem::Problem;
use super::request::{MUCH_BYTES, Request};
use super::service::{Inner, Service};
use super::trace;

/// Milliseconds that the client is ready to wait, from the arrival of its request.
const DEADLINE_HEADER: &str = "cofferdam-deadline-ms";

/// The height of a view that names none: no block is above it, so it reads the newest state.
const NEWEST: u32 = u32::MAX;

/// `POST /v1/blocks/{height}`.
pub(super) async fn block(
    State(service): State<Service>,
    height: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let height = in_path(height).and_then(|height| parse_height(&height, "the height in the path"));
    let what = height.map(|height| (Lane::Blocks, height, None));
    handle(service, what, headers, body).await
}

/// `POST /v1/views/{export}?height=N`.
pub(super) async fn view(
    State(service): State<Service>,
    export: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let export = in_path(export);
    let what = export.and_then(|export| Ok((Lane::Views, height_of_query(query.as_deref())?, Some(export))));
    handle(service, what, headers, body).await
}

type What = (Lane, u32, Option<String>);

async fn handle(service: Service, what: Result<What, Problem>, headers: HeaderMap, body: Body) -> Response {
    let inner = service.0;
    let answered = match what {
        Ok(what) => {
            let span = trace::span(&headers, what.0.name(), what.1);
            answer(&inner, what, &headers, body).instrument(span).await
        }
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| {
        inner.note_problem(&problem);
        problem.into_response()
    })
}

async fn answer(
    inner: &Arc<Inner>,
    what: What,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (lane, height, export) = what;
    let reached = reached(inner, lane, height)?;
    let deadline = deadline(headers)?;
    body::check_coding(headers)?;
    let bounds = Bounds {
        bytes: inner.body_bytes(),
        time: inner.settings.body_timeout,
        patience: inner.settings.queue_wait,
        retry_after: inner.gate.retry_after(),
    };
    let body = body::receive(body, &bounds, &inner.room).await?;
    let key = Key::of(headers, || fingerprint(lane, height, export.as_deref(), body.sha256))?;
    // With a key, others may wait for the same answer, each for as long as they allow: the work itself has no client's time.
    let own = if key.is_some() { None } else { deadline };
    let request =
        Request { lane, height: reached, export, body, layers: Vec::new(), base: None, deadline: own };
    let work = Arc::clone(inner).answer(request);
    let answer = match key {
        None => work.await?,
        Some(key) => within(deadline, inner.answers.get(key, work.in_current_span())).await?,
    };
    let format = Format::of(headers);
    let bytes = answer.response_bytes(format);
    let held = inner.room_for(bytes).await?;
    if format == Format::Bytes || bytes < MUCH_BYTES as u64 {
        return Ok(answer.respond(format, held));
    }
    let response = tokio::task::spawn_blocking(move || answer.respond(format, held)).await;
    response.map_err(|error| Problem::Internal(error.to_string()))
}

/// The height to run at: the newest of the store, if there is one and no height was named. Refuses a height whose state is not
/// there: a view reads the state after a block, a block that of the one before it.
fn reached(inner: &Inner, lane: Lane, height: u32) -> Result<u32, Problem> {
    let Some(state) = inner.state.get() else { return Ok(height) };
    let tip = state.snapshot().and_then(|snapshot| snapshot.tip());
    let tip = tip.map_err(|error| Problem::Internal(error.to_string()))?;
    let highest = match lane {
        Lane::Views if height == NEWEST => return Ok(tip.unwrap_or(NEWEST)),
        Lane::Views => tip,
        Lane::Blocks => Some(tip.map_or(NEWEST, |tip| tip.saturating_add(1))),
    };
    match highest {
        Some(highest) if height <= highest => Ok(height),
        _ => Err(Problem::AboveTip { height, tip }),
    }
}

/// Waits for `answer` for no longer than the request allowed.
async fn within<T>(
    deadline: Option<(Instant, Duration)>,
    answer: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let Some((at, allowed)) = deadline else { return answer.await };
    tokio::time::timeout_at(at.into(), answer).await.unwrap_or(Err(Problem::ClientDeadline(allowed)))
}

/// What makes two requests the same.
fn fingerprint(lane: Lane, height: u32, export: Option<&str>, body: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(lane.name());
    hasher.update(height.to_le_bytes());
    hasher.update(body.0);
    hasher.update(export.unwrap_or_default());
    Hash(hasher.finalize().into())
}

/// What a path names: it can be no text.
fn in_path(named: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    named.map(|Path(named)| named).map_err(|rejection| Problem::Malformed(rejection.body_text()))
}

fn parse_height(text: &str, what: &str) -> Result<u32, Problem> {
    // `parse` would take a sign.
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
                    "the query {pair:?} means nothing here; expected height=N"
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
    // One beyond all clocks is none.
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
