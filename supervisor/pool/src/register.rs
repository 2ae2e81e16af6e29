//! Which slots a pool has, and whether it may open more: one lock, and a lifecycle that goes one way.
//!
//! A slot is opened, counted as alive, given up and removed under the same lock under which the pool stops, so a slot is never
//! opened in a pool that stops, and the desk is closed exactly while no slot is alive.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cofferdam_protocol::refused;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::call::Desk;
use super::health::DeathCounts;
use super::slot::{Slot, StartFailure};
use cofferdam_base::sync::lock;

/// How far a pool's slots are in their life. A stage is never left for an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Slots may be opened.
    Open,
    /// Every slot is told to end.
    Stopping,
    /// Every slot has ended, or was left to end by itself.
    Stopped,
}

/// The slots of one pool.
#[derive(Debug)]
pub(super) struct Register(Mutex<State>);

#[derive(Debug)]
struct State {
    stage: Stage,
    entries: Vec<Entry>,
    next_index: usize,
    /// Deaths in slots that were removed.
    past_deaths: DeathCounts,
    /// None once the pool stops.
    stop: Option<Sender<()>>,
    stopped: Receiver<()>,
    /// Threads that keep no slot.
    helpers: Vec<JoinHandle<()>>,
    /// Threads of slots whose worker lived on after SIGKILL.
    abandoned: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    /// None once it has been joined or abandoned.
    thread: Option<JoinHandle<()>>,
}

impl Entry {
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl State {
    fn is_any_alive(&self) -> bool {
        self.entries.iter().any(|entry| entry.slot.is_alive())
    }

    /// Joins a thread that has ended, and lets go of one that has not.
    fn release(&mut self, thread: Option<JoinHandle<()>>) {
        let Some(thread) = thread else { return };
        if thread.is_finished() {
            // A panic of a slot's thread was printed by its hook.
            let _ = thread.join();
        } else {
            self.abandoned.push(thread);
        }
    }
}

impl Register {
    pub(super) fn new() -> Self {
        let (stop, stopped) = bounded(0);
        Self(Mutex::new(State {
            stage: Stage::Open,
            entries: Vec::new(),
            next_index: 0,
            past_deaths: DeathCounts::default(),
            stop: Some(stop),
            stopped,
            helpers: Vec::new(),
            abandoned: Vec::new(),
        }))
    }

    /// Whether slots may be opened.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.0).stage == Stage::Open
    }

    /// Opens a slot, whose thread `spawn` starts; none if there are `most` slots already. The thread has to end when the
    /// receiver that it is given is disconnected.
    pub(super) fn open(
        &self,
        most: usize,
        desk: &Desk,
        spawn: impl FnOnce(&Arc<Slot>, Receiver<()>) -> io::Result<JoinHandle<()>>,
    ) -> Result<Option<Arc<Slot>>, StartFailure> {
        let mut state = lock(&self.0);
        if state.stage != Stage::Open {
            return Err(StartFailure::Stopping);
        }
        if state.entries.len() >= most {
            return Ok(None);
        }
        let slot = Arc::new(Slot::new(state.next_index));
        state.next_index += 1;
        // Within the lock, which the thread needs to give its slot up: it cannot do so before the slot is there.
        let thread = spawn(&slot, state.stopped.clone()).map_err(|error| {
            StartFailure::Other(format!("no thread for a slot: {}", refused("clone3")(error)))
        })?;
        let is_first = !state.is_any_alive();
        state.entries.push(Entry { slot: Arc::clone(&slot), thread: Some(thread) });
        if is_first {
            desk.reopen();
        }
        Ok(Some(slot))
    }

    /// Adds a thread that keeps no slot. It has to end when the receiver that it is given is disconnected.
    pub(super) fn add_helper(
        &self,
        spawn: impl FnOnce(Receiver<()>) -> io::Result<JoinHandle<()>>,
    ) -> io::Result<()> {
        let mut state = lock(&self.0);
        let thread = spawn(state.stopped.clone())?;
        state.helpers.push(thread);
        Ok(())
    }

    /// Takes `slot` out of service: no worker of it will come any more. With the last one alive, the desk is closed.
    pub(super) fn give_up(&self, slot: &Slot, desk: &Desk) {
        let state = lock(&self.0);
        slot.fail();
        if !state.is_any_alive() {
            desk.close();
        }
    }

    /// Removes `slot`, whose deaths are still counted; whether its thread has ended.
    pub(super) fn remove(&self, slot: &Slot, desk: &Desk) -> bool {
        let mut state = lock(&self.0);
        let Some(at) = state.entries.iter().position(|entry| entry.slot.index == slot.index) else {
            return true;
        };
        let entry = state.entries.remove(at);
        let has_ended = entry.has_ended();
        state.past_deaths.merge(&lock(&entry.slot.view).deaths);
        state.release(entry.thread);
        if !state.is_any_alive() {
            desk.close();
        }
        has_ended
    }

    /// Whether the thread of `slot` has ended.
    pub(super) fn has_ended(&self, slot: &Slot) -> bool {
        let state = lock(&self.0);
        state.entries.iter().all(|entry| entry.slot.index != slot.index || entry.has_ended())
    }

    /// All slots at this moment.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.0).entries.iter().map(|entry| Arc::clone(&entry.slot)).collect()
    }

    /// All slots at this moment, and the deaths in those that were removed: together each death once.
    pub(super) fn all_and_past(&self) -> (Vec<Arc<Slot>>, DeathCounts) {
        let state = lock(&self.0);
        let slots = state.entries.iter().map(|entry| Arc::clone(&entry.slot)).collect();
        (slots, state.past_deaths.clone())
    }

    /// Opens no slot from now on, and tells every thread to end.
    pub(super) fn begin_stop(&self) {
        let mut state = lock(&self.0);
        state.stage = state.stage.max(Stage::Stopping);
        state.stop = None;
    }

    /// Whether every thread has ended.
    pub(super) fn have_all_ended(&self) -> bool {
        let state = lock(&self.0);
        state.entries.iter().all(Entry::has_ended) && state.helpers.iter().all(JoinHandle::is_finished)
    }

    /// Joins every thread that has ended and lets go of the rest; the slots of those that have not.
    pub(super) fn finish_stop(&self) -> Vec<Arc<Slot>> {
        let mut state = lock(&self.0);
        let living: Vec<_> = state.entries.iter().filter(|entry| !entry.has_ended()).collect();
        let living = living.iter().map(|entry| Arc::clone(&entry.slot)).collect();
        let mut threads: Vec<_> = state.entries.iter_mut().filter_map(|entry| entry.thread.take()).collect();
        threads.append(&mut state.helpers);
        threads.into_iter().for_each(|thread| state.release(Some(thread)));
        state.stage = Stage::Stopped;
        living
    }

    /// Whether the pool has stopped, and how: with every worker gone, or not.
    pub(super) fn stopped(&self) -> Option<bool> {
        let state = lock(&self.0);
        (state.stage == Stage::Stopped).then(|| state.abandoned.iter().all(JoinHandle::is_finished))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::Pool;
    use super::super::layers::LayerArena;
    use super::super::room::Room;
    use super::*;

    fn desk() -> Desk {
        let settings = Pool::builder(Vec::new()).into_settings();
        Desk::new(Arc::new(settings), Arc::new(LayerArena::create(0).unwrap()), Arc::new(Room::default()))
    }

    /// Opens a slot whose thread ends with the pool.
    fn open(register: &Register, desk: &Desk, most: usize) -> Result<Option<Arc<Slot>>, StartFailure> {
        register.open(most, desk, |_, stopped| thread::Builder::new().spawn(move || _ = stopped.recv()))
    }

    #[test]
    fn a_slot_whose_thread_cannot_be_started_is_not_counted() {
        let (register, desk) = (Register::new(), desk());
        let slot = open(&register, &desk, 2).unwrap().unwrap();
        let refused = register.open(2, &desk, |_, _| Err(io::ErrorKind::WouldBlock.into()));
        assert!(matches!(refused, Err(StartFailure::Other(_))), "{refused:?}");
        assert_eq!(register.all().len(), 1);
        // Were it counted as alive, callers would wait for its worker for ever.
        register.give_up(&slot, &desk);
        assert!(desk.is_closed());
        register.begin_stop();
    }

    #[test]
    fn the_desk_is_closed_exactly_while_no_slot_is_alive() {
        let (register, desk) = (Register::new(), desk());
        let first = open(&register, &desk, 9).unwrap().unwrap();
        let second = open(&register, &desk, 9).unwrap().unwrap();
        register.give_up(&first, &desk);
        assert!(!desk.is_closed());
        second.retired.store(true, std::sync::atomic::Ordering::Release);
        register.remove(&second, &desk);
        assert!(desk.is_closed());
        open(&register, &desk, 9).unwrap().unwrap();
        assert!(!desk.is_closed());
        register.begin_stop();
    }

    #[test]
    fn there_are_never_more_than_may_be_and_none_once_it_stops() {
        let (register, desk) = (Register::new(), desk());
        assert!(open(&register, &desk, 1).unwrap().is_some());
        assert!(open(&register, &desk, 1).unwrap().is_none());
        assert_eq!(register.stopped(), None);
        register.begin_stop();
        assert!(matches!(open(&register, &desk, 2), Err(StartFailure::Stopping)));
        while !register.have_all_ended() {
            thread::yield_now();
        }
        assert!(register.finish_stop().is_empty());
        assert_eq!(register.stopped(), Some(true));
        // What comes late does not open it again.
        register.begin_stop();
        assert!(matches!(open(&register, &desk, 2), Err(StartFailure::Stopping)));
    }

    #[test]
    fn a_thread_that_does_not_end_is_let_go_of_and_seen_until_it_does() {
        let (register, desk) = (Register::new(), desk());
        let (let_go, held) = bounded::<()>(0);
        let opened = register.open(1, &desk, |_, _| thread::Builder::new().spawn(move || _ = held.recv()));
        let slot = opened.unwrap().unwrap();
        register.begin_stop();
        let left = register.finish_stop();
        assert_eq!(left.iter().map(|slot| slot.index).collect::<Vec<_>>(), [slot.index]);
        assert_eq!(register.stopped(), Some(false));
        drop(let_go);
        while register.stopped() == Some(false) {
            thread::yield_now();
        }
    }
}
