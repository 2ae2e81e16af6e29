//! The slots of a pool: starting them all, looking at them, and stopping them all.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::frame;
use cofferdam_protocol::message::{Hello, Request};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::PoolError;
use super::builder::{Progress, Settings, StartProgress};
use super::call::Desk;
use super::death::KillReason;
use super::keeper::{Common, Keeper};
use super::worker::{Worker, lock};

/// Every slot of a pool.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Arc<Slot>>,
    /// Empty once all have ended.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// None once they are to stop.
    stop: Mutex<Option<Sender<()>>>,
}

/// What is known of one slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) index: usize,
    pub(super) view: Mutex<View>,
}

/// What is known of one slot at this moment.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The worker that is starting or ready.
    pub(super) worker: Option<Arc<Worker>>,
    /// What it said, once it is ready.
    pub(super) hello: Option<Hello>,
    /// Deaths that nobody asked for.
    pub(super) deaths: u64,
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
    /// Starts every slot and waits until each has a ready worker; ends them all if one fails.
    pub(super) fn start(
        settings: &Arc<Settings>,
        artifact: OwnedFd,
        desk: &Arc<Desk>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, StartFailure> {
        let (stop, stopped) = bounded(0);
        let (events, started) = unbounded();
        let count = settings.workers + settings.spares;
        let common = Common::new(Arc::clone(settings), artifact, Arc::clone(desk), count);
        let common = Arc::new(common);
        let mut slots = Self { slots: Vec::new(), threads: Mutex::default(), stop: Mutex::new(Some(stop)) };
        let result = slots
            .start_sampler(&common, &stopped)
            .and_then(|()| slots.start_keepers(count, &common, &stopped, &events))
            .and_then(|()| slots.wait_until_ready(settings, &started, progress));
        match result {
            Ok(()) => Ok(slots),
            Err(failure) => {
                slots.stop(desk, Instant::now());
                Err(failure)
            }
        }
    }

    /// Starts the thread that watches the kernel's count of out-of-memory kills.
    fn start_sampler(&self, common: &Arc<Common>, stopped: &Receiver<()>) -> Result<(), StartFailure> {
        let (common, stopped) = (Arc::clone(common), stopped.clone());
        let thread = thread::Builder::new()
            .name("cofferdam-oom".to_owned())
            .spawn(move || common.ledger.sample(&stopped))
            .map_err(|error| StartFailure::Other(format!("no thread for the count of kills: {error}")))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn start_keepers(
        &mut self,
        count: usize,
        common: &Arc<Common>,
        stopped: &Receiver<()>,
        events: &Sender<Result<(), StartFailure>>,
    ) -> Result<(), StartFailure> {
        for index in 0..count {
            let slot = Arc::new(Slot { index, view: Mutex::new(View::default()) });
            self.slots.push(Arc::clone(&slot));
            let keeper = Keeper::new(Arc::clone(common), slot, stopped.clone(), events.clone());
            let thread = thread::Builder::new()
                .name(format!("cofferdam-slot-{index}"))
                .spawn(move || keeper.run())
                .map_err(|error| StartFailure::Other(format!("no thread for a slot: {error}")))?;
            lock(&self.threads).push(thread);
        }
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(AsRef::as_ref)
    }

    fn wait_until_ready(
        &self,
        settings: &Settings,
        started: &Receiver<Result<(), StartFailure>>,
        progress: &mut Progress<'_>,
    ) -> Result<(), StartFailure> {
        const TICK: Duration = Duration::from_millis(50);
        let mut ready = 0;
        while ready < self.slots.len() {
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
        StartProgress {
            committed_bytes: self.slots.iter().map(committed).sum(),
            total_bytes: settings.memory.bytes.saturating_mul(self.slots.len() as u64),
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
        while threads.iter().any(|thread| !thread.is_finished()) {
            // A token may have been put back, or a worker become ready, after the first look.
            drop(desk.take_idle_unless(|_| false));
            if Instant::now() >= deadline || self.slots.iter().all(|slot| !slot.is_stopping_by_itself()) {
                self.kill_all();
            }
            thread::sleep(Duration::from_millis(1));
        }
        desk.close();
        for thread in threads.drain(..) {
            // A panic of a slot's thread was printed by its hook.
            let _ = thread.join();
        }
    }

    /// Whether [`Slots::stop`] is done.
    pub(super) fn are_stopped(&self) -> bool {
        lock(&self.threads).is_empty()
    }

    fn kill_all(&self) {
        for slot in &self.slots {
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
