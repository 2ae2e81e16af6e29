//! Server-sent events for the status page: the last minutes first, and then how things are, each second.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::watch;

use super::service::{Phase, Service};
use super::snapshot::Snapshot;
use cofferdam_base::sync::lock;

const EVERY: Duration = Duration::from_secs(1);

/// `GET /v1/events`.
pub(super) async fn events(State(service): State<Service>) -> impl IntoResponse {
    // Proxies that buffer answers would hold the events back (nginx reads this header).
    ([("x-accel-buffering", "no"), ("cache-control", "no-store")], Sse::new(stream(service)))
}

/// Ends when the service closes, or every drain would wait for whoever looks at the page.
fn stream(service: Service) -> impl Stream<Item = Result<Event, Infallible>> {
    let phase = service.watch();
    let begin = Next { service, phase, first: true };
    stream::unfold(begin, |mut next| async move { next.event().await.map(|event| (Ok(event), next)) })
}

struct Next {
    service: Service,
    phase: watch::Receiver<Phase>,
    first: bool,
}

impl Next {
    async fn event(&mut self) -> Option<Event> {
        if self.first {
            self.first = false;
            let past = lock(&self.service.0.history).past();
            return Some(event("history", &past));
        }
        let closing = self.phase.wait_for(|phase| *phase == Phase::Closing);
        match tokio::time::timeout(EVERY, closing).await {
            Ok(_) => None,
            Err(_) => Some(event("snapshot", &Snapshot::take(&self.service.0))),
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // Maps with keys that are no strings are all that cannot be written, and none of ours has any.
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}
