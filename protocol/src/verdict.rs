//! What came of a job.
//!
//! There are two families, and the difference between them is the product. A [`GuestVerdict`] is a property of
//! module, block and profile: every host says the same, so it is final. A [`HostVerdict`] is about one process or one
//! machine: the job is worth running again elsewhere. A worker can only ever send a guest verdict; host verdicts come
//! from what the supervisor itself saw, which is why the two are separate types and only one of them is encodable.

use std::fmt;

use bincode::{Decode, Encode};

/// A result that every host gives for the same module, block and profile. Never retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum GuestVerdict {
    /// Returned, and flushed (a block), or returned a valid result (a view).
    Completed,
    /// Trapped: unreachable, division by zero, out of bounds, stack overflow, a call of an absent import, and so on.
    Trap,
    /// Called `env.abort`.
    Abort,
    /// `_start` returned without a flush.
    Incomplete,
    /// Trapped or aborted after a `memory.grow` had been refused at the memory limit.
    MemoryExhausted,
    /// Used up the fuel of the profile.
    FuelExhausted,
    /// Flushed or returned more bytes than the profile allows.
    OutputTooLarge,
    /// Flushed bytes that are no valid `KeyValueFlush`, or handed over a pointer outside its memory.
    BadOutput,
    /// The module lacks the export that the job asked for, or it has another type.
    NoSuchExport,
}

/// A result that is about one process or one machine. Retried on a fresh worker, a bounded number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostVerdict {
    /// SIGKILL, and an out-of-memory kill was counted by the cgroup or the host meanwhile.
    OomKilled,
    /// A signal that somebody sent: SIGKILL, SIGTERM and the like, without evidence of memory shortage.
    Killed,
    /// A signal that the process raised itself: SIGSEGV, SIGBUS, SIGILL, SIGABRT and the like.
    Crashed,
    /// Ended with an exit code that nobody asked for.
    Exited,
    /// Did not answer within the job's wall-clock limit.
    Deadline,
    /// Sent a frame that does not parse, a span outside its arena, or an answer to another job.
    ProtocolViolation,
    /// Ended before `Hello` because its memory could not be committed.
    CommitFailed,
}

/// What came of a job, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The same on every host.
    Guest(GuestVerdict),
    /// About this process or machine.
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

    /// The verdict's name in reports, JSON and digests. Part of the digest's definition: it never changes.
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

    /// The verdict that [`GuestVerdict::name`] names, if any.
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
    /// The job did what it should.
    pub const COMPLETED: Self = Self::Guest(GuestVerdict::Completed);

    /// The verdict's name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest(verdict) => verdict.name(),
            Self::Host(verdict) => verdict.name(),
        }
    }

    /// Whether the job did what it should.
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
    fn guest_names_are_unique_and_lead_back() {
        for verdict in GuestVerdict::ALL {
            assert_eq!(GuestVerdict::from_name(verdict.name()), Some(verdict));
        }
        assert_eq!(GuestVerdict::from_name("oom-killed"), None, "a host verdict is no guest verdict");
    }
}
