//! A new process is given file descriptors at fixed numbers, and its role on the command line.
//!
//! A worker is the same executable as its supervisor, started again with an empty environment. So the role is passed in the
//! arguments.

use std::ffi::CStr;
use std::os::fd::RawFd;

/// Read end of the pipe that carries requests.
pub const REQUESTS: RawFd = 3;
/// Write end of the pipe that carries replies.
pub const REPLIES: RawFd = 4;
/// A worker's input arena, or the module for the compiler. Sealed, so the process can only read it.
pub const INPUT: RawFd = 5;
/// A worker's output arena, or the memfd that the compiler writes its artifact to.
pub const OUTPUT: RawFd = 6;
/// The compiled module, sealed against every write. Workers only.
pub const ARTIFACT: RawFd = 7;
/// The status page. Workers only.
pub const STATUS: RawFd = 8;
/// The arena of layers, which all workers of a pool share. Sealed, so a worker can only read it. Workers only.
pub const LAYERS: RawFd = 9;
/// The first thing that a new process does is to close every descriptor from this number on.
pub const FIRST_UNUSED: RawFd = 10;

/// The role of a process that a supervisor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Commits memory and runs jobs.
    Worker,
    /// Compiles one module and exits.
    Compiler,
}

impl Role {
    /// `argv[0]` of the process, which is the name that `ps` shows.
    pub const fn process_name(self) -> &'static str {
        match self {
            Self::Worker => "cofferdam-worker",
            Self::Compiler => "cofferdam-compiler",
        }
    }

    /// Numbers of the descriptors that the process is given.
    pub const fn descriptors(self) -> &'static [RawFd] {
        match self {
            Self::Worker => &[REQUESTS, REPLIES, INPUT, OUTPUT, ARTIFACT, STATUS, LAYERS],
            Self::Compiler => &[REQUESTS, REPLIES, INPUT, OUTPUT],
        }
    }

    /// Name of the process in `/proc/PID/comm`, which holds at most 15 bytes.
    pub const fn short_name(self) -> &'static CStr {
        match self {
            Self::Worker => c"cofferdam-work",
            Self::Compiler => c"cofferdam-comp",
        }
    }

    /// `argv[1]` of the process. It is long and unusual, so nobody passes it by accident.
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Worker => "__cofferdam_become_worker",
            Self::Compiler => "__cofferdam_become_compiler",
        }
    }

    /// The role in the arguments of a process (starting with `argv[0]`); none if the process was started by a user.
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
