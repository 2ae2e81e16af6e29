//! A slot's thread: starts a worker, waits for its end, classifies the end, and starts the next worker.
//!
//! The thread must outlive its worker: the kernel kills a worker when the thread that started the worker ends
//! (`PR_SET_PDEATHSIG`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::status::Phase;
use cofferdam_protocol::verdict::HostVerdict;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use nix::sys::wait::WaitStatus;

use super::common::Common;
use super::death::{self, Circumstances, Death, KillReason};
use super::exit_notice;
use super::oom::Oom;
use super::reap;
use super::restart::{DeathKind, Decision, Restarts};
use super::slot::{Slot, StartFailure};
use super::spawn::{self, Handshake};
use super::worker::Worker;
use cofferdam_base::sync::lock;

/// What a slot's thread works with.
pub(super) struct SlotSupervisor {
    common: Arc<Common>,
    slot: Arc<Slot>,
    /// Disconnected when the pool stops. Nothing is ever sent.
    stopped: Receiver<()>,
    /// Tells the start of the pool how the first start of this slot went.
    events: Sender<Result<(), StartFailure>>,
    restarts: Restarts,
    /// Whether the first start was reported.
    announced: bool,
}

/// What follows the end of one worker.
enum Next {
    /// Another worker, after this pause.
    Restart(Duration),
    /// Nothing.
    End,
}

impl SlotSupervisor {
    pub(super) fn new(
        common: Arc<Common>,
        slot: Arc<Slot>,
        stopped: Receiver<()>,
        events: Sender<Result<(), StartFailure>>,
    ) -> Self {
        // Different for every slot, so that slots which fail together do not restart together.
        let seed = u64::from(std::process::id()) << 32 | slot.index as u64;
        let restarts = Restarts::new(common.settings.restart, seed);
        Self { common, slot, stopped, events, restarts, announced: false }
    }

    pub(super) fn run(mut self) {
        while !self.is_stopping() {
            let pause = match self.run_worker() {
                Next::End => return,
                Next::Restart(pause) => pause,
            };
            if !matches!(self.stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.slot.retired.load(Ordering::Acquire)
            || matches!(self.stopped.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Starts one worker and waits for its end.
    fn run_worker(&mut self) -> Next {
        let spawned = match spawn::spawn(&self.common, &self.slot) {
            Ok(spawned) => spawned,
            Err(error) => return self.spawn_failed(&error),
        };
        let worker = Arc::clone(&spawned.worker);
        let (is_ready, refusal) = match spawn::handshake(&self.common, &self.slot, spawned) {
            Handshake::Ready => (true, None),
            Handshake::Refused(reason) => (false, Some(reason)),
            Handshake::Dying => (false, None),
        };
        if is_ready {
            self.announce(Ok(()));
        }
        // Waits only until it is known how the worker ends. So a caller that waits for an answer need not wait until the kernel
        // has freed the worker's memory.
        let early = if is_ready { exit_notice::wait(&worker) } else { None };
        let (status, kill) = match &early {
            Some(status) => (*status, worker.note_ending()),
            None => reap::wait_exit(&worker),
        };
        // If the worker was idle, nobody may take its token any more.
        self.common.dispatcher.idle.remove_dead();
        let is_expected = self.is_stopping() || kill == Some(KillReason::Stopping);
        let death = self.classify(&worker, &status, kill.as_ref(), is_ready, refusal);
        {
            let mut view = lock(&self.slot.view);
            (view.worker, view.hello) = (None, None);
            if !is_expected {
                view.deaths.count(death.verdict);
                view.last_death = Some(death.to_string());
            }
        }
        worker.announce(death.clone());
        if early.is_some() {
            // The early notice reports the end of the main thread only. A worker that an attacker controls may have started
            // another thread. That thread must end too.
            worker.kill_remains();
            reap::wait_exit(&worker);
        }
        if is_expected { Next::End } else { self.died(&worker, &death, is_ready) }
    }

    fn classify(
        &self,
        worker: &Worker,
        status: &WaitStatus,
        kill: Option<&KillReason>,
        ready: bool,
        refusal: Option<String>,
    ) -> Death {
        let oom = if kill.is_none() { self.common.ledger.explain(worker.pid(), status) } else { Oom::No };
        let circumstances = Circumstances { kill, ready, refusal: refusal.as_deref(), oom };
        let (verdict, detail) = death::classify(status, &circumstances);
        Death {
            pid: worker.info().pid,
            slot: self.slot.index,
            verdict,
            detail,
            phase: worker.status.phase(),
            requests: worker.requests(),
            refusal,
            exit: match status {
                WaitStatus::Exited(_, code) => Some(*code),
                _ => None,
            },
        }
    }

    /// Reports a death that is not part of stopping, and decides what follows.
    fn died(&mut self, worker: &Worker, death: &Death, is_ready: bool) -> Next {
        log_death(death);
        let is_busy = worker.is_busy();
        self.common.death_hook.tell(death);
        // A first start that failed would fail again, unless somebody killed the worker.
        if !self.announced && death.verdict != HostVerdict::Killed {
            self.announce(Err(self.start_failure(death)));
            return self.give_up();
        }
        if worker.last_job() > 0 && !is_busy {
            self.restarts.on_completed_job();
        }
        let kind = match (is_ready, is_busy) {
            (false, _) => DeathKind::Starting,
            // That a job was sent does not show that the worker had begun it: the worker may have been dead already.
            (true, true) if matches!(death.phase, Some(Phase::Running) | None) => DeathKind::Busy,
            (true, _) => DeathKind::Idle,
        };
        self.decide(kind)
    }

    fn spawn_failed(&mut self, error: &io::Error) -> Next {
        let detail = format!("the process could not be started: {error}");
        tracing::error!(slot = self.slot.index, "{detail}");
        {
            let mut view = lock(&self.slot.view);
            view.worker = None;
            view.last_death = Some(detail.clone());
        }
        if !self.announced {
            self.announce(Err(StartFailure::Other(detail)));
            return self.give_up();
        }
        self.decide(DeathKind::Starting)
    }

    fn decide(&mut self, kind: DeathKind) -> Next {
        match self.restarts.on_death(Instant::now(), kind) {
            Decision::RestartAfter(pause) => Next::Restart(pause),
            Decision::Failed(rule) => {
                tracing::error!(slot = self.slot.index, "the slot is given up: {rule}");
                let last = lock(&self.slot.view).last_death.clone().unwrap_or_default();
                self.announce(Err(StartFailure::Other(format!("{rule}; the last: {last}"))));
                self.give_up()
            }
        }
    }

    /// Tells the start of the pool, once, how the first start of this slot went.
    fn announce(&mut self, start: Result<(), StartFailure>) {
        if !self.announced {
            self.announced = true;
            // A start that has failed because of another slot no longer listens.
            let _ = self.events.send(start);
        }
    }

    /// Takes the slot out of service.
    fn give_up(&self) -> Next {
        self.common.register.give_up(&self.slot, &self.common.dispatcher);
        Next::End
    }

    fn start_failure(&self, death: &Death) -> StartFailure {
        match (death.verdict, death.exit.and_then(WorkerExit::from_code)) {
            (HostVerdict::CommitFailed, _) => StartFailure::NotCommitted(death.to_string()),
            (_, Some(WorkerExit::ArtifactRefused)) => {
                StartFailure::ArtifactRefused(death.refusal.clone().unwrap_or_else(|| death.detail.clone()))
            }
            (HostVerdict::Deadline, _) => StartFailure::Timeout(self.common.settings.start_timeout),
            _ => StartFailure::Other(death.to_string()),
        }
    }
}

impl Drop for SlotSupervisor {
    /// If the thread panics, this kills the slot's worker and takes the slot out of service, so that nobody waits for a worker of
    /// this slot.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let worker = {
            let mut view = lock(&self.slot.view);
            view.hello = None;
            view.last_death = Some("internal error: the thread of the slot panicked".to_owned());
            view.worker.take()
        };
        if let Some(worker) = worker {
            worker.kill(KillReason::Stopping);
            worker.note_ending();
        }
        self.common.dispatcher.idle.remove_dead();
        self.announce(Err(StartFailure::Other("internal error: the thread of the slot panicked".to_owned())));
        self.give_up();
    }
}

fn log_death(death: &Death) {
    let phase = death.phase.map_or("in an unknown phase", |phase| phase.name());
    let requests: Vec<String> = death.requests.iter().map(ToString::to_string).collect();
    tracing::warn!(
        pid = death.pid,
        slot = death.slot,
        "{death} (while {phase}); its last requests: {requests:?}"
    );
}
