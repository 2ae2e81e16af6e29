//! The slots of a pool: starting them all, one more, one fewer, and stopping them all.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::frame;
use cofferdam_protocol::message::{Hello, Request};
use cofferdam_protocol::refused;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::PoolError;
use super::builder::{Progress, StartProgress};
use super::call::Desk;
use super::death::KillReason;
use super::health::DeathCounts;
use super::keeper::{Common, Keeper};
use super::settings::Settings;
use super::worker::{Worker, after};
use cofferdam_base::sync::lock;

/// How often a thread that waits for the ends of processes looks again.
const STEP: Duration = Duration::from_millis(1);

/// Every slot of a pool. Dropping it ends them all.
#[derive(Debug)]
pub(super) struct Slots {
    common: Arc<Common>,
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

/// Why the first start of a slot failed.
#[derive(Debug)]
pub(super) enum StartFailure {
    ArtifactRefused(String),
    NotCommitted(String),
    Timeout(Duration),
    Cancelled,
    /// The pool stops.
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

/// Slots that were opened and have no ready worker yet. Dropped before they are kept, it takes them back.
struct Opened<'a> {
    slots: &'a Slots,
    opened: Vec<Arc<Slot>>,
}

impl Opened<'_> {
    fn keep(mut self) {
        self.opened.clear();
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let opened = std::mem::take(&mut self.opened);
        opened.iter().for_each(|slot| slot.retired.store(true, Ordering::Release));
        self.slots.end(&opened, Duration::ZERO);
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
        let common = Common::new(Arc::clone(settings), artifact, Arc::clone(desk));
        let slots = Self { common: Arc::new(common) };
        slots.start_sampler()?;
        slots.add(count, count, progress)?;
        Ok(slots)
    }

    /// Starts the thread that watches the kernel's count of out-of-memory kills.
    fn start_sampler(&self) -> Result<(), StartFailure> {
        let common = Arc::clone(&self.common);
        let spawn = |stopped: Receiver<()>| {
            let sample = move || common.watch_kills(&stopped);
            thread::Builder::new().name("cofferdam-oom".to_owned()).spawn(sample)
        };
        let added = self.common.register.add_helper(spawn);
        added.map_err(|error| {
            StartFailure::Other(format!("no thread for the count of kills: {}", refused("clone3")(error)))
        })
    }

    /// Starts `count` slots more, up to `most` in all, and waits until each has a ready worker; whether there was room for
    /// one. If one fails, those that were opened with it are taken back.
    pub(super) fn add(
        &self,
        count: usize,
        most: usize,
        progress: &mut Progress<'_>,
    ) -> Result<bool, StartFailure> {
        let (events, started) = unbounded();
        let mut opened = Opened { slots: self, opened: Vec::new() };
        for _ in 0..count {
            match self.open(most, &events)? {
                Some(slot) => opened.opened.push(slot),
                None => break,
            }
        }
        // What is left are the threads' own ends: with the last of them, nobody is left to say anything.
        drop(events);
        self.wait_until_ready(opened.opened.len(), &started, progress)?;
        let is_any = !opened.opened.is_empty();
        opened.keep();
        Ok(is_any)
    }

    fn open(
        &self,
        most: usize,
        events: &Sender<Result<(), StartFailure>>,
    ) -> Result<Option<Arc<Slot>>, StartFailure> {
        let spawn = |slot: &Arc<Slot>, stopped| {
            let keeper = Keeper::new(Arc::clone(&self.common), Arc::clone(slot), stopped, events.clone());
            thread::Builder::new().name(format!("cofferdam-slot-{}", slot.index)).spawn(move || keeper.run())
        };
        self.common.register.open(most, &self.common.desk, spawn)
    }

    /// Whether slots may be added.
    pub(super) fn are_open(&self) -> bool {
        self.common.register.is_open()
    }

    /// Ends one worker that is idle now, or gets so within `patience`, and its slot with it; whether there was one, and it
    /// is gone. Returns when its memory is free.
    pub(super) fn retire(&self, patience: Duration) -> bool {
        const LAST_WORDS: Duration = Duration::from_secs(5);
        let Some(mut idle) = self.common.desk.take_idle_within(patience) else { return false };
        let index = idle.worker.slot;
        let Some(slot) = self.all().into_iter().find(|slot| slot.index == index) else { return false };
        slot.retired.store(true, Ordering::Release);
        // If it cannot be told, the closed pipe tells it.
        let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        drop(idle);
        self.end(&[slot], LAST_WORDS)
    }

    /// Waits for the ends of `slots`, which are retired, and removes them; whether all have ended. Workers that live on
    /// after `last_words` are killed, and those that live on after that are left to themselves.
    fn end(&self, slots: &[Arc<Slot>], last_words: Duration) -> bool {
        let register = &self.common.register;
        let kill_at = after(last_words);
        let give_up_at = after(last_words.saturating_add(self.common.settings.kill_patience));
        while !slots.iter().all(|slot| register.has_ended(slot)) {
            let now = Instant::now();
            if now >= kill_at {
                slots.iter().for_each(|slot| slot.kill_worker());
            }
            if now >= give_up_at {
                break;
            }
            thread::sleep(STEP);
        }
        let mut all = true;
        for slot in slots {
            if !register.remove(slot, &self.common.desk) {
                self.report_undead(slot);
                all = false;
            }
        }
        all
    }

    /// All slots at this moment, and the deaths in those that are no more: together each death once.
    pub(super) fn all_and_past(&self) -> (Vec<Arc<Slot>>, DeathCounts) {
        self.common.register.all_and_past()
    }

    /// All slots at this moment.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.common.register.all()
    }

    fn wait_until_ready(
        &self,
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
                Err(RecvTimeoutError::Timeout) => {
                    if progress(self.start_progress()).is_break() {
                        return Err(StartFailure::Cancelled);
                    }
                }
                // A slot's thread says nothing only if it was told to end.
                Err(RecvTimeoutError::Disconnected) => return Err(StartFailure::Stopping),
            }
        }
        // The last word, not a question.
        let _ = progress(self.start_progress());
        Ok(())
    }

    fn start_progress(&self) -> StartProgress {
        let memory_bytes = self.common.settings.memory.bytes;
        let committed = |slot: &Arc<Slot>| {
            let view = lock(&slot.view);
            view.worker.as_ref().map_or(0, |worker| worker.status.committed().min(memory_bytes))
        };
        let slots = self.all();
        StartProgress {
            committed_bytes: slots.iter().map(committed).sum(),
            total_bytes: memory_bytes.saturating_mul(slots.len() as u64),
        }
    }

    /// Ends every worker: idle ones are told and have until `deadline`, the rest is killed. Returns when every process has
    /// been reaped and every thread has ended, and then true. A process that lives on for too long after SIGKILL, as one in
    /// uninterruptible sleep does, is left to its thread, which reaps it when it ends.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        // Time for a worker that was told to stop to finish its reset; what is not gone by then is killed.
        const LAST_WORDS: Duration = Duration::from_millis(500);
        let Common { register, desk, settings, .. } = &*self.common;
        register.begin_stop();
        for mut idle in desk.take_idle_unless(|_| false) {
            // If it cannot be told, the closed pipe tells it.
            let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        }
        let deadline = deadline.max(Instant::now() + LAST_WORDS);
        let mut give_up_at = None;
        while !register.have_all_ended() {
            // A token may have been put back, or a worker become ready, after the first look.
            drop(desk.take_idle_unless(|_| false));
            let slots = self.all();
            if Instant::now() >= deadline || slots.iter().all(|slot| !slot.is_stopping_by_itself()) {
                slots.iter().for_each(|slot| slot.kill_worker());
                let give_up_at = *give_up_at.get_or_insert_with(|| after(settings.kill_patience));
                if Instant::now() >= give_up_at {
                    break;
                }
            }
            thread::sleep(STEP);
        }
        desk.close();
        register.finish_stop().iter().for_each(|slot| self.report_undead(slot));
        self.common.teller.finish();
        register.stopped().unwrap_or(false)
    }

    /// Whether [`Slots::stop`] is done, and what it came to.
    pub(super) fn stopped(&self) -> Option<bool> {
        self.common.register.stopped()
    }

    /// Waits until [`Slots::stop`], which another thread is at, is done, and says what it came to.
    pub(super) fn await_stop(&self) -> bool {
        loop {
            match self.stopped() {
                Some(clean) => return clean,
                None => thread::sleep(STEP),
            }
        }
    }

    fn report_undead(&self, slot: &Slot) {
        let worker = lock(&slot.view).worker.clone();
        let pid = worker.map_or(0, |worker| worker.info().pid);
        tracing::error!(
            pid,
            slot = slot.index,
            "the worker has not ended within {:?} of SIGKILL: the kernel holds it, in uninterruptible sleep for example. The \
             pool waits no longer. The worker keeps its memory until the kernel lets it go",
            self.common.settings.kill_patience,
        );
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if self.stopped().is_none() {
            self.stop(Instant::now());
        }
    }
}

impl Slot {
    pub(super) fn new(index: usize) -> Self {
        Self { index, view: Mutex::default(), retired: AtomicBool::new(false) }
    }

    /// Whether a worker of it is there, or will be.
    pub(super) fn is_alive(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !lock(&self.view).failed
    }

    /// Notes that it was given up.
    pub(super) fn fail(&self) {
        lock(&self.view).failed = true;
    }

    /// Whether its worker can be expected to end when its pipe is closed: one that is committing cannot hear it.
    fn is_stopping_by_itself(&self) -> bool {
        let view = lock(&self.view);
        view.hello.is_some() && view.worker.as_ref().is_some_and(|worker| worker.is_alive())
    }

    fn kill_worker(&self) {
        if let Some(worker) = &lock(&self.view).worker {
            worker.kill(KillReason::Stopping);
        }
    }
}
