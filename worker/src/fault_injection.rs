//! Injecting the faults that a test asked for ([`cofferdam_protocol::fault`]).

use std::io::Write;
use std::sync::atomic::Ordering;

use cofferdam_protocol::arena::Span;
use cofferdam_protocol::fault::{Fault, FaultKind};
use cofferdam_protocol::frame::{FrameError, MAX_FRAME_BYTES};
use cofferdam_protocol::message::{Job, Reply};
use cofferdam_protocol::status::StatusPage;
use nix::sys::signal::{Signal, raise};

use crate::process::liveness;

/// The fault to inject at this attempt of this job; none if there is none.
pub(crate) fn fault_of(faults: &[Fault], job: &Job) -> Option<FaultKind> {
    faults
        .iter()
        .find(|fault| fault.height == job.height && job.attempt <= fault.attempts)
        .map(|fault| fault.kind)
}

/// Injects the fault `kind`. Returns the reply to send if the fault is a wrong reply; for any other fault it does not return.
///
/// # Errors
/// [`FrameError::Io`] if the pipe fails.
pub(crate) fn inject(
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
            status.liveness_word().store(0, Ordering::Release);
            die(Signal::SIGKILL);
        }
        FaultKind::Half => liveness::end_main_thread(),
        FaultKind::WrongSpan => return Ok(Reply { output: Span { offset: u64::MAX, length: 1 }, ..reply }),
        FaultKind::WrongJob => return Ok(Reply { job: reply.job.wrapping_add(1), ..reply }),
        FaultKind::Lie => return Ok(Reply { output: Span::default(), ..reply }),
        // One byte is never a whole pair, whatever the byte is.
        FaultKind::WrongPairs => return Ok(Reply { output: Span { offset: 0, length: 1 }, ..reply }),
    }
    loop {
        std::thread::park();
    }
}

fn die(signal: Signal) {
    // wasmtime and the standard library have handlers for SIGSEGV. For a signal that no guest caused, each handler installs the
    // previous action and returns, so that a faulting instruction faults again. A raised signal has no faulting instruction, so
    // it has to be raised once more after each handler. If the signal is not fatal even then, the worker hangs, and the
    // supervisor's deadline ends it.
    const HANDLERS: usize = 3;
    for _ in 0..=HANDLERS {
        let _ = raise(signal);
    }
}
