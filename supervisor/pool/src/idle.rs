//! The idle workers, and which of them is taken next.

use std::collections::VecDeque;
use std::time::Instant;

use cofferdam_protocol::status::Phase;

use super::primitives::{Condvar, Mutex, has_passed, lock, wait};
use super::worker::{IdleWorker, Worker};

/// The tokens of idle workers.
#[derive(Debug)]
pub(super) struct Idle {
    state: Mutex<State>,
    /// A token was put, or the set was closed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The worker that was used last is at the end.
    tokens: VecDeque<IdleWorker>,
    /// No worker will come any more, so nobody waits for one.
    closed: bool,
    /// The pool stops: tokens are no longer kept.
    stopped: bool,
    /// The number of threads that wait. If no thread waits, nobody is notified, because a notification costs a system call.
    waiting: usize,
}

/// Which worker to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The worker that starts on a job soonest.
    Soonest,
    /// The worker that has been idle for longest.
    Oldest,
}

impl State {
    fn pop(&mut self, choice: Choice) -> Option<IdleWorker> {
        // The worker that has just been used is awake, and its caches are warm. While that worker is still being reset, the
        // one that has been idle for longest starts sooner.
        let is_last_ready =
            self.tokens.back().is_some_and(|idle| idle.worker.status.phase() == Some(Phase::Idle));
        match choice {
            Choice::Soonest if is_last_ready => self.tokens.pop_back(),
            Choice::Soonest | Choice::Oldest => self.tokens.pop_front(),
        }
    }
}

impl Idle {
    pub(super) fn new() -> Self {
        let state = State { tokens: VecDeque::new(), closed: false, stopped: false, waiting: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Puts a worker back. The token is dropped, which ends the worker, if the worker has died or the pool stops.
    pub(super) fn put(&self, worker: IdleWorker) {
        let mut state = lock(&self.state);
        // This checks the worker under the lock. `remove_dead` takes the same lock after the death was recorded. So no token of a
        // dead worker is put after `remove_dead`.
        if !state.stopped && worker.worker.is_alive() {
            state.tokens.push_back(worker);
            let is_awaited = state.waiting > 0;
            drop(state);
            if is_awaited {
                self.changed.notify_one();
            }
        } else {
            // Dropping a token makes system calls, which nobody should wait for.
            drop(state);
            drop(worker);
        }
    }

    /// Takes a worker if one is idle.
    pub(super) fn try_take(&self) -> Option<IdleWorker> {
        loop {
            let idle = lock(&self.state).pop(Choice::Soonest)?;
            if idle.worker.is_alive() {
                return Some(idle);
            }
        }
    }

    /// Takes a worker, and waits for one until `deadline`, if there is one. None after the deadline, and none if no worker will
    /// come any more.
    pub(super) fn take(&self, choice: Choice, deadline: Option<Instant>) -> Option<IdleWorker> {
        loop {
            let idle = self.pop_or_wait(choice, deadline)?;
            // The token of a worker that has died is dropped here, without the lock.
            if idle.worker.is_alive() {
                return Some(idle);
            }
        }
    }

    fn pop_or_wait(&self, choice: Choice, deadline: Option<Instant>) -> Option<IdleWorker> {
        let mut state = lock(&self.state);
        loop {
            if let Some(idle) = state.pop(choice) {
                return Some(idle);
            }
            if state.closed || has_passed(deadline) {
                return None;
            }
            state.waiting += 1;
            state = wait(&self.changed, state, deadline);
            state.waiting -= 1;
        }
    }

    /// Removes the tokens of workers that have died.
    pub(super) fn remove_dead(&self) {
        let mut state = lock(&self.state);
        let (alive, dead): (VecDeque<_>, VecDeque<_>) =
            state.tokens.drain(..).partition(|idle| Worker::is_alive(&idle.worker));
        state.tokens = alive;
        drop(state);
        drop(dead);
    }

    /// Keeps no token from now on, and takes those that are there.
    pub(super) fn stop(&self) -> VecDeque<IdleWorker> {
        let mut state = lock(&self.state);
        state.stopped = true;
        std::mem::take(&mut state.tokens)
    }

    /// Lets nobody wait for a worker from now on: none will come.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Undoes [`Idle::close`].
    pub(super) fn reopen(&self) {
        lock(&self.state).closed = false;
    }

    /// Whether no worker will come any more.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }
}
