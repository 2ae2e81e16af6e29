//! A slot's thread: starts a worker, waits for its end, says what that was, and starts the next.
//!
//! The thread outlives its worker, as it must: `PR_SET_PDEATHSIG` fires when the thread that started it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::{InputArena, OutputArena};
use cofferdam_protocol::descriptors::{ARTIFACT, INPUT, LAYERS, OUTPUT, Role, STATUS};
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::message::{Hello, MAX_LOG_BYTES, Startup};
use cofferdam_protocol::status::{Phase, StatusPage};
use cofferdam_protocol::verdict::HostVerdict;
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION, refused};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::call::Desk;
use super::death::{self, Circumstances, Death, KillReason};
use super::dying;
use super::oom::{Oom, OomLedger};
use super::process;
use super::register::Register;
use super::restart::{DeathKind, Decision, Restarts};
use super::settings::Settings;
use super::slot::{Slot, StartFailure};
use super::teller::Teller;
use super::worker::{IdleWorker, Link, Silence, Worker, after};
use cofferdam_base::sync::lock;

/// What all slots of a pool share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Arc<Settings>,
    artifact: OwnedFd,
    pub(super) desk: Arc<Desk>,
    pub(super) register: Register,
    pub(super) teller: Teller,
    ledger: OomLedger,
}

impl Common {
    pub(super) fn new(settings: Arc<Settings>, artifact: OwnedFd, desk: Arc<Desk>) -> Self {
        let ledger = OomLedger::new(settings.cgroup.clone());
        let teller = Teller::new(settings.on_death.clone(), desk.id);
        Self { settings, artifact, desk, register: Register::new(), teller, ledger }
    }

    /// Watches the kernel's count of out-of-memory kills until the other end of `stopped` is dropped.
    pub(super) fn watch_kills(&self, stopped: &Receiver<()>) {
        let untouched = || {
            let workers = self.register.all().into_iter().filter_map(|slot| lock(&slot.view).worker.clone());
            workers.map(|worker| worker.pid()).filter(|pid| dying::is_untouched(*pid)).collect()
        };
        self.ledger.sample(stopped, &untouched);
    }
}

/// A slot's thread.
pub(super) struct Keeper {
    common: Arc<Common>,
    slot: Arc<Slot>,
    stopped: Receiver<()>,
    events: Sender<Result<(), StartFailure>>,
    restarts: Restarts,
    /// Whether the pool's start has been told how the first start of this slot went.
    announced: bool,
}

/// A worker that was started, before it is ready.
struct Newborn {
    worker: Arc<Worker>,
    link: Link,
}

impl Keeper {
    pub(super) fn new(
        common: Arc<Common>,
        slot: Arc<Slot>,
        stopped: Receiver<()>,
        events: Sender<Result<(), StartFailure>>,
    ) -> Self {
        // Different for every slot, so that slots which fail together do not come back together.
        let seed = u64::from(std::process::id()) << 32 | slot.index as u64;
        let restarts = Restarts::new(common.settings.restart, seed);
        Self { common, slot, stopped, events, restarts, announced: false }
    }

    pub(super) fn run(mut self) {
        while !self.is_stopping() {
            let pause = match self.one_life() {
                Life::Ended => return,
                Life::Again(pause) => pause,
            };
            // Disconnected: the pool is stopping. Nothing is ever sent.
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
    fn one_life(&mut self) -> Life {
        let born = match self.give_birth() {
            Ok(born) => born,
            Err(error) => return self.not_even_started(&error),
        };
        let worker = Arc::clone(&born.worker);
        let refusal = self.raise(born);
        let ready = lock(&self.slot.view).hello.is_some();
        // As soon as it is known how it ends: a caller that waits for its answer need not wait for the kernel to free its
        // memory.
        let early = if ready { dying::await_notice(&worker) } else { None };
        let (status, kill) = match &early {
            Some(status) => (*status, worker.note_ending()),
            None => wait_for_end(&worker),
        };
        // The token of one that died idle must not lie among the idle ones.
        drop(self.common.desk.take_idle_unless(Worker::is_alive));
        let expected = self.is_stopping() || kill == Some(KillReason::Stopping);
        let death = self.death(&worker, &status, kill.as_ref(), ready, refusal);
        {
            let mut view = lock(&self.slot.view);
            (view.worker, view.hello) = (None, None);
            if !expected {
                view.deaths.count(death.verdict);
                view.last_death = Some(death.to_string());
            }
        }
        worker.announce(death.clone());
        if early.is_some() {
            // What was seen is the end of its main thread. One that somebody has taken over may have started another, which
            // must not live on.
            worker.make_sure();
            wait_for_end(&worker);
        }
        if expected { Life::Ended } else { self.bury(&worker, &death, ready) }
    }

    fn give_birth(&self) -> io::Result<Newborn> {
        let settings = &self.common.settings;
        let arena = io::Error::other;
        let input = InputArena::create(settings.limits.input_bytes).map_err(arena)?;
        let output = OutputArena::create(settings.limits.output_bytes + MAX_LOG_BYTES).map_err(arena)?;
        let status = StatusPage::create()?;
        let page = status.descriptor().ok_or(io::ErrorKind::NotFound)?.try_clone_to_owned()?;
        let handed: [(&dyn AsFd, _); 5] = [
            (&input, INPUT),
            (&output, OUTPUT),
            (&self.common.artifact, ARTIFACT),
            (&page, STATUS),
            (&*self.common.desk.layers, LAYERS),
        ];
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(EventFd::from_value_and_flags(0, flags).map_err(refused("eventfd2"))?);
        let started = process::start(&settings.executable, Role::Worker, &handed)?;
        let worker = Arc::new(Worker::new(started.pid, self.slot.index, status, Arc::clone(&bell)));
        if let Some(cgroup) = &settings.cgroup {
            // It has nothing yet: it waits for its first frame.
            if let Err(error) = cgroup.admit(worker.info().pid) {
                worker.kill(KillReason::Stopping);
                wait_for_end(&worker);
                return Err(io::Error::other(error));
            }
        }
        lock(&self.slot.view).worker = Some(Arc::clone(&worker));
        let room = Arc::clone(&self.common.desk.room);
        let link = Link::new(started.requests, started.replies, bell, input, output, room);
        Ok(Newborn { worker, link })
    }

    /// Sees a worker through its start; what it said if it refused.
    fn raise(&mut self, born: Newborn) -> Option<String> {
        let Newborn { worker, mut link } = born;
        let settings = &self.common.settings;
        // If it is dead already, there is nothing to receive either.
        let _ =
            frame::send(&mut link.requests, &settings.configure(self.slot.index, &self.common.desk.layers));
        match self.first_words(&worker, &mut link) {
            Ok(Startup::Hello(hello)) if is_sound(&hello, settings.memory.bytes) => {
                tracing::info!(
                    pid = worker.pid().as_raw(),
                    slot = self.slot.index,
                    "Memory pre-allocation complete in {:.2}s: {} bytes resident, {} of them in huge pages ({})",
                    Duration::from_micros(hello.commit_us).as_secs_f64(),
                    hello.resident_bytes,
                    hello.huge_bytes,
                    hello.commit,
                );
                lock(&self.slot.view).hello = Some(hello);
                self.common.desk.put_idle(IdleWorker::new(worker, link));
                self.announce(Ok(()));
                None
            }
            Ok(Startup::Hello(hello)) => {
                worker.kill(KillReason::Violation(format!("its hello is not what was asked for: {hello:?}")));
                None
            }
            Ok(Startup::Refused { reason }) => Some(reason),
            Err(Silence::Timeout) => {
                worker.kill(KillReason::StartTimeout(settings.start_timeout));
                None
            }
            Err(Silence::Frame(error @ (FrameError::Decode(_) | FrameError::TooLong { .. }))) => {
                worker.kill(KillReason::Violation(error.to_string()));
                None
            }
            // It is dying: its wait status says more.
            Err(Silence::Frame(_)) => None,
        }
    }

    /// Waits for a worker's first message: for as long as its commit gets ahead, however slow, and then for the start
    /// timeout.
    fn first_words(&self, worker: &Worker, link: &mut Link) -> Result<Startup, Silence> {
        let mut committed = 0;
        loop {
            let result = link.receive(after(self.common.settings.start_timeout));
            let progress = worker.status.committed();
            if !matches!(result, Err(Silence::Timeout)) || progress <= committed {
                return result;
            }
            committed = progress;
        }
    }

    fn death(
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

    /// Reports a death that nobody asked for, and decides what follows.
    fn bury(&mut self, worker: &Worker, death: &Death, ready: bool) -> Life {
        print(death);
        let busy = worker.is_busy();
        self.common.teller.tell(death);
        // A first start that failed would fail again, unless somebody killed it.
        if !self.announced && death.verdict != HostVerdict::Killed {
            self.announce(Err(self.start_failure(death)));
            return self.give_up();
        }
        if worker.last_job() > 0 && !busy {
            self.restarts.on_completed_job();
        }
        let kind = match (ready, busy) {
            (false, _) => DeathKind::Starting,
            // A job may have been sent to it before its death was seen.
            (true, true) if matches!(death.phase, Some(Phase::Running) | None) => DeathKind::Busy,
            (true, _) => DeathKind::Idle,
        };
        self.decide(kind)
    }

    fn not_even_started(&mut self, error: &io::Error) -> Life {
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

    fn decide(&mut self, kind: DeathKind) -> Life {
        match self.restarts.on_death(Instant::now(), kind) {
            Decision::RestartAfter(pause) => Life::Again(pause),
            Decision::Failed(rule) => {
                tracing::error!(slot = self.slot.index, "given up: {rule}");
                let last = lock(&self.slot.view).last_death.clone().unwrap_or_default();
                self.announce(Err(StartFailure::Other(format!("{rule}; the last: {last}"))));
                self.give_up()
            }
        }
    }

    /// Tells the pool's start, once, how the first start of this slot went.
    fn announce(&mut self, start: Result<(), StartFailure>) {
        if !self.announced {
            self.announced = true;
            // A start that has failed by another slot no longer listens.
            let _ = self.events.send(start);
        }
    }

    /// Takes the slot out of service.
    fn give_up(&self) -> Life {
        self.common.register.give_up(&self.slot, &self.common.desk);
        Life::Ended
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

impl Drop for Keeper {
    /// A thread that panics takes its worker with it. Nobody may wait for a worker of this slot any more.
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
        drop(self.common.desk.take_idle_unless(Worker::is_alive));
        self.announce(Err(StartFailure::Other("internal error: the thread of the slot panicked".to_owned())));
        self.give_up();
    }
}

/// Whether a worker is of this build and has committed what it was asked to.
fn is_sound(hello: &Hello, memory_bytes: u64) -> bool {
    hello.version == PROTOCOL_VERSION
        && hello.build == BUILD
        && hello.committed_bytes == memory_bytes
        && hello.resident_bytes >= memory_bytes
}

/// What follows the end of one worker.
enum Life {
    /// Another one, after this pause.
    Again(Duration),
    /// None.
    Ended,
}

/// Waits until the process has ended, and reaps it.
fn wait_for_end(worker: &Worker) -> (WaitStatus, Option<KillReason>) {
    // First without reaping, so that nobody sends a signal to a number that may belong to another process by then.
    while waitid(Id::Pid(worker.pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let (status, kill) = worker.reap(|| reap(worker.pid()));
    (status, kill)
}

fn reap(pid: Pid) -> WaitStatus {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            Ok(status) => return status,
            // ECHILD: the embedding program ignores SIGCHLD or reaped it. How it ended is then not known.
            Err(_) => return WaitStatus::Exited(pid, -1),
        }
    }
}

fn print(death: &Death) {
    let phase = death.phase.map_or("in an unknown phase", |phase| phase.name());
    let requests: Vec<String> = death.requests.iter().map(ToString::to_string).collect();
    tracing::warn!(
        pid = death.pid,
        slot = death.slot,
        "{death} (while {phase}); its last requests: {requests:?}"
    );
}
