//! Slots: one thread for each, which starts a worker, waits for its death, and replaces it.
//!
//! The thread outlives its worker, as it must: `PR_SET_PDEATHSIG` fires when the thread that started it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::{InputArena, OutputArena};
use cofferdam_protocol::descriptors::{ARTIFACT, INPUT, OUTPUT, Role, STATUS};
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame;
use cofferdam_protocol::message::{Hello, MAX_LOG_BYTES, Request, Startup};
use cofferdam_protocol::status::StatusPage;
use cofferdam_protocol::verdict::HostVerdict;
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::builder::{Settings, StartProgress};
use super::call::Desk;
use super::death::{self, Circumstances, Death, KillReason, Oom, OomLedger};
use super::restart::{DeathKind, Decision, Restarts};
use super::worker::{IdleWorker, Link, Silence, Worker, lock};
use super::{PoolError, process};

/// Every slot of a pool.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Arc<Slot>>,
    threads: Vec<JoinHandle<()>>,
    stop: Option<Sender<()>>,
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
    Other(String),
}

impl From<StartFailure> for PoolError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::NotCommitted(detail) => Self::NotCommitted(detail),
            StartFailure::Timeout(after) => Self::StartTimeout(after),
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
        progress: &mut dyn FnMut(StartProgress),
    ) -> Result<Self, StartFailure> {
        let (stop, stopped) = bounded(0);
        let (events, started) = unbounded();
        let count = settings.workers + settings.spares;
        let shared = Arc::new(Common {
            settings: Arc::clone(settings),
            artifact,
            desk: Arc::clone(desk),
            ledger: OomLedger::new(),
            alive: Mutex::new(count),
        });
        let mut slots = Self { slots: Vec::new(), threads: Vec::new(), stop: Some(stop) };
        for index in 0..count {
            let slot = Arc::new(Slot { index, view: Mutex::new(View::default()) });
            slots.slots.push(Arc::clone(&slot));
            let seed = u64::from(std::process::id()) << 32 | index as u64;
            let keeper = Keeper {
                common: Arc::clone(&shared),
                slot,
                stopped: stopped.clone(),
                events: events.clone(),
                restarts: Restarts::new(settings.restart.clone(), seed),
                announced: false,
            };
            let thread = thread::Builder::new()
                .name(format!("cofferdam-slot-{index}"))
                .spawn(move || keeper.run())
                .map_err(|error| StartFailure::Other(format!("no thread for a slot: {error}")));
            match thread {
                Ok(thread) => slots.threads.push(thread),
                Err(failure) => {
                    slots.stop(desk, Instant::now());
                    return Err(failure);
                }
            }
        }
        match slots.wait_until_ready(settings, &started, progress) {
            Ok(()) => Ok(slots),
            Err(failure) => {
                slots.stop(desk, Instant::now());
                Err(failure)
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(AsRef::as_ref)
    }

    fn wait_until_ready(
        &self,
        settings: &Settings,
        started: &Receiver<Result<(), StartFailure>>,
        progress: &mut dyn FnMut(StartProgress),
    ) -> Result<(), StartFailure> {
        const TICK: Duration = Duration::from_millis(50);
        let mut ready = 0;
        while ready < self.slots.len() {
            match started.recv_timeout(TICK) {
                Ok(result) => {
                    result?;
                    ready += 1;
                }
                Err(_) => progress(self.start_progress(settings)),
            }
        }
        progress(self.start_progress(settings));
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
    pub(super) fn stop(&mut self, desk: &Desk, deadline: Instant) {
        // Time for a worker that was told to stop to finish its reset; what is not gone by then is killed.
        const LAST_WORDS: Duration = Duration::from_millis(500);
        self.stop = None;
        for mut idle in desk.take_idle_unless(|_| false) {
            // If it cannot be told, the closed pipe tells it.
            let _ = frame::send(&mut idle.link.requests, &Request::Stop);
        }
        let deadline = deadline.max(Instant::now() + LAST_WORDS);
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            // A token may have been put back, or a worker become ready, after the first look.
            drop(desk.take_idle_unless(|_| false));
            if Instant::now() >= deadline || self.slots.iter().all(|slot| !slot.is_stopping_by_itself()) {
                self.kill_all();
            }
            thread::sleep(Duration::from_millis(1));
        }
        desk.close();
        for thread in self.threads.drain(..) {
            // A panic of a slot's thread was printed by its hook.
            let _ = thread.join();
        }
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

/// What all slots of a pool share.
#[derive(Debug)]
struct Common {
    settings: Arc<Settings>,
    artifact: OwnedFd,
    desk: Arc<Desk>,
    ledger: OomLedger,
    /// Slots that have not been given up.
    alive: Mutex<usize>,
}

/// A slot's thread.
struct Keeper {
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
    fn run(mut self) {
        while !self.is_stopping() {
            let pause = match self.one_life() {
                Life::Ended => return,
                Life::Again(pause) => pause,
            };
            // Disconnected: the pool is stopping. Nothing is ever sent.
            if !matches!(self.stopped.recv_timeout(pause), Err(crossbeam_channel::RecvTimeoutError::Timeout))
            {
                return;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        matches!(self.stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Starts one worker and waits for its end.
    fn one_life(&mut self) -> Life {
        let born = match self.give_birth() {
            Ok(born) => born,
            Err(error) => return self.not_even_started(&error),
        };
        let worker = Arc::clone(&born.worker);
        let refusal = self.raise(born);
        let (status, kill) = wait_for_end(&worker);
        // The token of one that died idle must not lie among the idle ones.
        drop(self.common.desk.take_idle_unless(Worker::is_alive));
        let ready = {
            let mut view = lock(&self.slot.view);
            view.worker = None;
            view.hello.take().is_some()
        };
        let expected = self.is_stopping() || kill == Some(KillReason::Stopping);
        let death = self.death(&worker, &status, kill, ready, refusal);
        if expected {
            worker.announce(death);
            return Life::Ended;
        }
        self.bury(&worker, death, ready)
    }

    fn give_birth(&self) -> io::Result<Newborn> {
        let settings = &self.common.settings;
        let arena = io::Error::other;
        let input = InputArena::create(settings.limits.input_bytes).map_err(arena)?;
        let output = OutputArena::create(settings.limits.output_bytes + MAX_LOG_BYTES).map_err(arena)?;
        let status = StatusPage::create()?;
        let page = status.descriptor().ok_or(io::ErrorKind::NotFound)?.try_clone_to_owned()?;
        let handed: [(&dyn AsFd, _); 4] =
            [(&input, INPUT), (&output, OUTPUT), (&self.common.artifact, ARTIFACT), (&page, STATUS)];
        let started = process::start(&settings.executable, Role::Worker, &handed)?;
        let worker = Arc::new(Worker::new(started.pid, self.slot.index, status));
        lock(&self.slot.view).worker = Some(Arc::clone(&worker));
        let link = Link::new(started.requests, started.replies, input, output);
        Ok(Newborn { worker, link })
    }

    /// Sees a worker through its start; what it said if it refused.
    fn raise(&mut self, born: Newborn) -> Option<String> {
        let Newborn { worker, mut link } = born;
        let settings = &self.common.settings;
        // If it is dead already, there is nothing to receive either.
        let _ = frame::send(&mut link.requests, &settings.configure());
        let deadline = Instant::now() + settings.start_timeout;
        match link.receive::<Startup>(deadline) {
            Ok(Startup::Hello(hello)) if hello.version == PROTOCOL_VERSION && hello.build == BUILD => {
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
                worker.kill(KillReason::Violation(format!("it is of another build: {}", hello.build)));
                None
            }
            Ok(Startup::Refused { reason }) => Some(reason),
            Err(Silence::Timeout) => {
                worker.kill(KillReason::StartTimeout(settings.start_timeout));
                None
            }
            Err(Silence::Frame(
                error @ (frame::FrameError::Decode(_) | frame::FrameError::TooLong { .. }),
            )) => {
                worker.kill(KillReason::Violation(error.to_string()));
                None
            }
            // It is dying: its wait status says more.
            Err(Silence::Frame(_)) => None,
        }
    }

    fn death(
        &self,
        worker: &Worker,
        status: &WaitStatus,
        kill: Option<KillReason>,
        ready: bool,
        refusal: Option<String>,
    ) -> Death {
        let oom = if kill.is_none() { self.common.ledger.explain(status) } else { Oom::No };
        let circumstances = Circumstances { kill: kill.as_ref(), ready, refusal: refusal.as_deref(), oom };
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
    fn bury(&mut self, worker: &Worker, death: Death, ready: bool) -> Life {
        print(&death);
        let busy = worker.is_busy();
        {
            let mut view = lock(&self.slot.view);
            view.deaths += 1;
            view.last_death = Some(death.to_string());
        }
        if let Some(hook) = &self.common.settings.on_death {
            hook(&death);
        }
        worker.announce(death.clone());
        // A first start that failed would fail again, unless somebody killed it.
        if !self.announced && death.verdict != HostVerdict::Killed {
            self.announce(Err(self.start_failure(&death)));
            return self.give_up();
        }
        if worker.last_job() > 0 && !busy {
            self.restarts.on_completed_job();
        }
        let kind = match (ready, busy) {
            (false, _) => DeathKind::Starting,
            (true, false) => DeathKind::Idle,
            (true, true) => DeathKind::Busy,
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
            Decision::Failed { deaths, window } => {
                tracing::error!(
                    slot = self.slot.index,
                    "given up: {deaths} deaths within {}",
                    humantime::format_duration(window)
                );
                let last = lock(&self.slot.view).last_death.clone().unwrap_or_default();
                self.announce(Err(StartFailure::Other(format!("{deaths} starts failed; the last: {last}"))));
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

    /// Takes the slot out of service; the last one to go says that no worker will come any more.
    fn give_up(&self) -> Life {
        lock(&self.slot.view).failed = true;
        let mut alive = lock(&self.common.alive);
        *alive -= 1;
        if *alive == 0 {
            self.common.desk.close();
        }
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
