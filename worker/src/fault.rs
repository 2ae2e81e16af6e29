//! Carrying out planted faults ([`cofferdam_protocol::fault`]).

use std::io::Write;
use std::sync::atomic::Ordering;

use cofferdam_protocol::arena::Span;
use cofferdam_protocol::fault::{Fault, FaultKind};
use cofferdam_protocol::frame::{FrameError, MAX_FRAME_BYTES};
use cofferdam_protocol::message::{Job, Reply};
use cofferdam_protocol::status::StatusPage;
use nix::sys::signal::{Signal, raise};

use crate::life_lock;

/// The fault that is planted at this attempt of this job, if any.
pub(crate) fn planted(faults: &[Fault], job: &Job) -> Option<FaultKind> {
    faults
        .iter()
        .find(|fault| fault.height == job.height && job.attempt <= fault.attempts)
        .map(|fault| fault.kind)
}

/// Carries out `kind` in place of sending `reply`; returns the reply to send if the fault is a lie in it.
pub(crate) fn strike(
    kind: FaultKind,
    reply: Reply,
    pipe: &mut impl Write,
    status: &StatusPage,
) -> Result<Reply, FrameError> {
    match kind {
        FaultKind::Kill => die(Signal::SIGKILL),
        FaultKind::Segv => die(Signal::SIGSEGV),
        FaultKind::Abort => die(Signal::SIGABRT),
        FaultKind::Exit(code) => std::process::exit(i32::from(code)),
        FaultKind::Garbage => pipe.write_all(&[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?,
        FaultKind::LongFrame => pipe.write_all(&(MAX_FRAME_BYTES as u64 + 1).to_le_bytes())?,
        FaultKind::Hang => {}
        FaultKind::Forge => {
            status.life_word().store(0, Ordering::Release);
            die(Signal::SIGKILL);
        }
        FaultKind::Half => life_lock::end_main_thread(),
        FaultKind::WrongSpan => return Ok(Reply { output: Span { offset: u64::MAX, length: 1 }, ..reply }),
        FaultKind::WrongJob => return Ok(Reply { job: reply.job.wrapping_add(1), ..reply }),
        FaultKind::Lie => return Ok(Reply { output: Span::default(), ..reply }),
        // One byte of whatever the job flushed, or of zeros: no whole field.
        FaultKind::WrongPairs => return Ok(Reply { output: Span { offset: 0, length: 1 }, ..reply }),
    }
    loop {
        std::thread::park();
    }
}

fn die(signal: Signal) {
    // wasmtime and the standard library have handlers for SIGSEGV. What is no guest's they pass on, by putting the action
    // before them in place and returning, for a faulting instruction to fault again. A raised signal is raised again
    // instead. Should it not be fatal even then, the worker hangs, and the deadline speaks.
    const HANDLERS: usize = 3;
    for _ in 0..=HANDLERS {
        let _ = raise(signal);
    }
}
