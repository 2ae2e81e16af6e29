//! Whether to restart this process, to route to it, and how much: the answers for probes and balancers.
//!
//! All of them follow from the pool's own state at the moment of asking; nothing is remembered.

use std::fmt::Write;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::service::{Inner, Phase};
use cofferdam_base::size::Bytes;
use cofferdam_base::sync::lock;
use cofferdam_pool::{Health, SlotState};

/// What the status page says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Starting,
    Serving,
    Degraded,
    Draining,
    Unready,
}

/// One thing that is in order, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    name: &'static str,
    /// Why not; none if it is in order.
    wrong: Option<String>,
    /// More to say in either case.
    remark: String,
}

impl Check {
    fn new(name: &'static str, wrong: Option<String>) -> Self {
        Self { name, wrong, remark: String::new() }
    }
}

/// Everything that readiness depends on.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    phase: Phase,
    /// Slots that were given up.
    failed: Vec<String>,
    ready: usize,
    workers: usize,
    full: bool,
    progress: String,
    /// What the application over the service says.
    extension: Option<Check>,
}

impl Readiness {
    pub(super) fn of(inner: &Inner, health: &Health) -> Self {
        let failed = health.slots.iter().filter(|slot| slot.state == SlotState::Failed);
        let last = |slot: &cofferdam_pool::SlotHealth| {
            let last = slot.last_death.as_deref().unwrap_or("no death is known");
            format!("slot {} was given up: {last}", slot.slot)
        };
        Self {
            phase: *inner.phase.borrow(),
            failed: failed.map(last).collect(),
            ready: health.ready(),
            workers: inner.generation().map_or(0, |generation| generation.pool.workers()),
            full: inner.gate.is_full(),
            progress: progress(inner),
            extension: inner.extension.get().map(|extension| {
                let mut check = Check::new(extension.name(), None);
                match extension.ready() {
                    Ok(remark) => check.remark = remark,
                    Err(wrong) => check.wrong = Some(wrong),
                }
                check
            }),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready_checks().iter().all(|check| check.wrong.is_none())
    }

    /// The share of workers that are healthy, in percent.
    fn share(&self) -> usize {
        (self.ready.min(self.workers) * 100).checked_div(self.workers).unwrap_or(0)
    }

    fn ready_checks(&self) -> Vec<Check> {
        let phase = match self.phase {
            Phase::Serving => None,
            Phase::Starting => Some(format!("starting: {}", self.progress)),
            Phase::Draining | Phase::Closing => Some("draining".to_owned()),
        };
        let none = (self.ready == 0 && self.phase != Phase::Starting).then(|| match self.failed.is_empty() {
            true => "no worker is ready at this moment".to_owned(),
            false => self.failed.join("; "),
        });
        let mut workers = Check::new("workers", none);
        workers.remark = format!("{} of {} ready", self.ready.min(self.workers), self.workers);
        for failed in &self.failed {
            let _ = write!(workers.remark, "; {failed}");
        }
        let full = self.full.then(|| "as many requests wait as may".to_owned());
        let mut checks = vec![Check::new("phase", phase), workers, Check::new("queue", full)];
        checks.extend(self.extension.clone());
        checks
    }

    /// A restart helps only a process that has given up all its slots; it ends by itself then, but should it hang, a
    /// probe ends it.
    fn live_checks(&self) -> Vec<Check> {
        let all_failed = self.ready == 0 && self.failed.len() >= self.workers.max(1);
        vec![Check::new("workers", all_failed.then(|| "every slot was given up".to_owned()))]
    }

    fn startup_checks(&self) -> Vec<Check> {
        let starting = (self.phase == Phase::Starting).then(|| self.progress.clone());
        vec![Check::new("memory committed", starting)]
    }

    /// For people: in one word and a sentence.
    pub(super) fn state(&self) -> (State, String) {
        let reasons = || {
            let wrong = self.ready_checks().into_iter().filter_map(|check| check.wrong);
            wrong.collect::<Vec<_>>().join("; ")
        };
        match self.phase {
            Phase::Starting => (State::Starting, self.progress.clone()),
            Phase::Draining => (State::Draining, "no more requests should be sent here".to_owned()),
            Phase::Closing => (State::Draining, "requests that run are finished".to_owned()),
            Phase::Serving if !self.is_ready() => (State::Unready, reasons()),
            Phase::Serving if self.share() < 100 || !self.failed.is_empty() => {
                let mut reason = format!("{} of {} workers are ready", self.ready, self.workers);
                for failed in &self.failed {
                    let _ = write!(reason, "; {failed}");
                }
                (State::Degraded, reason)
            }
            Phase::Serving => (State::Serving, String::new()),
        }
    }

    /// The line that HAProxy's agent check reads (its manual, `agent-check`): the weight follows the share of workers that
    /// are healthy. `ready` and `up` take back an earlier `drain` and `down`.
    pub(super) fn agent_line(&self) -> String {
        match self.phase {
            Phase::Starting => format!("down #{}\n", one_line(&self.progress)),
            // Whatever else it does: without a worker nothing is answered here.
            _ if self.ready == 0 => {
                format!(
                    "down #{}\n",
                    one_line(self.failed.first().map_or("no worker is ready", String::as_str))
                )
            }
            Phase::Draining | Phase::Closing => "drain\n".to_owned(),
            // Requests that still come are answered; others do better.
            Phase::Serving if self.extension.as_ref().is_some_and(|check| check.wrong.is_some()) => {
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

/// Which probe asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    Live,
    Ready,
    Startup,
}

/// The answer to a probe: 200 or 503, and a line for each check if `verbose` (as Kubernetes' own health endpoints have it).
pub(super) fn respond(inner: &Inner, probe: Probe, verbose: bool) -> Response {
    let readiness = Readiness::of(inner, &inner.health());
    let (name, checks) = match probe {
        Probe::Live => ("livez", readiness.live_checks()),
        Probe::Ready => ("readyz", readiness.ready_checks()),
        Probe::Startup => ("startupz", readiness.startup_checks()),
    };
    let passed = checks.iter().all(|check| check.wrong.is_none());
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = match (verbose, passed) {
        // Who looks at a failure wants to know which.
        (true, _) | (false, false) => lines(name, &checks, passed),
        (false, true) => "ok\n".to_owned(),
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, text).into_response()
}

fn lines(name: &str, checks: &[Check], passed: bool) -> String {
    let mut text = String::new();
    for check in checks {
        let (sign, word) = match &check.wrong {
            None => ('+', "ok".to_owned()),
            Some(wrong) => ('-', wrong.clone()),
        };
        let remark = if check.remark.is_empty() { String::new() } else { format!(" ({})", check.remark) };
        // Writing to a string does not fail.
        let _ = writeln!(text, "[{sign}]{} {word}{remark}", check.name);
    }
    let _ = writeln!(text, "{name} check {}", if passed { "passed" } else { "failed" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(phase: Phase, ready: usize, failed: usize) -> Readiness {
        let failed = (0..failed).map(|slot| format!("slot {slot} was given up: killed")).collect();
        let progress = "1 GiB of 4 GiB committed".to_owned();
        Readiness { phase, failed, ready, workers: 4, full: false, progress, extension: None }
    }

    #[test]
    fn the_agents_weight_is_the_share_of_healthy_workers() {
        let line = |phase, ready, failed| readiness(phase, ready, failed).agent_line();
        assert_eq!(line(Phase::Serving, 4, 0), "ready up 100%\n");
        assert_eq!(line(Phase::Serving, 5, 0), "ready up 100%\n", "a spare is no more than whole");
        assert_eq!(line(Phase::Serving, 3, 1), "ready up 75%\n");
        assert_eq!(line(Phase::Serving, 0, 4), "down #slot 0 was given up: killed\n");
        assert_eq!(line(Phase::Draining, 4, 0), "drain\n");
        assert_eq!(line(Phase::Draining, 0, 4), "down #slot 0 was given up: killed\n");
        assert_eq!(line(Phase::Starting, 0, 0), "down #1 GiB of 4 GiB committed\n");
    }

    #[test]
    fn readiness_falls_for_any_reason_and_liveness_only_for_good() {
        assert!(readiness(Phase::Serving, 1, 3).is_ready());
        assert!(!readiness(Phase::Serving, 0, 0).is_ready());
        assert!(!readiness(Phase::Draining, 4, 0).is_ready());
        assert!(!Readiness { full: true, ..readiness(Phase::Serving, 4, 0) }.is_ready());
        let live = |readiness: Readiness| readiness.live_checks()[0].wrong.is_none();
        assert!(live(readiness(Phase::Serving, 0, 3)) && live(readiness(Phase::Starting, 0, 0)));
        assert!(!live(readiness(Phase::Serving, 0, 4)));
    }

    #[test]
    fn verbose_lines_say_what_is_wrong() {
        let checks = readiness(Phase::Draining, 3, 1).ready_checks();
        let text = lines("readyz", &checks, false);
        assert!(text.contains("[-]phase draining\n"), "{text}");
        assert!(text.contains("[+]workers ok (3 of 4 ready; slot 0 was given up: killed)\n"), "{text}");
        assert!(text.ends_with("readyz check failed\n"), "{text}");
    }

    #[test]
    fn the_state_in_words() {
        assert_eq!(readiness(Phase::Serving, 4, 0).state(), (State::Serving, String::new()));
        let (state, reason) = readiness(Phase::Serving, 3, 1).state();
        assert_eq!(state, State::Degraded);
        assert!(reason.contains("3 of 4") && reason.contains("given up"), "{reason}");
        assert_eq!(readiness(Phase::Serving, 0, 4).state().0, State::Unready);
    }
}
