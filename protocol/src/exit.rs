//! Exit codes of Cofferdam's processes: one documented number for each reason, unique within each enum.
//!
//! Numbers from 64 to 78 follow `sysexits.h`. A shell, Docker and Kubernetes show 137 (128 + SIGKILL) for a process that the
//! kernel killed because memory ran out. A worker whose commit was refused exits with 137 too. So a lack of memory shows as 137
//! in a shell, in Docker and in Kubernetes, whether the kernel killed the worker or the worker exited by itself.

/// Exit code of a worker process or a compiler process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorkerExit {
    /// The supervisor told the process to stop, or closed the request pipe.
    Stopped = 0,
    /// The process was started with arguments or descriptors that it cannot use (`EX_USAGE`).
    Usage = 64,
    /// The artifact does not load, or does not match the profile (`EX_DATAERR`).
    ArtifactRefused = 65,
    /// The worker itself has a defect, for example it panicked (`EX_SOFTWARE`).
    Internal = 70,
    /// The kernel refused a hardening step (`EX_OSERR`).
    NotHardened = 71,
    /// The supervisor sent a frame that does not parse or that contradicts the store (`EX_PROTOCOL`).
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

    /// The number that the process exits with.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The reason that `code` stands for; none if no process of Cofferdam exits with it.
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

/// Exit code of the `cofferdam` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CommandExit {
    /// The command did all that it was asked to do.
    Success = 0,
    /// A block failed, an input was bad, or an expectation did not hold.
    Failure = 1,
    /// The command line is wrong, or a command that compares could not complete the comparison.
    Usage = 2,
    /// No worker is healthy (`EX_UNAVAILABLE`).
    NoWorker = 69,
    /// Memory could not be committed: the memory budget or the kernel refused it, or the kernel killed the worker.
    NotCommitted = 137,
}

impl CommandExit {
    /// Every exit code of the command.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Failure, Self::Usage, Self::NoWorker, Self::NotCommitted];

    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_codes_are_unique_and_convert_back() {
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
