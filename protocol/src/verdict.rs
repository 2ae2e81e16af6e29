//! The result of a job.
//!
//! There are two families of verdicts. A [`GuestVerdict`] is a property of module, block and profile: every host reaches the
//! same one, so it is final. A [`HostVerdict`] is about one process or one machine: the job is run again on another worker.
//! A worker can only send a guest verdict. Host verdicts come from what the supervisor itself observed. So the two are separate
//! types, and only the guest verdict can be encoded.

use std::fmt;

use bincode::{Decode, Encode};

/// A result that every host reaches for the same module, block and profile. The job is never retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum GuestVerdict {
    /// A block returned and flushed, or a view returned a valid result.
    Completed,
    /// The guest trapped: unreachable, division by zero, out of bounds, stack overflow, a call of an absent import, and so on.
    Trap,
    /// The guest called `env.abort`.
    Abort,
    /// `_start` returned without a flush.
    Incomplete,
    /// The guest trapped or aborted after a `memory.grow` was refused at the memory limit.
    MemoryExhausted,
    /// The guest used up the fuel of the profile.
    FuelExhausted,
    /// The guest flushed or returned more bytes than the profile allows.
    OutputTooLarge,
    /// The guest flushed bytes that are not a valid `KeyValueFlush`, or passed a pointer outside its memory.
    BadOutput,
    /// The module does not export the function that the job calls, or exports it with another type.
    NoSuchExport,
}

/// A result that is about one process or one machine. The job is retried on a fresh worker, a bounded number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostVerdict {
    /// The worker died by SIGKILL, and there is evidence of an out-of-memory kill: a line of the kernel's log that names the worker, or
    /// a count of the worker's cgroup. A count of the whole host is no evidence.
    OomKilled,
    /// The worker died by a signal that another process sent (SIGKILL, SIGTERM and the like), without evidence of memory
    /// shortage.
    Killed,
    /// The worker died by a signal of its own: SIGSEGV, SIGBUS, SIGILL, SIGABRT and the like.
    Crashed,
    /// The worker exited without having been told to.
    Exited,
    /// The worker did not reply within the job's wall-clock limit.
    Deadline,
    /// The worker sent a frame that does not parse, a span outside its arena, or a reply to another job.
    ProtocolViolation,
    /// The worker ended before `Hello` because its memory could not be committed.
    CommitFailed,
}

/// The result of a job, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A result that is the same on every host.
    Guest(GuestVerdict),
    /// A result about this process or machine.
    Host(HostVerdict),
}

impl GuestVerdict {
    /// Every guest verdict, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Trap,
        Self::Abort,
        Self::Incomplete,
        Self::MemoryExhausted,
        Self::FuelExhausted,
        Self::OutputTooLarge,
        Self::BadOutput,
        Self::NoSuchExport,
    ];

    /// The verdict's name in reports, JSON and digests. The name is part of the digest's definition, so it never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Trap => "trap",
            Self::Abort => "abort",
            Self::Incomplete => "incomplete",
            Self::MemoryExhausted => "memory-exhausted",
            Self::FuelExhausted => "fuel-exhausted",
            Self::OutputTooLarge => "output-too-large",
            Self::BadOutput => "bad-output",
            Self::NoSuchExport => "no-such-export",
        }
    }

    /// The verdict with this [`GuestVerdict::name`]; none if there is no such verdict.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }
}

impl HostVerdict {
    /// The verdict's name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OomKilled => "oom-killed",
            Self::Killed => "killed",
            Self::Crashed => "crashed",
            Self::Exited => "exited",
            Self::Deadline => "deadline",
            Self::ProtocolViolation => "protocol-violation",
            Self::CommitFailed => "commit-failed",
        }
    }
}

impl Verdict {
    /// The verdict of a job that completed.
    pub const COMPLETED: Self = Self::Guest(GuestVerdict::Completed);

    /// The verdict's name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest(verdict) => verdict.name(),
            Self::Host(verdict) => verdict.name(),
        }
    }

    /// Whether the job completed.
    pub fn is_completed(self) -> bool {
        self == Self::COMPLETED
    }
}

impl From<GuestVerdict> for Verdict {
    fn from(verdict: GuestVerdict) -> Self {
        Self::Guest(verdict)
    }
}

impl From<HostVerdict> for Verdict {
    fn from(verdict: HostVerdict) -> Self {
        Self::Host(verdict)
    }
}

impl fmt::Display for GuestVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for HostVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_names_are_unique_and_convert_back() {
        for verdict in GuestVerdict::ALL {
            assert_eq!(GuestVerdict::from_name(verdict.name()), Some(verdict));
        }
        assert_eq!(GuestVerdict::from_name("oom-killed"), None, "a host verdict is not a guest verdict");
    }
}
