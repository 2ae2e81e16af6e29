//! What happens when workers die, lie or hang: the job is run again on a fresh worker, a bounded number of times; the
//! worker is replaced; and whoever goes first, no process is left behind.

mod callers;
mod faults;
mod kills;
mod quarantine;

use std::fs::File;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex, Once};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use cofferdam::fault::Fault;
use cofferdam::host::cgroup::ChildCgroup;
use cofferdam::pool::restart::RestartPolicy;
use cofferdam::pool::{Death, Job, JobResult, Pool, PoolBuilder, PoolError, QuarantinePolicy, SlotState};
use cofferdam::status::Phase;
use cofferdam::verdict::{HostVerdict, Verdict};
use cofferdam_test_skips::skip;
use cofferdam_tests::support::guests::{Act, SCRIPT, START_SPINS, good_block, good_pair};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, assert_lost, assert_retried, build, call, is_running, limits, pairs,
    process_state, send, small, wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// Long enough for a worker that is alive to answer, on any machine; short enough to wait for one that is not.
const DEADLINE: Duration = Duration::from_secs(3);

/// A small pool with a fault planted, such as `5x1:kill`.
fn planted(fault: &str) -> PoolBuilder {
    small(SCRIPT).faults(vec![fault.parse().expect("a fault plan")])
}

/// Runs block 5, which hangs at its first attempt, and has `strike` do something to its worker meanwhile.
fn strike_while_busy(pool: &Pool, strike: impl FnOnce(u32)) -> JobResult {
    thread::scope(|scope| {
        let job = scope.spawn(|| call(pool, &good_block(5)));
        strike(wait_for_state(pool, 0, SlotState::Busy));
        job.join().expect("the caller's thread")
    })
}
