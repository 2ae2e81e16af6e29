//! Where a new process finds what it was given: descriptors at fixed numbers, and its role on the command line.
//!
//! A worker is this same executable, started again with an empty environment, so the role travels in the arguments.

use std::ffi::CStr;
use std::os::fd::RawFd;

/// Read end of the pipe that carries requests.
pub const REQUESTS: RawFd = 3;
/// Write end of the pipe that carries replies.
pub const REPLIES: RawFd = 4;
/// A worker's input arena, or the compiler's module; read-only by seal.
pub const INPUT: RawFd = 5;
/// A worker's output arena, or the memfd that the compiler writes its artifact to.
pub const OUTPUT: RawFd = 6;
/// The compiled module, sealed against every write. Workers only.
pub const ARTIFACT: RawFd = 7;
/// The status page. Workers only.
pub const STATUS: RawFd = 8;
/// The arena of layers, which all workers of a pool share; read-only by seal. Workers only.
pub const LAYERS: RawFd = 9;
/// Every descriptor from here on is closed by the new process before anything else.
pub const FIRST_UNUSED: RawFd = 10;

/// What a process of ours was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Commits memory and runs jobs.
    Worker,
    /// Compiles one module and exits.
    Compiler,
}

impl Role {
    /// `argv[0]` of the process: the name that `ps` shows.
    pub const fn process_name(self) -> &'static str {
        match self {
            Self::Worker => "cofferdam-worker",
            Self::Compiler => "cofferdam-compiler",
        }
    }

    /// Name of the process in `/proc/PID/comm`, which takes 15 bytes.
    pub const fn short_name(self) -> &'static CStr {
        match self {
            Self::Worker => c"cofferdam-work",
            Self::Compiler => c"cofferdam-comp",
        }
    }

    /// `argv[1]` of the process: long and odd enough that nobody passes it by accident.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Worker => "__cofferdam_become_worker",
            Self::Compiler => "__cofferdam_become_compiler",
        }
    }

    /// The role that the arguments of a process (with `argv[0]`) ask for; none for an ordinary start.
    pub fn from_arguments<I, S>(arguments: I) -> Option<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let second = arguments.into_iter().nth(1)?;
        [Self::Worker, Self::Compiler].into_iter().find(|role| second.as_ref() == role.argument())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_from_the_second_argument_only() {
        let role = |arguments: &[&str]| Role::from_arguments(arguments.iter().copied());
        assert_eq!(role(&["x", Role::Worker.argument()]), Some(Role::Worker));
        assert_eq!(role(&["x", Role::Compiler.argument()]), Some(Role::Compiler));
        assert_eq!(role(&[Role::Worker.argument()]), None);
        assert_eq!(role(&["x", "run", Role::Worker.argument()]), None);
    }
}
