//! Admission control: which request may run a job now, which one waits, and which one is refused.
//!
//! As many requests run at a time as there are workers for requests. Further requests wait in two queues, one for blocks and
//! one for views. Free workers go to the two queues in turn, so neither kind of job starves the other. The number of
//! waiting requests is limited. Half of this limit is always available to each queue: if one queue has filled more than its
//! half, a new request for the other queue takes the slot of the newest request in the full queue. No request waits longer than
//! its `max_wait`: a client that cannot be served in time hears this early enough to try another server.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::job_kind::JobKind;
use super::primitives::{Arc, Condvar, Mutex, MutexGuard, oneshot, timeout};

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The limit on waiting requests is reached.
    QueueFull,
    /// No worker became free within the request's `max_wait`.
    TimedOut,
    /// No request will be admitted any more.
    Closed,
}

/// The admission control of one service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How many requests may wait.
    limit: usize,
    state: Mutex<State>,
    /// Notified when no request is running any more.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many requests may run at a time.
    capacity: usize,
    running: usize,
    closed: bool,
    blocks: VecDeque<Waiter>,
    views: VecDeque<Waiter>,
    /// Whether the next permit goes to the views, if requests wait in both queues.
    views_next: bool,
    next_id: u64,
    /// How long a permit is held, in microseconds: a moving average.
    mean_run_us: f64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    permit: oneshot::Sender<Permit>,
}

/// The numbers of requests at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLoad {
    pub(crate) waiting_blocks: usize,
    pub(crate) waiting_views: usize,
    /// How many requests may wait.
    pub(crate) limit: usize,
    pub(crate) running: usize,
}

/// The right to run one job. On drop it passes to the next waiting request.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Option<Admission>,
    since: Instant,
}

/// A waiting request's slot in a queue. It is given up on drop.
struct QueueSlot<'a> {
    admission: &'a Admission,
    kind: JobKind,
    id: u64,
}

impl Admission {
    /// An admission control with `limit` slots for waiting requests. It admits nobody before [`Admission::set_capacity`].
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, state: Mutex::default(), idle: Condvar::default() }))
    }

    /// Waits for a permit, for at most `max_wait`.
    pub(crate) async fn acquire(&self, kind: JobKind, max_wait: Duration) -> Result<Permit, Rejection> {
        let (id, permit) = {
            let mut state = self.lock();
            if state.closed {
                return Err(Rejection::Closed);
            }
            if state.running < state.capacity && state.waiting() == 0 {
                state.running += 1;
                return Ok(Permit::new(self));
            }
            if state.waiting() >= self.0.limit && !state.take_slot_of_other_queue(kind, self.0.limit) {
                return Err(Rejection::QueueFull);
            }
            let (sender, permit) = oneshot::channel();
            let id = state.next_id;
            state.next_id += 1;
            state.queue(kind).push_back(Waiter { id, permit: sender });
            (id, permit)
        };
        let _slot = QueueSlot { admission: self, kind, id };
        match timeout(max_wait, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // The sender was dropped without a permit: the admission control was closed, or the slot was taken away.
            Ok(Err(_)) if self.lock().closed => Err(Rejection::Closed),
            Ok(Err(_)) => Err(Rejection::QueueFull),
            Err(_) => Err(Rejection::TimedOut),
        }
    }

    /// Sets how many requests may run at a time from now on. Permits above `capacity` stay valid until they are dropped.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        let mut state = self.lock();
        if state.capacity != capacity {
            state.capacity = capacity;
            self.admit(&mut state);
        }
    }

    /// Blocks the thread until no request is running, for at most `max_wait`. Returns whether none is running.
    pub(crate) fn wait_until_idle(&self, max_wait: Duration) -> bool {
        let waited = self.0.idle.wait_timeout_while(self.lock(), max_wait, |state| state.running > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.running == 0
    }

    /// Refuses all waiting requests and all that come later.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.blocks.clear();
        state.views.clear();
    }

    pub(crate) fn load(&self) -> QueueLoad {
        let state = self.lock();
        QueueLoad {
            waiting_blocks: state.blocks.len(),
            waiting_views: state.views.len(),
            limit: self.0.limit,
            running: state.running,
        }
    }

    /// Whether every slot for waiting requests is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().waiting() >= self.0.limit
    }

    /// Seconds after which a refused client may find a free slot, between 1 and 60: the time that all requests which wait or
    /// run now will take.
    pub(crate) fn retry_after(&self) -> u64 {
        const MAX_SECONDS: f64 = 60.0;
        let state = self.lock();
        let ahead = (state.waiting() + state.running) as f64;
        let seconds = ahead * state.mean_run_us / state.capacity.max(1) as f64 / 1e6;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=60")]
        let whole = seconds.ceil().clamp(1.0, MAX_SECONDS) as u64;
        whole
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives permits to waiting requests while there is capacity.
    fn admit(&self, state: &mut State) {
        while state.running < state.capacity
            && let Some(waiter) = state.next_waiter()
        {
            state.running += 1;
            if let Err(permit) = waiter.permit.send(Permit::new(self)) {
                // The request does not wait any more. Dropping its permit here would lock the state a second time.
                permit.forget();
                state.running -= 1;
            }
        }
        if state.running == 0 {
            self.0.idle.notify_all();
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.blocks.len() + self.views.len()
    }

    fn queue(&mut self, kind: JobKind) -> &mut VecDeque<Waiter> {
        match kind {
            JobKind::Block => &mut self.blocks,
            JobKind::View => &mut self.views,
        }
    }

    /// Called when all `limit` slots are taken. If the queue of `kind` has less than its half of the slots, refuses the
    /// last request in the other queue. Returns whether a slot is free now.
    fn take_slot_of_other_queue(&mut self, kind: JobKind, limit: usize) -> bool {
        let other = match kind {
            JobKind::Block => JobKind::View,
            JobKind::View => JobKind::Block,
        };
        let has_less = self.queue(kind).len() < limit / 2;
        has_less && self.queue(other).pop_back().is_some()
    }

    /// Removes the request that has waited longest, from the queue whose turn it is.
    fn next_waiter(&mut self) -> Option<Waiter> {
        let views = if self.views_next { !self.views.is_empty() } else { self.blocks.is_empty() };
        self.views_next = !views;
        if views { self.views.pop_front() } else { self.blocks.pop_front() }
    }
}

impl Permit {
    fn new(admission: &Admission) -> Self {
        Self { admission: Some(admission.clone()), since: Instant::now() }
    }

    fn forget(mut self) {
        self.admission = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        const WEIGHT: f64 = 0.1;
        let Some(admission) = self.admission.take() else { return };
        let mut state = admission.lock();
        let held_us = self.since.elapsed().as_secs_f64() * 1e6;
        state.mean_run_us += (held_us - state.mean_run_us) * WEIGHT;
        state.running -= 1;
        admission.admit(&mut state);
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        let queue = state.queue(self.kind);
        // A request that was admitted is not in the queue any more.
        if let Some(index) = queue.iter().position(|waiter| waiter.id == self.id) {
            queue.remove(index);
        }
    }
}
