//! The answers for probes and load balancers: whether to restart this process, whether to send requests to it, and how many.
//!
//! Every answer follows from the state of the pool at the moment of the question. Nothing is remembered.

use std::fmt::Write;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::service::{Inner, Phase};
use cofferdam_base::size::Bytes;
use cofferdam_base::sync::lock;
use cofferdam_pool::{Health, SlotState};

/// The state of the service in one word, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServiceState {
    /// Workers are committing their memory.
    Starting,
    /// Every worker is ready.
    Serving,
    /// Requests are served, but not by all workers.
    Degraded,
    /// The process is about to end.
    Draining,
    /// No request should be sent here.
    Unready,
}

/// One check of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    name: &'static str,
    /// Why the check fails. None if it passes.
    failure: Option<String>,
    /// A remark for `?verbose`, whether the check passes or fails.
    remark: String,
}

impl Check {
    fn new(name: &'static str, failure: Option<String>) -> Self {
        Self { name, failure, remark: String::new() }
    }
}

/// Everything that the checks depend on, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    phase: Phase,
    /// One line for each slot that was given up.
    failed_slots: Vec<String>,
    ready: usize,
    workers: usize,
    /// The limit on waiting requests, if it is reached.
    full_queue: Option<usize>,
    /// How much memory the first pool has committed.
    progress: String,
    /// The application's own check.
    application: Option<Check>,
}

impl Readiness {
    pub(crate) fn of(inner: &Inner, health: &Health) -> Self {
        let failed = health.slots.iter().filter(|slot| slot.state == SlotState::Failed);
        let line = |slot: &cofferdam_pool::SlotHealth| {
            let last = slot.last_death.as_deref().unwrap_or("its last death is not known");
            format!("slot {} was given up: {last}", slot.slot)
        };
        Self {
            phase: *inner.phase.borrow(),
            failed_slots: failed.map(line).collect(),
            ready: health.ready(),
            workers: inner.generation().map_or(0, |generation| generation.pool.workers()),
            full_queue: inner.admission.is_full().then_some(inner.settings.queue),
            progress: progress(inner),
            application: inner.application.get().map(|application| {
                let mut check = Check::new(application.name(), None);
                match application.readiness() {
                    Ok(remark) => check.remark = remark,
                    Err(failure) => check.failure = Some(failure),
                }
                check
            }),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_checks().iter().all(|check| check.failure.is_none())
    }

    /// The share of workers that are ready, in percent. At most 100: a spare worker does not count.
    fn share(&self) -> usize {
        (self.ready.min(self.workers) * 100).checked_div(self.workers).unwrap_or(0)
    }

    fn ready_checks(&self) -> Vec<Check> {
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Starting => Some(format!("starting: {}", self.progress)),
            Phase::Draining | Phase::Closing => Some("draining".to_owned()),
        };
        let none =
            (self.ready == 0 && self.phase != Phase::Starting).then(|| match self.failed_slots.is_empty() {
                true => "no worker is ready at this moment".to_owned(),
                false => self.failed_slots.join("; "),
            });
        let mut workers = Check::new("workers", none);
        workers.remark = format!("{} of {} ready", self.ready.min(self.workers), self.workers);
        for failed in &self.failed_slots {
            let _ = write!(workers.remark, "; {failed}");
        }
        let full = self
            .full_queue
            .map(|limit| format!("the queue is full: {limit} of {limit} requests are waiting"));
        let mut checks = vec![Check::new("phase", phase), workers, Check::new("queue", full)];
        checks.extend(self.application.clone());
        checks
    }

    /// Fails when every slot was given up: only in this case does a restart help. `cofferdam serve` then ends by itself. This
    /// check is for a process that hangs instead of ending.
    fn live_checks(&self) -> Vec<Check> {
        let all_failed = self.ready == 0 && self.failed_slots.len() >= self.workers.max(1);
        vec![Check::new("workers", all_failed.then(|| "every slot was given up".to_owned()))]
    }

    fn startup_checks(&self) -> Vec<Check> {
        let starting = (self.phase == Phase::Starting).then(|| self.progress.clone());
        vec![Check::new("memory committed", starting)]
    }

    /// The state in one word, and its reason in a sentence.
    pub(crate) fn state(&self) -> (ServiceState, String) {
        let reasons = || {
            let failures = self.ready_checks().into_iter().filter_map(|check| check.failure);
            failures.collect::<Vec<_>>().join("; ")
        };
        match self.phase {
            Phase::Starting => (ServiceState::Starting, self.progress.clone()),
            Phase::Draining => (
                ServiceState::Draining,
                "requests are still accepted, but load balancers should send no more".to_owned(),
            ),
            Phase::Closing => (ServiceState::Draining, "running requests are being finished".to_owned()),
            Phase::Serving if !self.is_ready() => (ServiceState::Unready, reasons()),
            Phase::Serving if self.share() < 100 || !self.failed_slots.is_empty() => {
                let mut reason = format!("{} of {} workers are ready", self.ready, self.workers);
                for failed in &self.failed_slots {
                    let _ = write!(reason, "; {failed}");
                }
                (ServiceState::Degraded, reason)
            }
            Phase::Serving => (ServiceState::Serving, String::new()),
        }
    }

    /// The line that HAProxy's agent check reads (its configuration manual, `agent-check`). The weight is the share of
    /// workers that are ready. `ready` and `up` revoke an earlier `drain` and `down`.
    pub(crate) fn agent_line(&self) -> String {
        match self.phase {
            Phase::Starting => format!("down #{}\n", one_line(&self.progress)),
            // Without a ready worker no request is answered, in any phase.
            _ if self.ready == 0 => {
                format!(
                    "down #{}\n",
                    one_line(self.failed_slots.first().map_or("no worker is ready", String::as_str))
                )
            }
            Phase::Draining | Phase::Closing => "drain\n".to_owned(),
            // Requests that still arrive are answered. A server whose application is ready answers them better.
            Phase::Serving if self.application.as_ref().is_some_and(|check| check.failure.is_some()) => {
                "drain\n".to_owned()
            }
            Phase::Serving => format!("ready up {}%\n", self.share()),
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(120).collect()
}

fn progress(inner: &Inner) -> String {
    match *lock(&inner.progress) {
        Some(progress) => {
            format!("{} of {} committed", Bytes(progress.committed_bytes), Bytes(progress.total_bytes))
        }
        None => "no memory is committed yet".to_owned(),
    }
}

/// A probe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// `/livez`: fails when the process should be restarted.
    Live,
    /// `/readyz`: fails when no request should be sent here.
    Ready,
    /// `/startupz`: fails until the first pool has committed its memory.
    Startup,
}

/// The answer to a probe: 200 or 503. With `verbose`, or if a check fails, the body has a line for each check, in the format of
/// Kubernetes' own health endpoints.
pub(crate) fn respond(inner: &Inner, probe: Probe, verbose: bool) -> Response {
    let readiness = Readiness::of(inner, &inner.health());
    let (name, checks) = match probe {
        Probe::Live => ("livez", readiness.live_checks()),
        Probe::Ready => ("readyz", readiness.ready_checks()),
        Probe::Startup => ("startupz", readiness.startup_checks()),
    };
    let passed = checks.iter().all(|check| check.failure.is_none());
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = match (verbose, passed) {
        // A failure always says which check failed.
        (true, _) | (false, false) => lines(name, &checks, passed),
        (false, true) => "ok\n".to_owned(),
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, text).into_response()
}

fn lines(name: &str, checks: &[Check], passed: bool) -> String {
    let mut text = String::new();
    for check in checks {
        let (sign, word) = match &check.failure {
            None => ('+', "ok".to_owned()),
            Some(failure) => ('-', failure.clone()),
        };
        let remark = if check.remark.is_empty() { String::new() } else { format!(" ({})", check.remark) };
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "[{sign}]{} {word}{remark}", check.name);
    }
    let _ = writeln!(text, "{name} check {}", if passed { "passed" } else { "failed" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(phase: Phase, ready: usize, failed: usize) -> Readiness {
        let failed_slots = (0..failed).map(|slot| format!("slot {slot} was given up: killed")).collect();
        let progress = "1 GiB of 4 GiB committed".to_owned();
        Readiness { phase, failed_slots, ready, workers: 4, full_queue: None, progress, application: None }
    }

    #[test]
    fn the_agents_weight_is_the_share_of_ready_workers() {
        let line = |phase, ready, failed| readiness(phase, ready, failed).agent_line();
        assert_eq!(line(Phase::Serving, 4, 0), "ready up 100%\n");
        assert_eq!(line(Phase::Serving, 5, 0), "ready up 100%\n", "a spare worker does not count");
        assert_eq!(line(Phase::Serving, 3, 1), "ready up 75%\n");
        assert_eq!(line(Phase::Serving, 0, 4), "down #slot 0 was given up: killed\n");
        assert_eq!(line(Phase::Draining, 4, 0), "drain\n");
        assert_eq!(line(Phase::Draining, 0, 4), "down #slot 0 was given up: killed\n");
        assert_eq!(line(Phase::Starting, 0, 0), "down #1 GiB of 4 GiB committed\n");
    }

    #[test]
    fn readiness_fails_for_any_reason_and_liveness_only_when_every_slot_was_given_up() {
        assert!(readiness(Phase::Serving, 1, 3).is_ready());
        assert!(!readiness(Phase::Serving, 0, 0).is_ready());
        assert!(!readiness(Phase::Draining, 4, 0).is_ready());
        assert!(!Readiness { full_queue: Some(8), ..readiness(Phase::Serving, 4, 0) }.is_ready());
        let live = |readiness: Readiness| readiness.live_checks()[0].failure.is_none();
        assert!(live(readiness(Phase::Serving, 0, 3)) && live(readiness(Phase::Starting, 0, 0)));
        assert!(!live(readiness(Phase::Serving, 0, 4)));
    }

    #[test]
    fn verbose_lines_say_which_check_failed() {
        let checks = readiness(Phase::Draining, 3, 1).ready_checks();
        let text = lines("readyz", &checks, false);
        assert!(text.contains("[-]phase draining\n"), "{text}");
        assert!(text.contains("[+]workers ok (3 of 4 ready; slot 0 was given up: killed)\n"), "{text}");
        assert!(text.ends_with("readyz check failed\n"), "{text}");
    }

    #[test]
    fn the_state_has_a_reason() {
        assert_eq!(readiness(Phase::Serving, 4, 0).state(), (ServiceState::Serving, String::new()));
        let (state, reason) = readiness(Phase::Serving, 3, 1).state();
        assert_eq!(state, ServiceState::Degraded);
        assert!(reason.contains("3 of 4") && reason.contains("given up"), "{reason}");
        assert_eq!(readiness(Phase::Serving, 0, 4).state().0, ServiceState::Unready);
    }
}
