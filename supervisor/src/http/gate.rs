//! The gate before the pool: who may run a job now, who waits, and who is sent away.
//!
//! As many requests are let in at a time as there are workers to run them. The rest waits in two lanes, one for blocks and
//! one for views, which take turns, so that neither kind starves the other. Both lanes together are bounded, and half of
//! the places are each lane's own if it needs them: where one lane fills them all, whoever comes to the other takes the
//! place of the last in it. Nobody waits for longer than was agreed: a request that cannot be served in time is told so
//! while it is still cheap to go elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

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
        match tokio::time::timeout(patience, turn).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A gate with room for one, which is in.
    async fn taken(limit: usize) -> (Gate, Turn) {
        let gate = Gate::new(limit);
        gate.set_capacity(1);
        let turn = gate.enter(Lane::Blocks, LONG).await.unwrap();
        (gate, turn)
    }

    #[tokio::test]
    async fn lanes_take_turns() {
        let (gate, turn) = taken(100).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        let lanes = [Lane::Blocks, Lane::Blocks, Lane::Blocks, Lane::Views, Lane::Views];
        for (index, lane) in lanes.into_iter().enumerate() {
            let (other, order) = (gate.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _turn = other.enter(lane, LONG).await.unwrap();
                order.lock().unwrap().push(lane);
            }));
            while gate.load().blocks + gate.load().views <= index {
                tokio::task::yield_now().await;
            }
        }
        drop(turn);
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap();
        let views: Vec<_> = order.iter().map(|lane| *lane == Lane::Views).collect();
        assert!(
            views == [true, false, true, false, false] || views == [false, true, false, true, false],
            "{views:?}"
        );
        assert_eq!(gate.load(), Load { blocks: 0, views: 0, limit: 100, inside: 0 });
    }

    #[tokio::test]
    async fn nobody_waits_for_longer_than_agreed_and_no_more_wait_than_may() {
        let (gate, _turn) = taken(1).await;
        let other = gate.clone();
        let waits =
            tokio::spawn(async move { other.enter(Lane::Views, Duration::from_millis(300)).await.map(drop) });
        while gate.load().views == 0 {
            tokio::task::yield_now().await;
        }
        assert!(gate.is_full());
        assert_eq!(gate.enter(Lane::Blocks, LONG).await.map(drop), Err(Refusal::Full));
        assert_eq!(waits.await.unwrap(), Err(Refusal::Waited));
        assert_eq!(gate.load().views, 0, "its place is free again");
    }

    #[tokio::test]
    async fn half_of_the_places_are_each_lanes_own() {
        let (gate, turn) = taken(4).await;
        let mut blocks = Vec::new();
        for count in 1..=4 {
            let other = gate.clone();
            blocks.push(tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await.map(drop) }));
            while gate.load().blocks < count {
                tokio::task::yield_now().await;
            }
        }
        let mut views = Vec::new();
        for count in 1..=2 {
            let other = gate.clone();
            views.push(tokio::spawn(async move { other.enter(Lane::Views, LONG).await.map(drop) }));
            while gate.load().views < count {
                tokio::task::yield_now().await;
            }
            // The last in the longer lane has gone.
            assert_eq!(blocks.pop().unwrap().await.unwrap(), Err(Refusal::Full));
        }
        for lane in [Lane::Blocks, Lane::Views] {
            assert_eq!(gate.enter(lane, LONG).await.map(drop), Err(Refusal::Full), "each has its half");
        }
        drop(turn);
        for waits in blocks.into_iter().chain(views) {
            assert_eq!(waits.await.unwrap(), Ok(()));
        }
        assert_eq!(gate.load().inside, 0);
    }

    #[tokio::test]
    async fn a_request_that_goes_away_gives_up_its_place_and_its_turn() {
        let (gate, turn) = taken(10).await;
        let other = gate.clone();
        let gone = tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await.map(drop) });
        while gate.load().blocks == 0 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(gate.load().blocks, 0);
        drop(turn);
        assert_eq!(gate.load().inside, 0);
        gate.enter(Lane::Views, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn with_more_capacity_those_who_wait_are_let_in() {
        let gate = Gate::new(10);
        let other = gate.clone();
        let waits = tokio::spawn(async move { other.enter(Lane::Blocks, LONG).await });
        while gate.load().blocks == 0 {
            tokio::task::yield_now().await;
        }
        gate.set_capacity(1);
        let turn = waits.await.unwrap().unwrap();
        gate.set_capacity(0);
        drop(turn);
        assert_eq!(gate.enter(Lane::Blocks, Duration::ZERO).await.map(drop), Err(Refusal::Waited));
        assert!((1..=60).contains(&gate.retry_after()));
    }

    #[tokio::test]
    async fn a_gate_that_is_closed_sends_away_whoever_waits_and_whoever_comes() {
        let gate = Gate::new(10);
        let other = gate.clone();
        let waits = tokio::spawn(async move { other.enter(Lane::Views, LONG).await.map(drop) });
        while gate.load().views == 0 {
            tokio::task::yield_now().await;
        }
        gate.close();
        assert_eq!(waits.await.unwrap(), Err(Refusal::Closed));
        assert_eq!(gate.enter(Lane::Blocks, LONG).await.map(drop), Err(Refusal::Closed));
    }
}
