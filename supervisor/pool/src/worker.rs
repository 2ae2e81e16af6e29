//! One worker process as the supervisor sees it, and the token that stands for it while it is idle.

use std::fs::File;
#[cfg(feature = "tokio")]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cofferdam_protocol::arena::{InputArena, OutputArena};
use cofferdam_protocol::frame::{FrameError, FrameReader, Message};
use cofferdam_protocol::status::StatusPage;
use cofferdam_protocol::wait::{self, Wakeup};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::death::{Death, KillReason, RequestHistory, RequestRecord};
use super::failed_attempt::WorkerInfo;
use super::result_buffer::ResultBuffer;
use cofferdam_base::sync::lock;

/// How long a worker may take from closing its pipe to its end. A process that crashes closes its pipes last, so its end follows
/// almost at once.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker process. Shared by the thread of its slot, which waits for its death, and by whoever runs a job on it.
#[derive(Debug)]
pub(super) struct Worker {
    pid: Pid,
    pub(super) slot: usize,
    pub(super) status: StatusPage,
    life: Mutex<Life>,
    history: Mutex<RequestHistory>,
    last_job: AtomicU64,
    /// Carries the death, once, to the one caller that may be waiting for it.
    death: (Sender<Death>, Receiver<Death>),
    /// Becomes readable when the death is announced.
    exit_event: Arc<EventFd>,
}

#[derive(Debug)]
struct Life {
    /// Whether the process id is certainly this worker's: the process has not been reaped.
    unreaped: bool,
    /// Whether the worker is known to be ending. Its exit status is settled then.
    ending: bool,
    kill: Option<KillReason>,
    busy: bool,
}

impl Worker {
    pub(super) fn new(pid: Pid, slot: usize, status: StatusPage, exit_event: Arc<EventFd>) -> Self {
        Self {
            pid,
            slot,
            status,
            life: Mutex::new(Life { unreaped: true, ending: false, kill: None, busy: false }),
            history: Mutex::new(RequestHistory::default()),
            last_job: AtomicU64::new(0),
            death: bounded(1),
            exit_event,
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

    /// Whether the worker was killed because its pool stops.
    pub(super) fn was_stopped(&self) -> bool {
        lock(&self.life).kill == Some(KillReason::Stopping)
    }

    pub(super) fn is_busy(&self) -> bool {
        lock(&self.life).busy
    }

    /// The number of the job that the worker was given last.
    pub(super) fn last_job(&self) -> u64 {
        self.last_job.load(Ordering::Relaxed)
    }

    /// Kills the process, unless it is dead already. The first reason is kept.
    pub(super) fn kill(&self, reason: KillReason) {
        let mut life = lock(&self.life);
        if life.unreaped && !life.ending {
            life.kill.get_or_insert(reason);
            // The process has not been reaped, so the number is still its own. A zombie takes the signal without effect.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Kills what is left of a process that is ending. Its verdict is settled already.
    pub(super) fn kill_remains(&self) {
        if lock(&self.life).unreaped {
            // As in `kill`.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Records in the worker's history that a request was sent.
    pub(super) fn note_request(&self, job: u64, request: String) {
        self.last_job.store(job, Ordering::Relaxed);
        lock(&self.life).busy = true;
        lock(&self.history).note_request(request);
    }

    /// Records in the worker's history what the answer was.
    pub(super) fn note_answer(&self, answer: impl FnOnce() -> String) {
        lock(&self.history).note_answer(answer);
        lock(&self.life).busy = false;
    }

    pub(super) fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.history).records()
    }

    /// Records that the worker is ending. Returns why it was killed, if it was.
    pub(super) fn note_ending(&self) -> Option<KillReason> {
        let mut life = lock(&self.life);
        life.ending = true;
        life.kill.clone()
    }

    /// Runs `reap` while nobody can send a signal to the process id that it frees. Returns why the worker was killed, if it was.
    pub(super) fn reap<T>(&self, reap: impl FnOnce() -> T) -> (T, Option<KillReason>) {
        let mut life = lock(&self.life);
        let result = reap();
        life.unreaped = false;
        (result, life.kill.clone())
    }

    /// Tells the caller that waits in [`Worker::wait_for_death`], if there is one.
    pub(super) fn announce(&self, death: Death) {
        // The channel has room for one death, and one is sent. The event's counter is far from its limit.
        let _ = self.death.0.try_send(death);
        let _ = self.exit_event.write(1);
    }

    /// Waits until the slot's thread announces how this worker ended. Kills the worker if that takes longer than `timeout`.
    fn wait_for_death(&self, timeout: Duration) -> Option<Death> {
        self.death.1.recv_timeout(timeout).ok().or_else(|| {
            self.kill(KillReason::Violation("the worker closed its pipe and did not exit".to_owned()));
            // A process in uninterruptible sleep can live on after SIGKILL. The slot waits for the end of the process; the job
            // does not.
            self.death.1.recv_timeout(timeout).ok()
        })
    }
}

/// The supervisor's connection to a worker. Dropping it closes the pipes, which ends the worker.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) requests: File,
    replies: File,
    reader: FrameReader,
    /// Becomes readable when the worker is known to be ending.
    exit_event: Arc<EventFd>,
    pub(super) input: InputArena,
    pub(super) output: OutputArena,
    /// Where a large result is copied to.
    pub(super) result_buffer: Arc<ResultBuffer>,
}

/// Why no message was received.
#[derive(Debug)]
pub(super) enum ReceiveError {
    /// No message came in time.
    Timeout,
    /// The pipe was closed, or the bytes in it are no message.
    Frame(FrameError),
}

impl Link {
    pub(super) fn new(
        requests: File,
        replies: File,
        exit_event: Arc<EventFd>,
        input: InputArena,
        output: OutputArena,
        result_buffer: Arc<ResultBuffer>,
    ) -> Self {
        Self { requests, replies, reader: FrameReader::new(), exit_event, input, output, result_buffer }
    }

    /// The descriptor that becomes readable when a message has come, or when the worker has closed its pipe.
    #[cfg(feature = "tokio")]
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.replies.as_fd()
    }

    /// Receives one message, or gives up at `deadline`. A worker that is known to be ending and has sent nothing counts as one
    /// that has closed its pipe.
    pub(super) fn receive<M: Message>(&mut self, deadline: Instant) -> Result<M, ReceiveError> {
        loop {
            if let Some(message) = self.reader.take().map_err(ReceiveError::Frame)? {
                return Ok(message);
            }
            let woken = wait::until_readable_or_event(&self.replies, &self.exit_event, deadline);
            match woken.map_err(|errno| ReceiveError::Frame(FrameError::Io(errno.into())))? {
                Wakeup::Pipe => {}
                Wakeup::Event => return Err(ReceiveError::Frame(FrameError::Closed)),
                Wakeup::Deadline => return Err(ReceiveError::Timeout),
            }
            self.reader.fill(&mut self.replies).map_err(ReceiveError::Frame)?;
        }
    }
}

/// The token of an idle worker. The token cannot be copied. Only the owner of the token may use the worker.
///
/// A token is put back only after an answer that proves the worker sound. A worker that failed cannot be put back:
/// [`IdleWorker::kill`] and [`IdleWorker::wait_exit`] consume the token.
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

    /// Gives the worker up: kills it for `reason` unless it is dead already, and waits for its death.
    pub(super) fn kill(self, reason: KillReason) -> Option<Death> {
        self.worker.kill(reason);
        self.wait_exit()
    }

    /// Gives up a worker that is dead or dying by itself, and waits for its death.
    pub(super) fn wait_exit(self) -> Option<Death> {
        let Self { worker, link } = self;
        drop(link);
        worker.wait_for_death(EXIT_TIMEOUT)
    }
}
