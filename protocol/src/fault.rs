//! Fault injection: a test can make a worker die, or send a wrong reply, at a chosen job.
//!
//! A WebAssembly module cannot cause a host failure, so the tests of supervision need a worker that fails on request. The
//! faults are sent in [`crate::message::Configure`]. Their list is empty unless a test or an option of the command line asks for
//! faults.

use std::str::FromStr;

use bincode::{Decode, Encode};
use thiserror::Error;

/// What the worker does instead of sending the right reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FaultKind {
    /// The worker kills itself with SIGKILL.
    Kill,
    /// The worker raises SIGSEGV.
    Segv,
    /// The worker raises SIGABRT.
    Abort,
    /// The worker exits with this code.
    Exit(u8),
    /// The worker sends a frame that does not decode.
    Garbage,
    /// The worker announces a frame longer than the cap.
    LongFrame,
    /// The reply names a span outside the output arena.
    WrongSpan,
    /// The reply names another job.
    WrongJob,
    /// The reply names output that is not a list of pairs.
    WrongPairs,
    /// The reply says that the guest's output is empty, whatever it was. Only the worker of a pool's first slot does this, so
    /// that the other workers give the right result to compare with.
    Lie,
    /// The worker does not reply.
    Hang,
    /// The worker overwrites its liveness lock (see [`crate::status`]), then kills itself with SIGKILL.
    Forge,
    /// The worker's main thread ends with exit code 1, and the process goes on in another thread.
    Half,
}

/// A fault to inject at one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fault {
    /// Height of the job that fails.
    pub height: u32,
    /// Number of attempts at that job that fail. Later attempts get the right reply.
    pub attempts: u32,
    /// How the job fails.
    pub kind: FaultKind,
}

/// A text that does not describe a fault.
#[derive(Clone, PartialEq, Eq, Error)]
#[error(
    "fault {0:?}: expected HEIGHT:KIND or HEIGHTxATTEMPTS:KIND with KIND one of kill, segv, abort, exit=CODE, \
     garbage, long-frame, wrong-span, wrong-job, wrong-pairs, lie, hang, forge, half"
)]
pub struct ParseFaultError(String);

crate::debug_as_display!(ParseFaultError);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (place, kind) = text.split_once(':')?;
            let (height, attempts) = place.split_once('x').unwrap_or((place, "1"));
            Some(Self {
                height: height.parse().ok()?,
                attempts: attempts.parse().ok()?,
                kind: parse_kind(kind)?,
            })
        };
        parse().ok_or_else(|| ParseFaultError(text.to_owned()))
    }
}

fn parse_kind(text: &str) -> Option<FaultKind> {
    Some(match text {
        "kill" => FaultKind::Kill,
        "segv" => FaultKind::Segv,
        "abort" => FaultKind::Abort,
        "garbage" => FaultKind::Garbage,
        "long-frame" => FaultKind::LongFrame,
        "wrong-span" => FaultKind::WrongSpan,
        "wrong-job" => FaultKind::WrongJob,
        "wrong-pairs" => FaultKind::WrongPairs,
        "lie" => FaultKind::Lie,
        "hang" => FaultKind::Hang,
        "forge" => FaultKind::Forge,
        "half" => FaultKind::Half,
        _ => FaultKind::Exit(text.strip_prefix("exit=")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_parsed() {
        assert_eq!("7:kill".parse(), Ok(Fault { height: 7, attempts: 1, kind: FaultKind::Kill }));
        assert_eq!("7x3:exit=9".parse(), Ok(Fault { height: 7, attempts: 3, kind: FaultKind::Exit(9) }));
        for bad in ["", "7", "7:", "x:kill", "7:exit=", "7:exit=300", "7x:kill"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
