//! Workers that are idle, and which of them is taken next.

use std::collections::VecDeque;

use cofferdam_protocol::status::Phase;

use super::primitives::{Mutex, Receiver, Sender, lock, unbounded};
use super::worker::{IdleWorker, Worker};

/// Tokens of idle workers, the one that was used last at the end.
#[derive(Debug)]
pub(super) struct Idle {
    tokens: Mutex<VecDeque<IdleWorker>>,
    /// One for each token, for those who wait.
    units: (Sender<()>, Receiver<()>),
}

impl Idle {
    pub(super) fn new() -> Self {
        Self { tokens: Mutex::default(), units: unbounded() }
    }

    /// Puts a worker where others find it, unless it has died meanwhile.
    pub(super) fn put(&self, worker: IdleWorker) {
        let mut tokens = lock(&self.tokens);
        // Looked at under the lock: whoever clears away the tokens of a worker that has died comes after it is known to be dead.
        if worker.worker.is_alive() {
            tokens.push_back(worker);
            // Both ends live as long as this.
            let _ = self.units.0.send(());
        }
    }

    /// Something that can be received when there is a worker to [`claim`](Self::claim).
    pub(super) fn units(&self) -> &Receiver<()> {
        &self.units.1
    }

    /// Takes a worker for a unit that was received; none if the one that it stood for was dead, or somebody took it away.
    pub(super) fn claim(&self) -> Option<IdleWorker> {
        let idle = {
            let mut tokens = lock(&self.tokens);
            // One that has just been used is awake, and its caches are warm. But while it is still being reset, the one that
            // has been idle for longest is sooner at it.
            let is_ready = tokens.back().is_some_and(|idle| idle.worker.status.phase() == Some(Phase::Idle));
            if is_ready { tokens.pop_back() } else { tokens.pop_front() }
        };
        // The token of a worker that has died meanwhile is dropped here.
        idle.filter(|idle| idle.worker.is_alive())
    }

    /// Takes a worker, if there is one.
    pub(super) fn try_take(&self) -> Option<IdleWorker> {
        while self.units.1.try_recv().is_ok() {
            if let Some(idle) = self.claim() {
                return Some(idle);
            }
        }
        None
    }

    /// As [`Idle::claim`], but the worker that has been idle for longest.
    pub(super) fn claim_oldest(&self) -> Option<IdleWorker> {
        let oldest = lock(&self.tokens).pop_front();
        oldest.filter(|idle| idle.worker.is_alive())
    }

    /// Takes every worker that `keep` does not want.
    pub(super) fn take_unless(&self, keep: impl Fn(&Worker) -> bool) -> Vec<IdleWorker> {
        let mut tokens = lock(&self.tokens);
        let (kept, taken): (Vec<_>, Vec<_>) = tokens.drain(..).partition(|idle| keep(&idle.worker));
        tokens.extend(kept);
        for _ in &taken {
            // Somebody may have received the unit, and finds that there is no worker for it.
            let _ = self.units.1.try_recv();
        }
        taken
    }
}
