//! Telling the children that this process has started from the orphans that it was given, as process 1 is.
//!
//! Whoever started a child waits for it, and must find it: to reap it elsewhere would lose how it ended. So children are noted
//! as they are started, under the same lock under which orphans are reaped; what is not noted is an orphan.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use cofferdam_base::sync::lock;

static NOTES: AtomicBool = AtomicBool::new(false);
static OURS: Mutex<Option<HashSet<Child>>> = Mutex::new(None);

/// A process id, which is used again, and when its process was started, in clock ticks since the machine was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Child {
    pid: i32,
    started: u64,
}

/// What `/proc` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    is_zombie: bool,
    started: u64,
}

/// From now on children are noted. Call it before the first one is started.
pub fn tell_apart() {
    NOTES.store(true, Ordering::Release);
}

/// Starts a child, which is noted before anybody can take it for an orphan.
pub(super) fn starting(start: impl FnOnce() -> io::Result<Pid>) -> io::Result<Pid> {
    if !NOTES.load(Ordering::Acquire) {
        return start();
    }
    let mut ours = lock(&OURS);
    let pid = start()?;
    // It is there until somebody waits for it. Where /proc is not, no orphan is found either.
    let started = stat(pid.as_raw()).map_or(0, |stat| stat.started);
    ours.get_or_insert_default().insert(Child { pid: pid.as_raw(), started });
    Ok(pid)
}

/// Reaps the orphans that have ended.
pub fn reap() {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if matches!(waitid(Id::All, ended), Ok(WaitStatus::StillAlive) | Err(_)) {
        return;
    }
    let mut ours = lock(&OURS);
    let ours = ours.get_or_insert_default();
    ours.retain(|child| stat(child.pid).is_some_and(|stat| stat.started == child.started));
    for (pid, stat) in zombies() {
        if !ours.contains(&Child { pid, started: stat.started }) {
            let reaped = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            tracing::debug!("an orphan was reaped: {reaped:?}");
        }
    }
}

/// The children of this process that have ended and were not waited for.
fn zombies() -> Vec<(i32, Stat)> {
    let own = Pid::this().as_raw();
    let listed = fs::read_dir("/proc").into_iter().flatten();
    let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let stats = pids.filter_map(|pid| Some((pid, stat(pid)?)));
    stats.filter(|(_, stat)| stat.parent == own && stat.is_zombie).collect()
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of proc_pid_stat(5). The second field is a name, which can have blanks and brackets in it.
fn parse(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let is_zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    // Field 22; the parent is field 4.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, is_zombie, started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_start_whatever_it_is_called() {
        let line =
            "7 (a) Z 1) b) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 18446744073709551615";
        assert_eq!(parse(line), Some(Stat { parent: 1, is_zombie: true, started: 4711 }));
        assert_eq!(parse("7 (sh) S"), None);
        let own = stat(Pid::this().as_raw()).unwrap();
        assert_eq!(own.parent, Pid::parent().as_raw());
        assert!(!own.is_zombie && own.started > 0);
    }
}
