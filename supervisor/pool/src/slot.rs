//! One slot of a pool: a place that has at most one worker at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_protocol::message::Hello;

use super::death::{DeathCounts, KillReason};
use super::error::PoolError;
use super::worker::Worker;
use cofferdam_base::sync::lock;

/// A slot. The slot's thread records its worker and its deaths. Other threads read the slot, retire it, or kill its worker.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) view: Mutex<View>,
    /// The slot's worker was told to end, and will not be replaced.
    pub(super) retired: AtomicBool,
}

/// What is known of a slot at this moment.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The worker that is starting or ready.
    pub(super) worker: Option<Arc<Worker>>,
    /// The worker's first message, once the worker is ready.
    pub(super) hello: Option<Hello>,
    /// The deaths of the slot's workers: see [`Death`](super::death::Death).
    pub(super) deaths: DeathCounts,
    /// The last of these deaths in words.
    pub(super) last_death: Option<String>,
    /// The slot was given up: its workers failed more often than the policy allows.
    pub(super) failed: bool,
    /// A worker that is started after this was set is killed at once.
    killed: bool,
}

/// Why the first start of a slot failed.
#[derive(Debug)]
pub(super) enum StartFailure {
    ArtifactRefused(String),
    NotCommitted(String),
    Timeout(Duration),
    Cancelled,
    /// The pool is stopping.
    Stopping,
    Other(String),
}

impl From<StartFailure> for PoolError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::NotCommitted(detail) => Self::NotCommitted(detail),
            StartFailure::Timeout(after) => Self::StartTimeout(after),
            StartFailure::Cancelled => Self::Cancelled,
            StartFailure::Stopping => Self::Draining,
            StartFailure::ArtifactRefused(detail) | StartFailure::Other(detail) => Self::Start(detail),
        }
    }
}

impl Slot {
    pub(super) fn new(index: usize) -> Self {
        Self { index, view: Mutex::default(), retired: AtomicBool::new(false) }
    }

    /// Whether the slot has a worker, or will have one.
    pub(super) fn is_alive(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !lock(&self.view).failed
    }

    /// Records that the slot was given up.
    pub(super) fn fail(&self) {
        lock(&self.view).failed = true;
    }

    /// Records the worker that was started.
    pub(super) fn set_worker(&self, worker: &Arc<Worker>) {
        let mut view = lock(&self.view);
        if view.killed {
            worker.kill(KillReason::Stopping);
        }
        view.worker = Some(Arc::clone(worker));
    }

    /// Whether the worker can be expected to end when its pipe is closed. A worker that is still committing its memory does not
    /// read its pipe.
    pub(super) fn can_stop_by_itself(&self) -> bool {
        let view = lock(&self.view);
        view.hello.is_some() && view.worker.as_ref().is_some_and(|worker| worker.is_alive())
    }

    /// Kills the slot's worker, and every worker that its thread starts after this.
    pub(super) fn kill_worker(&self) {
        let mut view = lock(&self.view);
        view.killed = true;
        if let Some(worker) = &view.worker {
            worker.kill(KillReason::Stopping);
        }
    }
}
