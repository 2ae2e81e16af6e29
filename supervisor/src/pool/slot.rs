//! The slots of a pool: starting them all, looking at them, and stopping them all.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::frame;
use cofferdam_protocol::message::{Hello, Request};
use cofferdam_protocol::refused;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::PoolError;
use super::builder::{Progress, StartProgress};
use super::call::Desk;
use super::death::KillReason;
use super::health::DeathCounts;
use super::keeper::{Common, Keeper};
use super::settings::Settings;
use super::worker::{Worker, after};
use crate::sync::lock;

/// Every slot of a pool.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Mutex<Vec<Arc<Slot>>>,
    /// Deaths in slots that are no more. Locked within `slots`.
    past_deaths: Mutex<DeathCounts>,
    common: Arc<Common>,
    /// Empty once all have ended.
    threads: Mutex<Vec<SlotThread>>,
    /// None once they are to stop.
    stop: Mutex<Option<Sender<()>>>,
    stopped: Receiver<()>,
    next_index: AtomicUsize,
}

/// A thread of the pool, and the slot that it keeps, if that is what it does.
#[derive(Debug)]
struct SlotThread {
    slot: Option<usize>,
    handle: JoinHandle<()>,
}

/// What is known of one slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) view: Mutex<View>,
    /// Its worker was told to end, and no other is to follow.
    pub(super) retired: AtomicBool,
}

/// What is known of one slot at this moment.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The worker that is starting or ready.
    pub(super) worker: Option<Arc<Worker>>,
    /// What it said, once it is ready.
    pub(super) hello: Option<Hello>,
    /// Deaths that nobody asked for.
    pub(super) deaths: DeathCounts,
    pub(super) last_death: Option<String>,
    /// Given up: it failed more often than the policy allows.
    pub(super) failed: bool,
}

/// Why the first start of a pool failed.
#[derive(Debug)]
pub(super) enum StartFailure {
    ArtifactRefused(String),
    NotCommitted(String),
    Timeout(Duration),
    Cancelled,
    Other(String),
}

impl From<StartFailure> for PoolError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::NotCommitted(detail) => Self::NotCommitted(detail),
            StartFailure::Timeout(after) => Self::StartTimeout(after),
            StartFailure::Cancelled => Self::Cancelled,
            StartFailure::ArtifactRefused(detail) | StartFailure::Other(detail) => Self::Start(detail),
        }
    }
}

impl Slots {
    /// Starts `count` slots and waits until each has a ready worker; ends them all if one fails.
    pub(super) fn start(
        settings: &Arc<Settings>,
        count: usize,
        artifact: OwnedFd,
        desk: &Arc<Desk>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, StartFailure> {
        let (stop, stopped) = bounded(0);
        let common = Common::new(Arc::clone(settings), artifact, Arc::clone(desk), count);
        let slots = Self {
            slots: Mutex::default(),
            past_deaths: Mutex::default(),
            common: Arc::new(common),
            threads: Mutex::default(),
            stop: Mutex::new(Some(stop)),
            stopped,
            next_index: AtomicUsize::new(0),
        };
        match slots.start_sampler().and_then(|()| slots.start_keepers(settings, count, progress)) {
            Ok(()) => Ok(slots),
            Err(failure) => {
                slots.stop(desk, Instant::now());
                Err(failure)
            }
        }
    }

    /// Starts the thread that watches the kernel's count of out-of-memory kills.
    fn start_sampler(&self) -> Result<(), StartFailure> {
        let (common, stopped) = (Arc::clone(&self.common), self.stopped.clone());
        let handle = thread::Builder::new()
            .name("cofferdam-oom".to_owned())
            .spawn(move || common.ledger.sample(&stopped))
            .map_err(|error| {
                StartFailure::Other(format!("no thread for the count of kills: {}", refused("clone3")(error)))
            })?;
        lock(&self.threads).push(SlotThread { slot: None, handle });
        Ok(())
    }

    /// Starts `count` slots more, and waits until each has a ready worker.
    fn start_keepers(
        &self,
        settings: &Settings,
        count: usize,
        progress: &mut Progress<'_>,
    ) -> Result<(), StartFailure> {
        let (events, started) = unbounded();
        for _ in 0..count {
            let index = self.next_index.fetch_add(1, Ordering::Relaxed);
            let slot = Slot { index, view: Mutex::default(), retired: AtomicBool::new(false) };
            let slot = Arc::new(slot);
            lock(&self.slots).push(Arc::clone(&slot));
            let common = Arc::clone(&self.common);
            let keeper = Keeper::new(common, slot, self.stopped.clone(), events.clone());
            let handle = thread::Builder::new()
                .name(format!("cofferdam-slot-{index}"))
                .spawn(move || keeper.run())
                .map_err(|error| {
                    StartFailure::Other(format!("no thread for a slot: {}", refused("clone3")(error)))
                })?;
            lock(&self.threads).push(SlotThread { slot: Some(index), handle });
        }
        self.wait_until_ready(settings, count, &started, progress)
    }

    /// Starts one slot more, and waits until it has a ready worker.
    pub(super) fn add(&self, settings: &Settings, progress: &mut Progress<'_>) -> Result<(), StartFailure> {
        self.common.one_more();
        self.start_keepers(settings, 1, progress)
    }

    /// Ends one worker that is idle now, or gets so within `patience`, and its slot with it; whether there was one.
    /// Returns when its memory is free.
    pub(super) fn retire(&self, desk: &Desk, patience: Duration) -> bool {
        const LAST_WORDS: Duration = Duration::from_secs(5);
        let Some(mut idle) = desk.take_idle_within(patience) else { return false };
        let (worker, index) = (Arc::clone(&idle.worker), idle.worker.slot);
        let Some(slot) = self.all().into_iter().find(|slot| slot.index == index) else { return false };
        slot.retired.store(true, Ordering::Release);
        // If it cannot be told, the closed pipe tells it.
        let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        drop(idle);
        let deadline = after(LAST_WORDS);
        let is_finished = || {
            let threads = lock(&self.threads);
            threads.iter().all(|thread| thread.slot != Some(index) || thread.handle.is_finished())
        };
        while !is_finished() {
            if Instant::now() >= deadline {
                worker.kill(KillReason::Stopping);
            }
            thread::sleep(Duration::from_millis(1));
        }
        {
            let mut slots = lock(&self.slots);
            slots.retain(|other| other.index != index);
            lock(&self.past_deaths).merge(&lock(&slot.view).deaths);
        }
        lock(&self.threads).retain(|thread| thread.slot != Some(index));
        self.common.one_less();
        true
    }

    /// All slots at this moment, and the deaths in those that are no more: together each death once.
    pub(super) fn all_and_past(&self) -> (Vec<Arc<Slot>>, DeathCounts) {
        let slots = lock(&self.slots);
        (slots.clone(), lock(&self.past_deaths).clone())
    }

    /// All slots at this moment.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.slots).clone()
    }

    fn wait_until_ready(
        &self,
        settings: &Settings,
        count: usize,
        started: &Receiver<Result<(), StartFailure>>,
        progress: &mut Progress<'_>,
    ) -> Result<(), StartFailure> {
        const TICK: Duration = Duration::from_millis(50);
        let mut ready = 0;
        while ready < count {
            match started.recv_timeout(TICK) {
                Ok(result) => {
                    result?;
                    ready += 1;
                }
                Err(_) if progress(self.start_progress(settings)).is_break() => {
                    return Err(StartFailure::Cancelled);
                }
                Err(_) => {}
            }
        }
        // The last word, not a question.
        let _ = progress(self.start_progress(settings));
        Ok(())
    }

    fn start_progress(&self, settings: &Settings) -> StartProgress {
        let committed = |slot: &Arc<Slot>| {
            let view = lock(&slot.view);
            view.worker.as_ref().map_or(0, |worker| worker.status.committed().min(settings.memory.bytes))
        };
        let slots = self.all();
        StartProgress {
            committed_bytes: slots.iter().map(committed).sum(),
            total_bytes: settings.memory.bytes.saturating_mul(slots.len() as u64),
        }
    }

    /// Ends every worker: idle ones are told and have until `deadline`, the rest is killed. Returns when every
    /// process has been reaped and every thread has ended.
    pub(super) fn stop(&self, desk: &Desk, deadline: Instant) {
        // Time for a worker that was told to stop to finish its reset; what is not gone by then is killed.
        const LAST_WORDS: Duration = Duration::from_millis(500);
        let mut threads = lock(&self.threads);
        *lock(&self.stop) = None;
        for mut idle in desk.take_idle_unless(|_| false) {
            // If it cannot be told, the closed pipe tells it.
            let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        }
        let deadline = deadline.max(Instant::now() + LAST_WORDS);
        while threads.iter().any(|thread| !thread.handle.is_finished()) {
            // A token may have been put back, or a worker become ready, after the first look.
            drop(desk.take_idle_unless(|_| false));
            if Instant::now() >= deadline || self.all().iter().all(|slot| !slot.is_stopping_by_itself()) {
                self.kill_all();
            }
            thread::sleep(Duration::from_millis(1));
        }
        desk.close();
        for thread in threads.drain(..) {
            // A panic of a slot's thread was printed by its hook.
            let _ = thread.handle.join();
        }
    }

    /// Whether [`Slots::stop`] is done.
    pub(super) fn are_stopped(&self) -> bool {
        lock(&self.threads).is_empty()
    }

    fn kill_all(&self) {
        for slot in self.all() {
            if let Some(worker) = &lock(&slot.view).worker {
                worker.kill(KillReason::Stopping);
            }
        }
    }
}

impl Slot {
    /// Whether its worker can be expected to end when its pipe is closed: one that is committing cannot hear it.
    fn is_stopping_by_itself(&self) -> bool {
        let view = lock(&self.view);
        view.hello.is_some() && view.worker.as_ref().is_some_and(|worker| worker.is_alive())
    }
}
