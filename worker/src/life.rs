//! A worker's life, top to bottom.

use std::fs::File;
use std::sync::Arc;

use cofferdam_protocol::arena::{InputView, OutputSink};
use cofferdam_protocol::descriptors;
use cofferdam_protocol::exit::WorkerExit;
use cofferdam_protocol::frame::{self, FrameReader};
use cofferdam_protocol::message::{Configure, Hello, MAX_LOG_BYTES, Startup, capped};
use cofferdam_protocol::status::{Phase, StatusPage};
use cofferdam_protocol::{BUILD, PROTOCOL_VERSION};

use crate::complaint::complain;
use crate::engine;
use crate::guest::{Guest, Output};
use crate::harden;
use crate::life_lock;
use crate::memory::{self, CommitReport, CommittedMemory};
use crate::pipes::{inherited, inherited_file};
use crate::serve::{ServeError, Server};
use crate::state::StateReader;

/// Why the worker ends: the exit code, and the sentence that goes with it.
struct End {
    exit: WorkerExit,
    reason: String,
}

/// Makes an [`End`] of any error.
fn end<E: std::fmt::Display>(exit: WorkerExit) -> impl Fn(E) -> End {
    move |error| End { exit, reason: error.to_string() }
}

/// Lives a worker's life and says how it ended.
pub(crate) fn run() -> WorkerExit {
    // A panic is a defect of ours; whatever thread it strikes, it must not leave half a worker behind.
    std::panic::set_hook(Box::new(|panic| {
        complain!("cofferdam-worker: internal error: {panic}");
        std::process::exit(WorkerExit::Internal.code());
    }));
    if let Err(error) = harden::close_other_descriptors() {
        complain!("cofferdam-worker: {error}");
        return WorkerExit::NotHardened;
    }
    let (Some(requests), Some(mut replies)) =
        (inherited_file(descriptors::REQUESTS), inherited_file(descriptors::REPLIES))
    else {
        complain!("cofferdam-worker: started without its pipes: workers are started by a supervisor only");
        return WorkerExit::Usage;
    };
    match start(requests, &replies) {
        Ok((server, output)) => serve(server, output),
        Err(End { exit, reason }) => {
            // If the supervisor is gone, nobody is left to hear it.
            let _ = frame::send(&mut replies, &Startup::Refused { reason: capped(reason) });
            exit
        }
    }
}

/// Everything before the first job: harden, commit, load, say hello.
fn start(mut requests: File, replies: &File) -> Result<(Server, Output), End> {
    let mut reader = FrameReader::new();
    let configure: Configure = reader.receive(&mut requests).map_err(end(WorkerExit::ProtocolViolated))?;
    check_supervisor(&configure)?;
    let status = StatusPage::open(take(descriptors::STATUS)?).map_err(end(WorkerExit::Usage))?;
    // Mapped until the very end, which the kernel announces on it.
    let status: &'static StatusPage = Box::leak(Box::new(status));
    if let Err(error) = life_lock::hold(status) {
        complain!(
            "cofferdam-worker: no life lock ({error}): the end of this process will be seen some moments later"
        );
    }
    prefault_stack();
    let (memory, report) = commit(&configure, status)?;
    let Arenas { input, layers, output } = Arenas::commit(&configure)?;
    status.set_phase(Phase::Loading);
    let guest = load(&configure, &memory)?;
    // What loading has freed is given to it first.
    memory::heap::commit();
    let state = configure.state.as_ref().map(|path| StateReader::open(&path.to_path())).transpose();
    let state = state.map_err(end(WorkerExit::Internal))?;
    let mut replies = replies.try_clone().map_err(end(WorkerExit::Internal))?;
    frame::send(&mut replies, &Startup::Hello(hello(&configure, report)))
        .map_err(end(WorkerExit::Stopped))?;
    let Configure { faults, layer_seed, .. } = configure;
    let server =
        Server { requests, replies, reader, status, input, state, layers, layer_seed, memory, guest, faults };
    Ok((server, output))
}

fn check_supervisor(configure: &Configure) -> Result<(), End> {
    if configure.version != PROTOCOL_VERSION || configure.build != BUILD {
        let reason = format!(
            "the supervisor is {} with protocol {}, this worker {BUILD} with protocol {PROTOCOL_VERSION}",
            configure.build, configure.version
        );
        return Err(End { exit: WorkerExit::ProtocolViolated, reason });
    }
    harden::apply("cofferdam-worker").map_err(end(WorkerExit::NotHardened))?;
    if !harden::supervisor_is_alive(configure.supervisor) {
        return Err(End { exit: WorkerExit::Stopped, reason: "the supervisor is gone".to_owned() });
    }
    Ok(())
}

fn take(number: std::os::fd::RawFd) -> Result<std::os::fd::OwnedFd, End> {
    let missing = || End { exit: WorkerExit::Usage, reason: format!("descriptor {number} is missing") };
    inherited(number).ok_or_else(missing)
}

fn commit(configure: &Configure, status: &StatusPage) -> Result<(CommittedMemory, CommitReport), End> {
    status.set_phase(Phase::Committing);
    CommittedMemory::commit(&configure.memory, &mut |bytes| status.set_committed(bytes))
        .map_err(end(WorkerExit::NotCommitted))
}

/// What passes between this process and its supervisor in bulk, with all its memory.
struct Arenas {
    input: Arc<InputView>,
    layers: Arc<InputView>,
    output: Output,
}

impl Arenas {
    fn commit(configure: &Configure) -> Result<Self, End> {
        let lock = configure.memory.lock;
        let view = |number, bytes| {
            let mut view = InputView::open(take(number)?, bytes).map_err(end(WorkerExit::Usage))?;
            view.commit(lock).map_err(end(WorkerExit::NotCommitted))?;
            Ok(Arc::new(view))
        };
        let input = view(descriptors::INPUT, configure.input_bytes)?;
        let layers = view(descriptors::LAYERS, configure.layer_bytes)?;
        let sink = OutputSink::open(take(descriptors::OUTPUT)?, configure.output_bytes + MAX_LOG_BYTES);
        let mut sink = sink.map_err(end(WorkerExit::Usage))?;
        sink.commit(lock).map_err(end(WorkerExit::NotCommitted))?;
        Ok(Self { input, layers, output: Output::new(sink, configure.output_bytes) })
    }
}

fn load(configure: &Configure, memory: &CommittedMemory) -> Result<Guest, End> {
    let engine = engine::build(configure.fuel.is_some(), Some(memory.creator()));
    let engine = engine.map_err(end(WorkerExit::ArtifactRefused))?;
    let artifact = take(descriptors::ARTIFACT)?;
    let module =
        crate::compile::load_inherited(&engine, artifact).map_err(end(WorkerExit::ArtifactRefused))?;
    Guest::link(&engine, &module, configure.fuel).map_err(end(WorkerExit::ArtifactRefused))
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

fn serve(mut server: Server, output: Output) -> WorkerExit {
    let Err(error) = server.run(output) else { return WorkerExit::Stopped };
    complain!("cofferdam-worker: {error}");
    match error {
        ServeError::Request(_) | ServeError::Input(_) | ServeError::StateBehind { .. } => {
            WorkerExit::ProtocolViolated
        }
        ServeError::State(_) | ServeError::Guest(_) => WorkerExit::Internal,
    }
}

/// Touches the stack that guests will run on, so that a deep recursion takes no page fault, and no kill, in the
/// middle of a block.
fn prefault_stack() {
    const FRAME_BYTES: usize = 16 * 1024;
    #[inline(never)]
    fn descend(frames: usize) -> u8 {
        let frame = std::hint::black_box([0u8; FRAME_BYTES]);
        let below = if frames == 0 { 0 } else { descend(frames - 1) };
        std::hint::black_box(frame[FRAME_BYTES / 2] | below)
    }
    // Guests get STACK_BYTES of it; as much again is ample for the host functions below them.
    descend(2 * engine::STACK_BYTES / FRAME_BYTES);
}
