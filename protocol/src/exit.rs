//! What Cofferdam's processes end with: one documented number per reason, unique within each enum.
//!
//! Numbers of 64 to 78 follow `sysexits.h`. 137 is what a shell, Docker and Kubernetes show for a process that the
//! kernel killed for memory (128 + SIGKILL), so a refused commit has the same number at every layer.

/// What a worker process, or a compiler process, exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorkerExit {
    /// Told to stop, or the supervisor closed the request pipe.
    Stopped = 0,
    /// Started with arguments or descriptors that it cannot use (`EX_USAGE`).
    Usage = 64,
    /// The artifact does not load or does not fit the profile (`EX_DATAERR`).
    ArtifactRefused = 65,
    /// A defect of the worker itself, such as a panic (`EX_SOFTWARE`).
    Internal = 70,
    /// A hardening step was refused (`EX_OSERR`).
    NotHardened = 71,
    /// The supervisor sent a frame that does not parse, or that contradicts the store (`EX_PROTOCOL`).
    ProtocolViolated = 76,
    /// The memory could not be committed.
    NotCommitted = 137,
}

impl WorkerExit {
    /// Every exit code of a worker.
    pub const ALL: [Self; 7] = [
        Self::Stopped,
        Self::Usage,
        Self::ArtifactRefused,
        Self::Internal,
        Self::NotHardened,
        Self::ProtocolViolated,
        Self::NotCommitted,
    ];

    /// The number that the process ends with.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The reason that `code` stands for, if it is one of ours.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// The reason in words, for reports.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Stopped => "told to stop",
            Self::Usage => "started with arguments or descriptors that it cannot use",
            Self::ArtifactRefused => "the artifact was refused",
            Self::Internal => "internal error",
            Self::NotHardened => "a hardening step was refused",
            Self::ProtocolViolated => "the supervisor violated the protocol",
            Self::NotCommitted => "memory not committed",
        }
    }
}

/// What the `cofferdam` command exits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandExit {
    /// Everything that was asked for was done.
    Success = 0,
    /// A block failed, an input was bad, or an expectation did not hold.
    Failure = 1,
    /// The command line is wrong; of a command that compares, also: it did not come to a result.
    Usage = 2,
    /// No worker is healthy any more (`EX_UNAVAILABLE`).
    NoWorker = 69,
    /// Memory could not be committed: refused by the budget or the kernel, or killed by it.
    NotCommitted = 137,
}

impl CommandExit {
    /// Every exit code of the command.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Failure, Self::Usage, Self::NoWorker, Self::NotCommitted];

    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_codes_are_unique_and_lead_back() {
        for exit in WorkerExit::ALL {
            assert_eq!(WorkerExit::from_code(exit.code()), Some(exit));
        }
        assert_eq!(WorkerExit::from_code(1), None);
    }

    #[test]
    fn command_codes_are_unique() {
        for (index, exit) in CommandExit::ALL.iter().enumerate() {
            assert!(CommandExit::ALL[..index].iter().all(|other| other.code() != exit.code()));
        }
    }
}
