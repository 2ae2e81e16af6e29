//! The slots of a pool: starting all of them, one more, stopping one, and stopping all.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cofferdam_protocol::frame;
use cofferdam_protocol::message::Request;
use cofferdam_protocol::syscall_error;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::common::Common;
use super::deadline::after;
use super::death::DeathCounts;
use super::dispatcher::Dispatcher;
use super::progress::{Progress, StartProgress};
use super::settings::Settings;
use super::slot::{Slot, StartFailure};
use super::slot_supervisor::SlotSupervisor;
use super::threads::PoolThread;
use cofferdam_base::sync::lock;

/// Every slot of a pool. Dropping it stops them all.
#[derive(Debug)]
pub(super) struct Slots {
    common: Arc<Common>,
}

/// Slots that were opened and have no ready worker yet. Dropping this removes the slots again, unless [`Opened::keep`] was
/// called.
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
    /// Starts `count` slots and waits until each has a ready worker. Stops them all if one fails.
    pub(super) fn start(
        settings: &Arc<Settings>,
        count: usize,
        artifact: OwnedFd,
        dispatcher: &Arc<Dispatcher>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, StartFailure> {
        let common = Common::new(Arc::clone(settings), artifact, Arc::clone(dispatcher));
        let slots = Self { common: Arc::new(common) };
        slots.start_watch()?;
        slots.add(count, count, progress)?;
        Ok(slots)
    }

    /// Starts the thread that looks at all workers once a second.
    fn start_watch(&self) -> Result<(), StartFailure> {
        let common = Arc::clone(&self.common);
        let spawn = |stopped: Receiver<()>| {
            PoolThread::spawn("cofferdam-oom".to_owned(), move || common.watch(&stopped))
        };
        let added = self.common.register.add_helper(spawn);
        added.map_err(|error| {
            let error = syscall_error("clone3")(error);
            StartFailure::Other(format!(
                "the thread that counts out-of-memory kills cannot be started: {error}"
            ))
        })
    }

    /// Starts `count` more slots, up to `most` in all, and waits until each has a ready worker. Returns whether there was room
    /// for at least one. If one fails, all that were opened with it are removed again.
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
        // The threads have senders of their own. When the last thread has ended, the channel is disconnected.
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
            let supervisor =
                SlotSupervisor::new(Arc::clone(&self.common), Arc::clone(slot), stopped, events.clone());
            PoolThread::spawn(format!("cofferdam-slot-{}", slot.index), move || supervisor.run())
        };
        self.common.register.open(most, &self.common.dispatcher, spawn)
    }

    /// Whether slots may be added.
    pub(super) fn are_open(&self) -> bool {
        self.common.register.is_open()
    }

    /// Stops one worker that is idle, or becomes idle within `timeout`, and removes its slot. Returns true if there was such a
    /// worker and its process has ended, so that its memory is free.
    pub(super) fn retire(&self, timeout: Duration) -> bool {
        const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
        let Some(mut idle) = self.common.dispatcher.take_oldest_idle(timeout) else { return false };
        let index = idle.worker.slot;
        let Some(slot) = self.all().into_iter().find(|slot| slot.index == index) else { return false };
        slot.retired.store(true, Ordering::Release);
        // If the request cannot be sent, the closed pipe ends the worker.
        let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        drop(idle);
        self.end(&[slot], EXIT_TIMEOUT)
    }

    /// Waits for the ends of `slots`, which are retired, and removes them. Workers that live on after `exit_timeout` are killed;
    /// processes that live on after that, for as long as the kill timeout, are abandoned. Returns whether all have ended.
    fn end(&self, slots: &[Arc<Slot>], exit_timeout: Duration) -> bool {
        let Common { register, dispatcher, settings, .. } = &*self.common;
        if !register.wait_for_ends(slots, after(exit_timeout)) {
            slots.iter().for_each(|slot| slot.kill_worker());
            register.wait_for_ends(slots, after(settings.kill_timeout));
        }
        let mut have_all_ended = true;
        for slot in slots {
            if !register.remove(slot, dispatcher) {
                self.report_undead(slot);
                have_all_ended = false;
            }
        }
        have_all_ended
    }

    /// All slots at this moment, and the counts of deaths in slots that were removed. Together they count each death once.
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
        /// How often the progress is reported.
        const REPORT_INTERVAL: Duration = Duration::from_millis(50);
        let mut ready = 0;
        while ready < count {
            match started.recv_timeout(REPORT_INTERVAL) {
                Ok(result) => {
                    result?;
                    ready += 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    if progress(self.start_progress()).is_break() {
                        return Err(StartFailure::Cancelled);
                    }
                }
                // A slot's thread ends without a message only if it was told to end.
                Err(RecvTimeoutError::Disconnected) => return Err(StartFailure::Stopping),
            }
        }
        // The last report: it cannot cancel the start any more.
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

    /// Stops every worker. Idle workers are told to stop and have until `deadline`. Then every worker that is left is killed.
    /// Returns true when every process has been reaped and every thread has ended. A process may live on for longer than the kill
    /// timeout, for example in uninterruptible sleep. Then this returns false, and the thread of the process's slot reaps the
    /// process when it ends.
    pub(super) fn stop(&self, deadline: Instant) -> bool {
        /// The least time that a worker has to finish its reset after it was told to stop.
        const MIN_EXIT_TIME: Duration = Duration::from_millis(500);
        let Common { register, dispatcher, settings, .. } = &*self.common;
        register.begin_stop();
        // A token that is put back after this is dropped, which closes the worker's pipes.
        for mut idle in dispatcher.idle.stop() {
            // If the request cannot be sent, the closed pipe ends the worker.
            let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        }
        let slots = self.all();
        let (patient, deaf): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| slot.can_stop_by_itself());
        deaf.iter().for_each(|slot| slot.kill_worker());
        if !register.wait_for_ends(&patient, deadline.max(Instant::now() + MIN_EXIT_TIME)) {
            patient.iter().for_each(|slot| slot.kill_worker());
        }
        register.wait_for_all(after(settings.kill_timeout));
        dispatcher.close();
        register.finish_stop().iter().for_each(|slot| self.report_undead(slot));
        self.common.death_hook.finish();
        register.stopped().unwrap_or(false)
    }

    /// The result of [`Slots::stop`], once that is done.
    pub(super) fn stopped(&self) -> Option<bool> {
        self.common.register.stopped()
    }

    /// Waits until another thread has finished [`Slots::stop`], and returns the result.
    pub(super) fn wait_for_stop(&self) -> bool {
        self.common.register.wait_until_stopped()
    }

    fn report_undead(&self, slot: &Slot) {
        let worker = lock(&slot.view).worker.clone();
        let pid = worker.map_or(0, |worker| worker.info().pid);
        tracing::error!(
            pid,
            slot = slot.index,
            "the worker has not ended within {:?} of SIGKILL: the kernel holds it, in uninterruptible sleep for example. The \
             pool waits no longer. The worker keeps its memory until the kernel lets it go",
            self.common.settings.kill_timeout,
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
