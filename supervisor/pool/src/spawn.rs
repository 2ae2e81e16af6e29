//! Starting one worker: the process, and the first messages between it and the supervisor.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_protocol::arena::{InputArena, OutputArena};
use cofferdam_protocol::descriptors::{ARTIFACT, INPUT, LAYERS, OUTPUT, Role, STATUS};
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::message::{Hello, MAX_LOG_BYTES, Startup};
use cofferdam_protocol::status::StatusPage;
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION, syscall_error};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::common::Common;
use super::deadline::after;
use super::death::KillReason;
use super::process;
use super::reap;
use super::slot::Slot;
use super::worker::{IdleWorker, Link, ReceiveError, Worker};
use cofferdam_base::sync::lock;

/// A worker that was started and is not ready yet.
pub(super) struct Spawned {
    pub(super) worker: Arc<Worker>,
    link: Link,
}

/// How the start of a worker ended.
pub(super) enum Handshake {
    /// The worker is ready.
    Ready,
    /// The worker refused to start, and said why.
    Refused(String),
    /// The worker was killed or is dying. Its wait status says more.
    Dying,
}

/// Starts a worker process for `slot`. Call it from the slot's thread, which outlives the process.
pub(super) fn spawn(common: &Common, slot: &Slot) -> io::Result<Spawned> {
    let settings = &common.settings;
    let arena = io::Error::other;
    let input = InputArena::create(settings.limits.input_bytes).map_err(arena)?;
    let output = OutputArena::create(settings.limits.output_bytes + MAX_LOG_BYTES).map_err(arena)?;
    let status = StatusPage::create()?;
    let page = status.descriptor().ok_or(io::ErrorKind::NotFound)?.try_clone_to_owned()?;
    let handed: [(&dyn AsFd, _); 5] = [
        (&input, INPUT),
        (&output, OUTPUT),
        (&common.artifact, ARTIFACT),
        (&page, STATUS),
        (&*common.dispatcher.layers, LAYERS),
    ];
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let exit_event = Arc::new(EventFd::from_value_and_flags(0, flags).map_err(syscall_error("eventfd2"))?);
    let started = process::start(&settings.executable, Role::Worker, &handed)?;
    let worker = Arc::new(Worker::new(started.pid, slot.index, status, Arc::clone(&exit_event)));
    if let Some(cgroup) = &settings.cgroup {
        // The worker has allocated nothing yet: it waits for its first frame.
        if let Err(error) = cgroup.admit(worker.info().pid) {
            worker.kill(KillReason::Stopping);
            reap::wait_exit(&worker);
            return Err(io::Error::other(error));
        }
    }
    slot.set_worker(&worker);
    let buffer = Arc::clone(&common.dispatcher.result_buffer);
    let link = Link::new(started.requests, started.replies, exit_event, input, output, buffer);
    Ok(Spawned { worker, link })
}

/// Configures a worker, waits until it is ready, and gives it to the dispatcher.
pub(super) fn handshake(common: &Common, slot: &Slot, spawned: Spawned) -> Handshake {
    let Spawned { worker, mut link } = spawned;
    let settings = &common.settings;
    // If sending fails, the worker is dead, and receiving fails too.
    let _ = frame::send(&mut link.requests, &settings.configure(slot.index, &common.dispatcher.layers));
    match receive_startup(&worker, &mut link, settings.start_timeout) {
        Ok(Startup::Hello(hello)) if is_sound(&hello, settings.memory.bytes) => {
            tracing::info!(
                pid = worker.pid().as_raw(),
                slot = slot.index,
                "Memory pre-allocation complete in {:.2}s: {} bytes resident, {} of them in huge pages ({})",
                Duration::from_micros(hello.commit_us).as_secs_f64(),
                hello.resident_bytes,
                hello.huge_bytes,
                hello.commit,
            );
            lock(&slot.view).hello = Some(hello);
            common.dispatcher.idle.put(IdleWorker::new(worker, link));
            Handshake::Ready
        }
        Ok(Startup::Hello(hello)) => {
            let text = format!("the worker's hello does not match its configuration: {hello:?}");
            worker.kill(KillReason::Violation(text));
            Handshake::Dying
        }
        Ok(Startup::Refused { reason }) => Handshake::Refused(reason),
        Err(ReceiveError::Timeout) => {
            worker.kill(KillReason::StartTimeout(settings.start_timeout));
            Handshake::Dying
        }
        Err(ReceiveError::Frame(error @ (FrameError::Decode(_) | FrameError::TooLong { .. }))) => {
            worker.kill(KillReason::Violation(error.to_string()));
            Handshake::Dying
        }
        Err(ReceiveError::Frame(_)) => Handshake::Dying,
    }
}

/// Waits for a worker's first message. Gives up when the worker's commit has made no progress during the start timeout.
fn receive_startup(
    worker: &Worker,
    link: &mut Link,
    start_timeout: Duration,
) -> Result<Startup, ReceiveError> {
    let mut committed = 0;
    loop {
        let result = link.receive(after(start_timeout));
        let progress = worker.status.committed();
        if !matches!(result, Err(ReceiveError::Timeout)) || progress <= committed {
            return result;
        }
        committed = progress;
    }
}

/// Whether a worker is of this build and has committed the memory that it was asked to commit.
fn is_sound(hello: &Hello, memory_bytes: u64) -> bool {
    hello.version == PROTOCOL_VERSION
        && hello.build == BUILD
        && hello.committed_bytes == memory_bytes
        && hello.resident_bytes >= memory_bytes
}
