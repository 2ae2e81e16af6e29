//! What there is to shut a worker in with.

#![allow(unsafe_code, reason = "seccomp, landlock and unshare in a forked child have no wrappers in nix")]

use std::ptr;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::probe::setting;
use super::{Finding, Level};

/// Whether a worker can be confined to the system calls that it needs (seccomp(2)).
pub(super) fn seccomp() -> Finding {
    let filters = status_field("Seccomp_filters").filter(|count| count != "0");
    let already = filters.map_or_else(String::new, |count| format!(", {count} filters in force already"));
    let (level, value, meaning) = match kill_process_available() {
        Ok(()) => (
            Level::Good,
            format!("filters available{already}"),
            "workers can be confined to the system calls that they need",
        ),
        Err(error) => (
            Level::Warning,
            format!("filters not available: {error}{already}"),
            "workers cannot be confined to the system calls that they need: use Linux 4.14 or later with \
             CONFIG_SECCOMP_FILTER",
        ),
    };
    Finding::new("seccomp", level, value, meaning)
}

/// Whether filters exist whose verdict ends the whole process. Installs none.
fn kill_process_available() -> nix::Result<()> {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    let get = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: this operation reads the u32 that the pointer leads to and changes nothing.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, get, 0, ptr::from_ref(&action)) }).map(drop)
}

/// A field of /proc/self/status.
fn status_field(name: &str) -> Option<String> {
    let status = setting("/proc/self/status")?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_string()))
}

/// Whether a worker can be kept from the file system (landlock(7)).
pub(super) fn landlock() -> Finding {
    let (level, value, meaning) = match landlock_abi() {
        Ok(abi) => (Level::Good, format!("ABI version {abi}"), "workers can be kept from the file system"),
        Err(Errno::EOPNOTSUPP) => (
            Level::Warning,
            "disabled at boot".into(),
            "workers cannot be kept from the file system: add landlock to the kernel's lsm= parameter",
        ),
        Err(error) => (
            Level::Warning,
            format!("not available: {error}"),
            "workers cannot be kept from the file system: use Linux 5.13 or later, or a seccomp profile that allows \
             landlock_create_ruleset",
        ),
    };
    Finding::new("landlock", level, value, meaning)
}

fn landlock_abi() -> nix::Result<libc::c_long> {
    const CREATE_RULESET_VERSION: u32 = 1 << 0;
    let no_rules = ptr::null::<u8>();
    // SAFETY: with this flag the pointer must be null and the size zero; the call only returns a number.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, no_rules, 0, CREATE_RULESET_VERSION)
    })
}

/// Whether a worker can be put into namespaces of its own (user_namespaces(7)).
pub(super) fn user_namespaces() -> Finding {
    let (level, value, meaning) = match try_user_namespace() {
        Ok(()) => (Level::Good, "can be made".into(), "workers can have namespaces of their own"),
        Err(error) => (
            Level::Info,
            format!("cannot be made: {error}"),
            "workers stay in the namespaces of the supervisor; nothing else of the sandbox needs this",
        ),
    };
    Finding::new("user-namespaces", level, value, meaning)
}

/// Enters a user namespace in a child: one cannot be left again, and a process with threads may not enter any.
fn try_user_namespace() -> nix::Result<()> {
    // SAFETY: the child makes two system calls and is gone; it allocates nothing and takes no lock, so that it
    // does not matter in which state other threads of this process left theirs.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: unshare takes flags only; a child of fork is single-threaded, as CLONE_NEWUSER demands.
            let code = if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0 { 0 } else { Errno::last_raw() };
            // SAFETY: ends the child without running what the parent registered to run at exit.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            _ => Err(Errno::EPERM),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_a_user_namespace_leaves_this_process_where_it_was() {
        let namespace = || std::fs::read_link("/proc/self/ns/user").unwrap();
        let before = namespace();
        let _ = try_user_namespace();
        assert_eq!(namespace(), before);
    }

    #[test]
    fn status_fields_are_read_by_whole_names() {
        assert_eq!(status_field("Pid"), Some(std::process::id().to_string()));
        assert_eq!(status_field("Pi"), None);
    }
}
