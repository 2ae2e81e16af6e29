//! The gate before the pool: who may run a job now, who waits, and who is sent away.
//!
//! As many requests are let in at a time as there are workers to run them. The rest waits in two lanes, one for blocks and
//! one for views, which take turns, so that neither kind starves the other. Both lanes together are bounded, and half of
//! the places are each lane's own if it needs them: where one lane fills them all, whoever comes to the other takes the
//! place of the last in it. Nobody waits for longer than was agreed: a request that cannot be served in time is told so
//! while it is still cheap to go elsewhere.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::primitives::{Arc, Mutex, MutexGuard, oneshot, timeout};

/// What kind of job a request is for. Each kind has a lane of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Blocks,
    Views,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// As many wait already as may.
    Full,
    /// Its turn did not come in time.
    Waited,
    /// Nobody will be let in any more.
    Closed,
}

/// The gate. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// How many may wait.
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many may be in at a time.
    capacity: usize,
    inside: usize,
    closed: bool,
    blocks: VecDeque<Waiter>,
    views: VecDeque<Waiter>,
    /// Whether the next turn is the views', if somebody waits in either lane.
    views_next: bool,
    next_id: u64,
    /// Microseconds that a turn takes, as a moving mean.
    turn_us: f64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    turn: oneshot::Sender<Turn>,
}

/// How the gate is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) blocks: usize,
    pub(super) views: usize,
    pub(super) limit: usize,
    pub(super) inside: usize,
}

/// The right to run one job. Dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Turn {
    gate: Option<Gate>,
    since: Instant,
}

/// A place in a lane, given up when dropped.
struct Place<'a> {
    gate: &'a Gate,
    lane: Lane,
    id: u64,
}

impl Gate {
    /// A gate at which `limit` requests may wait, and that lets nobody in before [`Gate::set_capacity`].
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, state: Mutex::default() }))
    }

    /// Waits for a turn, for at most `patience`.
    pub(super) async fn enter(&self, lane: Lane, patience: Duration) -> Result<Turn, Refusal> {
        let (id, turn) = {
            let mut state = self.lock();
            if state.closed {
                return Err(Refusal::Closed);
            }
            if state.inside < state.capacity && state.waiting() == 0 {
                state.inside += 1;
                return Ok(Turn::new(self));
            }
            if state.waiting() >= self.0.limit && !state.make_room(lane, self.0.limit) {
                return Err(Refusal::Full);
            }
            let (sender, turn) = oneshot::channel();
            let id = state.next_id;
            state.next_id += 1;
            state.lane(lane).push_back(Waiter { id, turn: sender });
            (id, turn)
        };
        let _place = Place { gate: self, lane, id };
        match timeout(patience, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            // A sender that has sent nothing is dropped when its place is taken away.
            Ok(Err(_)) if self.lock().closed => Err(Refusal::Closed),
            Ok(Err(_)) => Err(Refusal::Full),
            Err(_) => Err(Refusal::Waited),
        }
    }

    /// Says how many may be in at a time, from now on.
    pub(super) fn set_capacity(&self, capacity: usize) {
        let mut state = self.lock();
        if state.capacity != capacity {
            state.capacity = capacity;
            self.admit(&mut state);
        }
    }

    /// Sends away whoever waits, and whoever comes.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.blocks.clear();
        state.views.clear();
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        let (blocks, views) = (state.blocks.len(), state.views.len());
        Load { blocks, views, limit: self.0.limit, inside: state.inside }
    }

    /// Whether one more request would be sent away.
    pub(super) fn is_full(&self) -> bool {
        self.lock().waiting() >= self.0.limit
    }

    /// Seconds after which a request that was sent away may find room: the time that those who wait now will take.
    pub(super) fn retry_after(&self) -> u64 {
        const LONGEST: f64 = 60.0;
        let state = self.lock();
        let ahead = (state.waiting() + state.inside) as f64;
        let seconds = ahead * state.turn_us / state.capacity.max(1) as f64 / 1e6;
        // Within 1 and 60, so it fits whatever it is.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let whole = seconds.ceil().clamp(1.0, LONGEST) as u64;
        whole
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in whoever there is room for.
    fn admit(&self, state: &mut State) {
        while state.inside < state.capacity
            && let Some(waiter) = state.next()
        {
            state.inside += 1;
            if let Err(turn) = waiter.turn.send(Turn::new(self)) {
                // Nobody waits for it any more. Its drop would come back here.
                turn.forget();
                state.inside -= 1;
            }
        }
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.blocks.len() + self.views.len()
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Waiter> {
        match lane {
            Lane::Blocks => &mut self.blocks,
            Lane::Views => &mut self.views,
        }
    }

    /// Where all `limit` places are taken: sends away the last in the other lane, if that has more than its half and `lane`
    /// less. Whether it did.
    fn make_room(&mut self, lane: Lane, limit: usize) -> bool {
        let other = match lane {
            Lane::Blocks => Lane::Views,
            Lane::Views => Lane::Blocks,
        };
        let has_less = self.lane(lane).len() < limit / 2;
        has_less && self.lane(other).pop_back().is_some()
    }

    /// The one who has waited longest, of the lane whose turn it is.
    fn next(&mut self) -> Option<Waiter> {
        let views = if self.views_next { !self.views.is_empty() } else { self.blocks.is_empty() };
        self.views_next = !views;
        if views { self.views.pop_front() } else { self.blocks.pop_front() }
    }
}

impl Turn {
    fn new(gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), since: Instant::now() }
    }

    fn forget(mut self) {
        self.gate = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        const WEIGHT: f64 = 0.1;
        let Some(gate) = self.gate.take() else { return };
        let mut state = gate.lock();
        let took = self.since.elapsed().as_secs_f64() * 1e6;
        state.turn_us += (took - state.turn_us) * WEIGHT;
        state.inside -= 1;
        gate.admit(&mut state);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        let lane = state.lane(self.lane);
        // Whoever got a turn is not there any more.
        if let Some(index) = lane.iter().position(|waiter| waiter.id == self.id) {
            lane.remove(index);
        }
    }
}
