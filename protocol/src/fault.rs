//! Planted faults: ways for a test to make a worker die or lie at a chosen job.
//!
//! A host failure cannot be written in WebAssembly, so the tests of supervision need a worker that fails on request.
//! Plans travel in [`crate::message::Configure`] and are empty unless somebody asked for them by name.

use std::str::FromStr;

use bincode::{Decode, Encode};
use thiserror::Error;

/// What the worker does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FaultKind {
    /// Kills itself with SIGKILL.
    Kill,
    /// Raises SIGSEGV.
    Segv,
    /// Raises SIGABRT.
    Abort,
    /// Exits with this code.
    Exit(u8),
    /// Sends a frame that does not decode.
    Garbage,
    /// Announces a frame longer than the cap.
    LongFrame,
    /// Answers with a span outside the output arena.
    WrongSpan,
    /// Answers another job than it was asked.
    WrongJob,
    /// Answers with output that is no list of pairs.
    WrongPairs,
    /// Answers that the guest gave nothing, whatever it gave. The worker of a pool's first slot alone does, so that there
    /// is somebody to hold it against.
    Lie,
    /// Does not answer.
    Hang,
    /// Overwrites its life lock (see [`crate::status`]), then kills itself with SIGKILL.
    Forge,
    /// Ends its main thread with exit code 1, and lives on in another.
    Half,
}

/// A fault at one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fault {
    /// The height of the job that it strikes.
    pub height: u32,
    /// How many attempts at that job it strikes; a later attempt is answered truly.
    pub attempts: u32,
    /// What happens.
    pub kind: FaultKind,
}

/// A fault plan that does not parse.
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
    fn plans_parse() {
        assert_eq!("7:kill".parse(), Ok(Fault { height: 7, attempts: 1, kind: FaultKind::Kill }));
        assert_eq!("7x3:exit=9".parse(), Ok(Fault { height: 7, attempts: 3, kind: FaultKind::Exit(9) }));
        for bad in ["", "7", "7:", "x:kill", "7:exit=", "7:exit=300", "7x:kill"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
