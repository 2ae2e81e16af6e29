//! One worker process as the supervisor sees it, and the token that stands for it while it is idle.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::{InputArena, OutputArena};
use cofferdam_protocol::frame::{FrameError, FrameReader, Message};
use cofferdam_protocol::status::StatusPage;
use cofferdam_protocol::wait::{self, Woken};
use crossbeam_channel::bounded;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Channel;
use super::death::{Death, KillReason, Ring};
use super::job::WorkerInfo;
use super::room::Room;
use cofferdam_base::sync::lock;

/// The moment `duration` from now; of a duration beyond all clocks, one that nobody will see.
pub(super) fn after(duration: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(duration).or_else(|| now.checked_add(NEVER)).unwrap_or(now)
}

/// How long a worker may take from closing its pipe to its end: a crash closes pipes last, so next to nothing.
const DYING: Duration = Duration::from_secs(5);

/// A worker process. Shared by its slot's thread, which waits for its death, and by whoever runs a job on it.
#[derive(Debug)]
pub(super) struct Worker {
    pid: Pid,
    pub(super) slot: usize,
    pub(super) status: StatusPage,
    life: Mutex<Life>,
    ring: Mutex<Ring>,
    last_job: AtomicU64,
    /// Carries the death, once, to the one caller that may be waiting for it.
    death: Channel<Death>,
    /// Rung when the death is announced.
    bell: Arc<EventFd>,
}

#[derive(Debug)]
struct Life {
    /// While true the process id is certainly this worker's: it has not been reaped.
    unreaped: bool,
    /// It is known to be ending: how, is settled.
    ending: bool,
    kill: Option<KillReason>,
    busy: bool,
}

impl Worker {
    pub(super) fn new(pid: Pid, slot: usize, status: StatusPage, bell: Arc<EventFd>) -> Self {
        Self {
            pid,
            slot,
            status,
            life: Mutex::new(Life { unreaped: true, ending: false, kill: None, busy: false }),
            ring: Mutex::new(Ring::default()),
            last_job: AtomicU64::new(0),
            death: bounded(1),
            bell,
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn info(&self) -> WorkerInfo {
        WorkerInfo { pid: self.pid.as_raw().unsigned_abs(), slot: self.slot }
    }

    pub(super) fn is_alive(&self) -> bool {
        let life = lock(&self.life);
        life.unreaped && !life.ending && life.kill.is_none()
    }

    /// Whether it was killed because its pool stops.
    pub(super) fn was_stopped(&self) -> bool {
        lock(&self.life).kill == Some(KillReason::Stopping)
    }

    pub(super) fn is_busy(&self) -> bool {
        lock(&self.life).busy
    }

    /// The job that it was given last.
    pub(super) fn last_job(&self) -> u64 {
        self.last_job.load(Ordering::Relaxed)
    }

    /// Kills the process, unless it is dead already. The first reason counts.
    pub(super) fn kill(&self, reason: KillReason) {
        let mut life = lock(&self.life);
        if life.unreaped && !life.ending {
            life.kill.get_or_insert(reason);
            // It has not been reaped, so the number is still its own; a zombie takes the signal without effect.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Kills what is left of a process that is ending, whose verdict stands already.
    pub(super) fn make_sure(&self) {
        if lock(&self.life).unreaped {
            // As in `kill`.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Notes, for its history, that it was asked something.
    pub(super) fn asked(&self, job: u64, request: String) {
        self.last_job.store(job, Ordering::Relaxed);
        lock(&self.life).busy = true;
        lock(&self.ring).asked(request);
    }

    /// Notes, for its history, what it answered.
    pub(super) fn answered(&self, answer: impl FnOnce() -> String) {
        lock(&self.ring).answered(answer);
        lock(&self.life).busy = false;
    }

    pub(super) fn requests(&self) -> Vec<super::death::RequestRecord> {
        lock(&self.ring).records()
    }

    /// Notes that it is ending, and says why it was killed, if it was.
    pub(super) fn note_ending(&self) -> Option<KillReason> {
        let mut life = lock(&self.life);
        life.ending = true;
        life.kill.clone()
    }

    /// Runs `reap` while nobody can send a signal to the number that it gives free, and says why it was killed.
    pub(super) fn reap<T>(&self, reap: impl FnOnce() -> T) -> (T, Option<KillReason>) {
        let mut life = lock(&self.life);
        let result = reap();
        life.unreaped = false;
        (result, life.kill.clone())
    }

    /// Tells whoever waits in [`Worker::await_death`].
    pub(super) fn announce(&self, death: Death) {
        // The channel holds one, and one is sent; the count of the bell is far from full.
        let _ = self.death.0.try_send(death);
        let _ = self.bell.write(1);
    }

    /// Waits for the slot's thread to say how this worker ended; kills it if it lives on for longer than `patience`.
    fn await_death(&self, patience: Duration) -> Option<Death> {
        self.death.1.recv_timeout(patience).ok().or_else(|| {
            self.kill(KillReason::Violation("it closed its pipe and lived on".to_owned()));
            // Uninterruptible sleep in the kernel can outlast SIGKILL. Its slot waits; the job does not.
            self.death.1.recv_timeout(patience).ok()
        })
    }
}

/// The means to speak to a worker. Dropping it closes its pipes, which ends it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) requests: File,
    replies: File,
    reader: FrameReader,
    /// Rung when the worker is known to be ending.
    bell: Arc<EventFd>,
    pub(super) input: InputArena,
    pub(super) output: OutputArena,
    /// Where a large result is copied to.
    pub(super) room: Arc<Room>,
}

/// Why nothing was received.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nothing came in time.
    Timeout,
    /// The pipe was closed, or what came is no message.
    Frame(FrameError),
}

impl Link {
    pub(super) fn new(
        requests: File,
        replies: File,
        bell: Arc<EventFd>,
        input: InputArena,
        output: OutputArena,
        room: Arc<Room>,
    ) -> Self {
        Self { requests, replies, reader: FrameReader::new(), bell, input, output, room }
    }

    /// What can be read when a message has come, or none will.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.replies.as_fd()
    }

    /// Receives one message, or gives up at `deadline`. A worker that is known to be ending, and has sent nothing, has
    /// closed its pipe, or will.
    pub(super) fn receive<M: Message>(&mut self, deadline: Instant) -> Result<M, Silence> {
        loop {
            if let Some(message) = self.reader.take().map_err(Silence::Frame)? {
                return Ok(message);
            }
            let woken = wait::until_readable_or(&self.replies, &self.bell, deadline);
            match woken.map_err(|errno| Silence::Frame(FrameError::Io(errno.into())))? {
                Woken::Pipe => {}
                Woken::Bell => return Err(Silence::Frame(FrameError::Closed)),
                Woken::Deadline => return Err(Silence::Timeout),
            }
            self.reader.fill(&mut self.replies).map_err(Silence::Frame)?;
        }
    }
}

/// An idle worker, as a token that can only be moved: whoever has it may use the worker, and nobody else.
///
/// It is put back only after an answer that proves the worker sound. There is no way to put back one that failed:
/// [`IdleWorker::condemn`] consumes it.
#[derive(Debug)]
pub(super) struct IdleWorker {
    pub(super) worker: Arc<Worker>,
    pub(super) link: Link,
}

impl IdleWorker {
    /// The first token of a worker that has just said hello.
    pub(super) fn new(worker: Arc<Worker>, link: Link) -> Self {
        Self { worker, link }
    }

    /// Gives the worker up, killing it for `reason` unless it is dead already, and waits for its death.
    pub(super) fn condemn(self, reason: KillReason) -> Option<Death> {
        self.worker.kill(reason);
        self.mourn()
    }

    /// Gives up a worker that is dead or dying of itself, and waits for its death.
    pub(super) fn mourn(self) -> Option<Death> {
        let Self { worker, link } = self;
        drop(link);
        worker.await_death(DYING)
    }
}
