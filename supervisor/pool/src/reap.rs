//! Waiting for the end of a worker process.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::death::KillReason;
use super::worker::Worker;

/// Waits until the process has ended, and reaps it. Also returns why the worker was killed, if it was.
pub(super) fn wait_exit(worker: &Worker) -> (WaitStatus, Option<KillReason>) {
    // This waits without reaping. `Worker::reap` then reaps while nobody can send a signal, because the process id may belong to
    // another process afterwards.
    while waitid(Id::Pid(worker.pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    worker.reap(|| reap(worker.pid()))
}

fn reap(pid: Pid) -> WaitStatus {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            Ok(status) => return status,
            // ECHILD: the embedding program ignores SIGCHLD, or has reaped the process. How it ended is then not known.
            Err(_) => return WaitStatus::Exited(pid, -1),
        }
    }
}
