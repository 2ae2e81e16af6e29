//! Reaping orphans when this process is process 1, without reaping its own children.
//!
//! The code that started a child waits for that child. If the child were reaped elsewhere, its exit status would be lost. So
//! children are recorded as they are started, under the same lock under which orphans are reaped. A child that was not recorded
//! is an orphan.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::host::proc_file::Stat;
use cofferdam_base::sync::lock;

static RECORDS: AtomicBool = AtomicBool::new(false);
static OURS: Mutex<Option<HashSet<Child>>> = Mutex::new(None);

/// A process id, and when its process was started, in clock ticks since boot. Process ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Child {
    pid: i32,
    started: u64,
}

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    parent: i32,
    is_zombie: bool,
    started: u64,
}

/// Records children from now on. Call this before the first child is started.
pub fn record_children() {
    RECORDS.store(true, Ordering::Release);
}

/// Starts a child, and records it before anybody can take it for an orphan.
pub(super) fn starting(start: impl FnOnce() -> io::Result<Pid>) -> io::Result<Pid> {
    if !RECORDS.load(Ordering::Acquire) {
        return start();
    }
    let mut ours = lock(&OURS);
    let pid = start()?;
    // The process exists until somebody waits for it. Where /proc is not mounted, no orphan is found either.
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

/// The children of this process that have ended and have not been reaped.
fn zombies() -> Vec<(i32, ProcessStat)> {
    let own = Pid::this().as_raw();
    let listed = fs::read_dir("/proc").into_iter().flatten();
    let pids = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let stats = pids.filter_map(|pid| Some((pid, stat(pid)?)));
    stats.filter(|(_, stat)| stat.parent == own && stat.is_zombie).collect()
}

fn stat(pid: i32) -> Option<ProcessStat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(line: &str) -> Option<ProcessStat> {
    let stat = Stat::parse(line)?;
    let is_zombie = stat.field::<char>(3)? == 'Z';
    Some(ProcessStat { parent: stat.field(4)?, is_zombie, started: stat.field(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_start_whatever_it_is_called() {
        let line =
            "7 (a) Z 1) b) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 18446744073709551615";
        assert_eq!(parse(line), Some(ProcessStat { parent: 1, is_zombie: true, started: 4711 }));
        assert_eq!(parse("7 (sh) S"), None);
        let own = stat(Pid::this().as_raw()).unwrap();
        assert_eq!(own.parent, Pid::parent().as_raw());
        assert!(!own.is_zombie && own.started > 0);
    }
}
