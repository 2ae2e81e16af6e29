//! The end of a pool: a drain, a drop, a start that fails, a supervisor that is killed. No process is left behind.

mod from_inside;
mod pool;
mod processes;

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self};
use std::time::Duration;

use cofferdam::pool::{Death, Pool, PoolBuilder, PoolError, SlotState};
use cofferdam::verdict::Verdict;
use cofferdam_test_skips::skip;
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block, good_pair};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, build, children, is_running, limits, pairs, process_state, send, small,
    wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// A small pool with a fault planted, such as `5x1:kill`.
fn planted(fault: &str) -> PoolBuilder {
    small(SCRIPT).faults(vec![fault.parse().expect("a fault plan")])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics within a lock")
}

/// Checks that none of these processes is there, not even as one that was not reaped.
fn assert_gone(pids: &[u32]) {
    let children = children();
    assert!(!pids.is_empty());
    assert!(!pids.iter().any(|pid| children.contains(pid)), "{pids:?} are gone from {children:?}");
}

/// Runs `work` in a thread, and gives what it gives; fails if that takes for ever.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let running = thread::spawn(work);
    wait_until(what, || running.is_finished().then_some(()));
    running.join().expect("it does not panic")
}
