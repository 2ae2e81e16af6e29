//! The life of a worker, from top to bottom: harden, commit, load, say hello, serve.
#![allow(unsafe_code, reason = "the liveness lock, and loading the artifact")]

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use cofferdam_protocol::arena::{InputView, OutputSink};
use cofferdam_protocol::descriptors::{ARTIFACT, INPUT, LAYERS, OUTPUT, REPLIES, REQUESTS, Role, STATUS};
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameReader};
use cofferdam_protocol::message::{Configure, Hello, MAX_LOG_BYTES, Startup, truncate_text};
use cofferdam_protocol::status::{Phase, StatusPage};
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION};

use crate::compile;
use crate::engine;
use crate::guest::{Guest, OutputBuffer};
use crate::limits::STACK_BYTES;
use crate::memory::{CommitReport, CommittedMemory, allocator};
use crate::process::harden::{self, HardenError};
use crate::process::inherited::Inherited;
use crate::process::liveness;
use crate::process::stderr::log_stderr;
use crate::serve::{ServeError, Server};
use crate::state::StateReader;

const NAME: &str = Role::Worker.process_name();

/// Why the worker ends before it serves: the exit code and the reason.
struct StartError {
    exit: WorkerExit,
    reason: String,
}

/// Makes a [`StartError`] of any error.
fn start_error<E: std::fmt::Display>(exit: WorkerExit) -> impl Fn(E) -> StartError {
    move |error| StartError { exit, reason: error.to_string() }
}

/// Runs this process as a worker and returns its exit code. `closed` says whether the other descriptors could be closed.
pub(crate) fn run(mut inherited: Inherited, closed: io::Result<()>) -> WorkerExit {
    if let Err(error) = closed.map_err(HardenError::descriptors) {
        log_stderr!("{NAME}: {error}");
        return WorkerExit::NotHardened;
    }
    let (Some(requests), Some(mut replies)) = (inherited.take_file(REQUESTS), inherited.take_file(REPLIES))
    else {
        log_stderr!("{NAME}: started without its pipes: workers are started by a supervisor only");
        return WorkerExit::Usage;
    };
    match start(inherited, requests, &replies) {
        Ok((server, output)) => serve(server, output),
        Err(StartError { exit, reason }) => {
            // If the supervisor is gone, nobody needs the reason.
            let _ = frame::send(&mut replies, &Startup::Refused { reason: truncate_text(reason) });
            exit
        }
    }
}

/// Everything before the first job.
fn start(
    mut inherited: Inherited,
    mut requests: File,
    replies: &File,
) -> Result<(Server, OutputBuffer), StartError> {
    let mut reader = FrameReader::new();
    let configure: Configure =
        reader.receive(&mut requests).map_err(start_error(WorkerExit::ProtocolViolated))?;
    check_versions(&configure)?;
    harden(&configure)?;
    let status = status_page(&mut inherited)?;
    prefault_stack();
    let (memory, report) = commit(&configure, status)?;
    let Arenas { input, layers, output } = Arenas::commit(&configure, &mut inherited)?;
    status.set_phase(Phase::Loading);
    let guest = load(&configure, &memory, &mut inherited)?;
    // The allocator reuses the memory that loading has freed before it takes new memory.
    allocator::commit();
    let state = configure.state.as_ref().map(|path| StateReader::open(&path.to_path())).transpose();
    let state = state.map_err(start_error(WorkerExit::Internal))?;
    let mut replies = replies.try_clone().map_err(start_error(WorkerExit::Internal))?;
    frame::send(&mut replies, &Startup::Hello(hello(&configure, report)))
        .map_err(start_error(WorkerExit::Stopped))?;
    let Configure { faults, layer_seed, .. } = configure;
    let server =
        Server { requests, replies, reader, status, input, state, layers, layer_seed, memory, guest, faults };
    Ok((server, output))
}

fn check_versions(configure: &Configure) -> Result<(), StartError> {
    if configure.version == PROTOCOL_VERSION && configure.build == BUILD {
        return Ok(());
    }
    let reason = format!(
        "the supervisor is {} with protocol {}, this worker {BUILD} with protocol {PROTOCOL_VERSION}",
        configure.build, configure.version
    );
    Err(StartError { exit: WorkerExit::ProtocolViolated, reason })
}

fn harden(configure: &Configure) -> Result<(), StartError> {
    harden::apply(NAME).map_err(start_error(WorkerExit::NotHardened))?;
    if harden::supervisor_is_alive(configure.supervisor) {
        return Ok(());
    }
    Err(StartError { exit: WorkerExit::Stopped, reason: "the supervisor is gone".to_owned() })
}

fn take(inherited: &mut Inherited, number: RawFd) -> Result<OwnedFd, StartError> {
    let missing =
        || StartError { exit: WorkerExit::Usage, reason: format!("descriptor {number} is missing") };
    inherited.take(number).ok_or_else(missing)
}

/// The status page, with its liveness lock held by this thread.
fn status_page(inherited: &mut Inherited) -> Result<&'static StatusPage, StartError> {
    let status = StatusPage::open(take(inherited, STATUS)?).map_err(start_error(WorkerExit::Usage))?;
    // The kernel marks the lock when the process ends, so the page must stay mapped until then.
    let status: &'static StatusPage = Box::leak(Box::new(status));
    // SAFETY: the supervisor makes a page for each worker. It never initialises the lock, and writes nothing to it except for the
    // bit that marks a waiter. This process comes here once.
    if let Err(error) = unsafe { liveness::hold(status) } {
        log_stderr!(
            "{NAME}: the liveness lock could not be held ({error}): the supervisor will notice the end of this process a \
             moment later"
        );
    }
    Ok(status)
}

/// Touches the stack that guests will run on, so that a deep recursion causes no page fault, and no kill, in the middle of a block.
fn prefault_stack() {
    const FRAME_BYTES: usize = 16 * 1024;
    #[inline(never)]
    fn descend(frames: usize) -> u8 {
        let frame = std::hint::black_box([0u8; FRAME_BYTES]);
        let below = if frames == 0 { 0 } else { descend(frames - 1) };
        std::hint::black_box(frame[FRAME_BYTES / 2] | below)
    }
    // Guests may use STACK_BYTES. The same amount again is ample for the host functions below them.
    descend(2 * STACK_BYTES / FRAME_BYTES);
}

fn commit(configure: &Configure, status: &StatusPage) -> Result<(CommittedMemory, CommitReport), StartError> {
    status.set_phase(Phase::Committing);
    CommittedMemory::commit(&configure.memory, &mut |bytes| status.set_committed(bytes))
        .map_err(start_error(WorkerExit::NotCommitted))
}

/// The arenas, with all their memory committed.
struct Arenas {
    input: Arc<InputView>,
    layers: Arc<InputView>,
    output: OutputBuffer,
}

impl Arenas {
    fn commit(configure: &Configure, inherited: &mut Inherited) -> Result<Self, StartError> {
        let lock = configure.memory.lock;
        let mut view = |number, bytes| {
            let view = InputView::open(take(inherited, number)?, bytes);
            let mut view = view.map_err(start_error(WorkerExit::Usage))?;
            view.commit(lock).map_err(start_error(WorkerExit::NotCommitted))?;
            Ok(Arc::new(view))
        };
        let input = view(INPUT, configure.input_bytes)?;
        let layers = view(LAYERS, configure.layer_bytes)?;
        let sink = OutputSink::open(take(inherited, OUTPUT)?, configure.output_bytes + MAX_LOG_BYTES);
        let mut sink = sink.map_err(start_error(WorkerExit::Usage))?;
        sink.commit(lock).map_err(start_error(WorkerExit::NotCommitted))?;
        Ok(Self { input, layers, output: OutputBuffer::new(sink, configure.output_bytes) })
    }
}

fn load(
    configure: &Configure,
    memory: &CommittedMemory,
    inherited: &mut Inherited,
) -> Result<Guest, StartError> {
    let refused = WorkerExit::ArtifactRefused;
    let engine = engine::build(configure.fuel.is_some(), Some(memory.creator()));
    let engine = engine.map_err(start_error(refused))?;
    let artifact = take(inherited, ARTIFACT)?;
    // SAFETY: the supervisor is this same executable. It passes on only what a compiler process wrote, directly or from a cache
    // whose entries it checks by hash.
    let module = unsafe { compile::load(&engine, artifact) }.map_err(start_error(refused))?;
    Guest::link(&engine, &module, configure.fuel).map_err(start_error(refused))
}

fn hello(configure: &Configure, report: CommitReport) -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        build: BUILD.to_owned(),
        committed_bytes: configure.memory.bytes,
        resident_bytes: report.resident_bytes,
        huge_bytes: report.huge_bytes,
        page_bytes: report.page_bytes,
        commit_us: report.micros,
        commit: report.how,
        reset: report.reset,
    }
}

fn serve(mut server: Server, output: OutputBuffer) -> WorkerExit {
    let Err(error) = server.run(output) else { return WorkerExit::Stopped };
    log_stderr!("{NAME}: {error}");
    match error {
        ServeError::Request(_) | ServeError::Input(_) | ServeError::StateBehind { .. } => {
            WorkerExit::ProtocolViolated
        }
        ServeError::State(_) | ServeError::Guest(_) => WorkerExit::Internal,
    }
}
