//! `GET /v1/events`: server-sent events for the status page. The first event has the last five minutes. Then follows the
//! status, once a second.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::watch;

use crate::service::{Phase, Service};
use crate::status::Status;
use cofferdam_base::sync::lock;

/// The time between two events.
const INTERVAL: Duration = Duration::from_secs(1);

/// `GET /v1/events`.
pub(crate) async fn events(State(service): State<Service>) -> impl IntoResponse {
    // A proxy that buffers responses would delay the events. nginx reads this header.
    ([("x-accel-buffering", "no"), ("cache-control", "no-store")], Sse::new(stream(service)))
}

/// The stream ends when the service closes. Otherwise every open status page would keep the server from ending.
fn stream(service: Service) -> impl Stream<Item = Result<Event, Infallible>> {
    let phase = service.watch();
    let first = NextEvent { service, phase, first: true };
    stream::unfold(first, |mut next| async move { next.event().await.map(|event| (Ok(event), next)) })
}

struct NextEvent {
    service: Service,
    phase: watch::Receiver<Phase>,
    first: bool,
}

impl NextEvent {
    /// Waits for the next event. None when the service closes.
    async fn event(&mut self) -> Option<Event> {
        if self.first {
            self.first = false;
            let past = lock(&self.service.0.history).past();
            return Some(event("history", &past));
        }
        let closing = self.phase.wait_for(|phase| *phase == Phase::Closing);
        match tokio::time::timeout(INTERVAL, closing).await {
            Ok(_) => None,
            Err(_) => Some(event("snapshot", &Status::read(&self.service.0))),
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    // Only maps with keys that are not strings cannot be written as JSON. No event has one.
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}
