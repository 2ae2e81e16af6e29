//! Which slots a pool has, and whether it may open more. One lock guards both, and a pool never returns to an earlier stage.
//!
//! A slot is opened, counted as alive, given up and removed under the same lock under which the pool stops. So no slot is opened
//! in a pool that stops, and the dispatcher is closed exactly while no slot is alive.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use cofferdam_protocol::syscall_error;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::death::DeathCounts;
use super::dispatcher::Dispatcher;
use super::slot::{Slot, StartFailure};
use super::threads::PoolThread;
use cofferdam_base::sync::lock;

/// The stage of a pool's life. A pool never returns to an earlier stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Slots may be opened.
    Open,
    /// Every slot is told to end.
    Stopping,
    /// Every slot has ended, or was abandoned.
    Stopped,
}

/// The slots of one pool.
#[derive(Debug)]
pub(super) struct Register {
    state: Mutex<State>,
    /// The stage became [`Stage::Stopped`].
    stopped: Condvar,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    entries: Vec<Entry>,
    next_index: usize,
    /// Deaths in slots that were removed.
    past_deaths: DeathCounts,
    /// None once the pool stops.
    stop: Option<Sender<()>>,
    stop_event: Receiver<()>,
    /// Threads that have no slot.
    helpers: Vec<PoolThread>,
    /// Threads of slots whose worker lived on after SIGKILL.
    abandoned: Vec<PoolThread>,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    /// None once the thread was joined or abandoned.
    thread: Option<PoolThread>,
}

impl Entry {
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(PoolThread::has_ended)
    }
}

impl State {
    fn is_any_alive(&self) -> bool {
        self.entries.iter().any(|entry| entry.slot.is_alive())
    }

    /// Joins a thread that has ended, and abandons one that has not.
    fn release(&mut self, thread: Option<PoolThread>) {
        let Some(thread) = thread else { return };
        if thread.has_ended() {
            thread.join();
        } else {
            self.abandoned.push(thread);
        }
    }

    /// Whether every worker is gone, once the pool has stopped. None before the pool has stopped.
    fn result(&self) -> Option<bool> {
        (self.stage == Stage::Stopped).then(|| self.abandoned.iter().all(PoolThread::has_ended))
    }
}

impl Register {
    pub(super) fn new() -> Self {
        let (stop, stop_event) = bounded(0);
        let state = State {
            stage: Stage::Open,
            entries: Vec::new(),
            next_index: 0,
            past_deaths: DeathCounts::default(),
            stop: Some(stop),
            stop_event,
            helpers: Vec::new(),
            abandoned: Vec::new(),
        };
        Self { state: Mutex::new(state), stopped: Condvar::new() }
    }

    /// Whether slots may be opened.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).stage == Stage::Open
    }

    /// Opens a slot, whose thread `spawn` starts. None if there are `most` slots already. The thread has to end when the
    /// receiver that it is given is disconnected.
    pub(super) fn open(
        &self,
        most: usize,
        dispatcher: &Dispatcher,
        spawn: impl FnOnce(&Arc<Slot>, Receiver<()>) -> io::Result<PoolThread>,
    ) -> Result<Option<Arc<Slot>>, StartFailure> {
        let mut state = lock(&self.state);
        if state.stage != Stage::Open {
            return Err(StartFailure::Stopping);
        }
        if state.entries.len() >= most {
            return Ok(None);
        }
        let slot = Arc::new(Slot::new(state.next_index));
        state.next_index += 1;
        // The thread is started while this function holds the lock. The thread needs the lock to give its slot up, so it cannot
        // do that before the slot is among the entries.
        let thread = spawn(&slot, state.stop_event.clone()).map_err(|error| {
            let error = syscall_error("clone3")(error);
            StartFailure::Other(format!("the thread of a slot cannot be started: {error}"))
        })?;
        let is_first = !state.is_any_alive();
        state.entries.push(Entry { slot: Arc::clone(&slot), thread: Some(thread) });
        if is_first {
            dispatcher.reopen();
        }
        Ok(Some(slot))
    }

    /// Adds a thread that has no slot. The thread has to end when the receiver that it is given is disconnected.
    pub(super) fn add_helper(
        &self,
        spawn: impl FnOnce(Receiver<()>) -> io::Result<PoolThread>,
    ) -> io::Result<()> {
        let mut state = lock(&self.state);
        let thread = spawn(state.stop_event.clone())?;
        state.helpers.push(thread);
        Ok(())
    }

    /// Takes `slot` out of service: it will have no worker any more. With the last slot that is alive, the dispatcher is closed.
    pub(super) fn give_up(&self, slot: &Slot, dispatcher: &Dispatcher) {
        let state = lock(&self.state);
        slot.fail();
        if !state.is_any_alive() {
            dispatcher.close();
        }
    }

    /// Removes `slot`. Its deaths are still counted. Returns whether its thread has ended.
    pub(super) fn remove(&self, slot: &Slot, dispatcher: &Dispatcher) -> bool {
        let mut state = lock(&self.state);
        let Some(at) = state.entries.iter().position(|entry| entry.slot.index == slot.index) else {
            return true;
        };
        let entry = state.entries.remove(at);
        let has_ended = entry.has_ended();
        state.past_deaths.merge(&lock(&entry.slot.view).deaths);
        state.release(entry.thread);
        if !state.is_any_alive() {
            dispatcher.close();
        }
        has_ended
    }

    /// Waits until the threads of `slots` have ended, or until `deadline`. Returns whether all have ended.
    pub(super) fn wait_for_ends(&self, slots: &[Arc<Slot>], deadline: Instant) -> bool {
        self.wait_for(deadline, |state| {
            let is_meant = |entry: &&Entry| slots.iter().any(|slot| slot.index == entry.slot.index);
            let entries = state.entries.iter().filter(is_meant);
            entries.filter_map(|entry| entry.thread.as_ref()).map(PoolThread::end_event).collect()
        })
    }

    /// Waits until every thread has ended, or until `deadline`. Returns whether every one has ended.
    pub(super) fn wait_for_all(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |state| {
            let slots = state.entries.iter().filter_map(|entry| entry.thread.as_ref());
            slots.chain(&state.helpers).map(PoolThread::end_event).collect()
        })
    }

    fn wait_for(&self, deadline: Instant, events: impl FnOnce(&State) -> Vec<Receiver<()>>) -> bool {
        // The lock is not held while this waits: the threads need it to end.
        let events = events(&lock(&self.state));
        events.iter().all(|ended| ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected))
    }

    /// All slots at this moment.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.state).entries.iter().map(|entry| Arc::clone(&entry.slot)).collect()
    }

    /// All slots at this moment, and the counts of deaths in slots that were removed. Together they count each death once.
    pub(super) fn all_and_past(&self) -> (Vec<Arc<Slot>>, DeathCounts) {
        let state = lock(&self.state);
        let slots = state.entries.iter().map(|entry| Arc::clone(&entry.slot)).collect();
        (slots, state.past_deaths.clone())
    }

    /// Opens no slot from now on, and tells every thread to end.
    pub(super) fn begin_stop(&self) {
        let mut state = lock(&self.state);
        state.stage = state.stage.max(Stage::Stopping);
        state.stop = None;
    }

    /// Joins every thread that has ended, and abandons the others. Returns the slots of the abandoned threads.
    pub(super) fn finish_stop(&self) -> Vec<Arc<Slot>> {
        let mut state = lock(&self.state);
        let living: Vec<_> = state.entries.iter().filter(|entry| !entry.has_ended()).collect();
        let living = living.iter().map(|entry| Arc::clone(&entry.slot)).collect();
        let mut threads: Vec<_> = state.entries.iter_mut().filter_map(|entry| entry.thread.take()).collect();
        threads.append(&mut state.helpers);
        threads.into_iter().for_each(|thread| state.release(Some(thread)));
        state.stage = Stage::Stopped;
        self.stopped.notify_all();
        living
    }

    /// Whether every worker is gone, once the pool has stopped. None before the pool has stopped.
    pub(super) fn stopped(&self) -> Option<bool> {
        lock(&self.state).result()
    }

    /// Waits until the pool has stopped. Returns whether every worker is gone.
    pub(super) fn wait_until_stopped(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            match state.result() {
                Some(result) => return result,
                None => state = self.stopped.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::layers::LayerArena;
    use super::super::result_buffer::ResultBuffer;
    use super::super::settings::Settings;
    use super::*;

    fn dispatcher() -> Dispatcher {
        let layers = Arc::new(LayerArena::create(0).unwrap());
        Dispatcher::new(Arc::new(Settings::default()), layers, Arc::new(ResultBuffer::default())).0
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<PoolThread> {
        PoolThread::spawn("test".to_owned(), work)
    }

    /// Opens a slot whose thread ends with the pool.
    fn open(
        register: &Register,
        dispatcher: &Dispatcher,
        most: usize,
    ) -> Result<Option<Arc<Slot>>, StartFailure> {
        register.open(most, dispatcher, |_, stopped| spawn(move || _ = stopped.recv()))
    }

    #[test]
    fn a_slot_whose_thread_cannot_be_started_is_not_counted() {
        let (register, dispatcher) = (Register::new(), dispatcher());
        let slot = open(&register, &dispatcher, 2).unwrap().unwrap();
        let refused = register.open(2, &dispatcher, |_, _| Err(io::ErrorKind::WouldBlock.into()));
        assert!(matches!(refused, Err(StartFailure::Other(_))), "{refused:?}");
        assert_eq!(register.all().len(), 1);
        // If it were counted as alive, callers would wait for its worker for ever.
        register.give_up(&slot, &dispatcher);
        assert!(dispatcher.is_closed());
        register.begin_stop();
    }

    #[test]
    fn the_dispatcher_is_closed_exactly_while_no_slot_is_alive() {
        let (register, dispatcher) = (Register::new(), dispatcher());
        let first = open(&register, &dispatcher, 9).unwrap().unwrap();
        let second = open(&register, &dispatcher, 9).unwrap().unwrap();
        register.give_up(&first, &dispatcher);
        assert!(!dispatcher.is_closed());
        second.retired.store(true, std::sync::atomic::Ordering::Release);
        register.remove(&second, &dispatcher);
        assert!(dispatcher.is_closed());
        open(&register, &dispatcher, 9).unwrap().unwrap();
        assert!(!dispatcher.is_closed());
        register.begin_stop();
    }

    #[test]
    fn there_are_never_more_than_may_be_and_none_once_it_stops() {
        let (register, dispatcher) = (Register::new(), dispatcher());
        assert!(open(&register, &dispatcher, 1).unwrap().is_some());
        assert!(open(&register, &dispatcher, 1).unwrap().is_none());
        assert_eq!(register.stopped(), None);
        register.begin_stop();
        assert!(matches!(open(&register, &dispatcher, 2), Err(StartFailure::Stopping)));
        assert!(register.wait_for_all(far()));
        assert!(register.finish_stop().is_empty());
        assert_eq!((register.stopped(), register.wait_until_stopped()), (Some(true), true));
        // What comes late does not open it again.
        register.begin_stop();
        assert!(matches!(open(&register, &dispatcher, 2), Err(StartFailure::Stopping)));
    }

    #[test]
    fn a_thread_that_does_not_end_is_let_go_of_and_seen_until_it_does() {
        let (register, dispatcher) = (Register::new(), dispatcher());
        let (let_go, held) = bounded::<()>(0);
        let opened = register.open(1, &dispatcher, |_, _| spawn(move || _ = held.recv()));
        let slot = opened.unwrap().unwrap();
        register.begin_stop();
        assert!(!register.wait_for_ends(&[Arc::clone(&slot)], Instant::now()));
        let left = register.finish_stop();
        assert_eq!(left.iter().map(|slot| slot.index).collect::<Vec<_>>(), [slot.index]);
        assert_eq!(register.stopped(), Some(false));
        drop(let_go);
        while register.stopped() == Some(false) {
            thread::yield_now();
        }
    }
}
