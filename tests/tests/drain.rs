//! The end of a pool: a drain, a drop, a start that fails, a supervisor that is killed. No process is left behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread::{self};
use std::time::Duration;

use cofferdam::pool::{PoolBuilder, PoolError, SlotState};
use cofferdam::verdict::Verdict;
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block, good_pair};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, build, children, is_running, limits, pairs, send, small, wait_for_state,
    wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// A small pool with a fault planted, such as `5x1:kill`.
fn planted(fault: &str) -> PoolBuilder {
    small(SCRIPT).faults(vec![fault.parse().expect("a fault plan")])
}

/// Checks that none of these processes is there, not even as one that was not reaped.
fn assert_gone(pids: &[u32]) {
    let children = children();
    assert!(!pids.is_empty());
    assert!(!pids.iter().any(|pid| children.contains(pid)), "{pids:?} are gone from {children:?}");
}

#[test]
fn a_drain_lets_a_running_job_finish_and_leaves_no_process() {
    let pool = build(small(SCRIPT).workers(2).spares(1));
    let pids = workers(&pool);
    let ticket = pool.submit(Act::Spin(50_000_000).block(1)).unwrap();
    wait_until("it runs", || {
        let busy = pool.health().slots.iter().any(|slot| slot.state == SlotState::Busy);
        (busy || ticket.is_done()).then_some(())
    });
    assert!(pool.drain(PATIENCE), "everything that ran has finished");
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::COMPLETED);
    assert_eq!(pids.len(), 3);
    assert_gone(&pids);
    assert!(matches!(pool.submit(good_block(2)), Err(PoolError::Draining)));
    assert!(matches!(pool.call(&good_block(2)), Err(PoolError::Draining)));
    assert!(pool.drain(Duration::ZERO), "a second drain has nothing to do");
    assert_eq!(pool.health().deaths(), 0, "an end that was asked for is no death");
}

#[test]
fn a_drain_does_not_wait_for_longer_than_its_grace() {
    let pool = build(planted("1x9:hang").queue(5));
    let pids = workers(&pool);
    let running = pool.submit(good_block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    let queued = [2, 3].map(|height| pool.submit(good_block(height)).unwrap());
    assert!(!pool.drain(Duration::from_millis(100)), "one job did not finish");
    assert!(matches!(running.wait(), Err(PoolError::Draining)));
    for ticket in queued {
        assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
    }
    assert_gone(&pids);
}

#[test]
fn callers_that_wait_for_a_worker_are_told_of_a_drain() {
    let pool = build(planted("1x9:hang"));
    thread::scope(|scope| {
        let running = scope.spawn(|| pool.call(&good_block(1)));
        wait_for_state(&pool, 0, SlotState::Busy);
        let waiting = [2, 3, 4].map(|height| {
            scope.spawn({
                let pool = &pool;
                move || pool.call(&good_block(height))
            })
        });
        let other = scope.spawn(|| pool.drain(Duration::ZERO));
        pool.drain(Duration::from_millis(100));
        other.join().unwrap();
        assert!(matches!(running.join().unwrap(), Err(PoolError::Draining)));
        for caller in waiting {
            assert!(matches!(caller.join().unwrap(), Err(PoolError::Draining)));
        }
    });
}

#[test]
fn a_job_that_a_drain_cuts_off_is_not_called_poisoned() {
    // Without retries: were the end of its worker taken for a failure, it would be the final one.
    let pool = build(planted("1x9:hang").limits(limits(PATIENCE, 0)));
    let ticket = pool.submit(good_block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    assert!(!pool.drain(Duration::ZERO));
    assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
}

#[test]
fn a_job_submitted_just_before_a_drain_is_answered_one_way_or_the_other() {
    for _ in 0..20 {
        let pool = build(small(SCRIPT));
        let ticket = pool.submit(good_block(1)).unwrap();
        pool.drain(PATIENCE);
        match ticket.wait() {
            Ok(result) => assert_eq!(pairs(&result), [good_pair(1)]),
            Err(error) => assert!(matches!(error, PoolError::Draining), "{error:?}"),
        }
    }
}

#[test]
fn a_pool_that_is_dropped_leaves_no_process() {
    let pool = build(small(SCRIPT).workers(2));
    let pids = workers(&pool);
    assert_good_block(&pool, 1);
    drop(pool);
    assert_gone(&pids);
}

#[test]
fn a_pool_whose_start_fails_leaves_no_process() {
    let error = small(SCRIPT).workers(2).start_timeout(Duration::ZERO).build().unwrap_err();
    assert!(matches!(error, PoolError::StartTimeout(_)), "{error:?}");
}

/// Set in the process that plays the supervisor.
const SUPERVISOR: &str = "COFFERDAM_TEST_SUPERVISOR";

#[test]
#[ignore = "the second process of another test"]
fn second_supervises_until_it_is_killed() {
    if std::env::var_os(SUPERVISOR).is_none() {
        return;
    }
    let pool = build(small(SCRIPT).workers(2).spares(1));
    // One that took the place of another, one that is busy in compiled code, one that waits.
    send(workers(&pool)[0], Signal::SIGKILL);
    wait_until("the death", || (pool.health().deaths() == 1).then_some(()));
    wait_for_state(&pool, 0, SlotState::Idle);
    let _busy = pool.submit(Act::Spin(0).block(1)).unwrap();
    wait_until("it runs", || {
        pool.health().slots.iter().any(|slot| slot.state == SlotState::Busy).then_some(())
    });
    println!("\nWORKERS {:?}", workers(&pool));
    loop {
        thread::park();
    }
}

/// Workers of a supervisor that is gone: should they outlive it, they must not outlive the test too.
struct Orphans(Vec<u32>);

impl Drop for Orphans {
    fn drop(&mut self) {
        self.0.iter().filter(|pid| is_running(**pid)).for_each(|pid| send(*pid, Signal::SIGKILL));
    }
}

#[test]
fn workers_end_with_a_supervisor_that_is_killed() {
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "second_supervises_until_it_is_killed"])
        .env(SUPERVISOR, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(supervisor.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("WORKERS ")).expect("it says its workers");
    let list = line.trim_start_matches("WORKERS ").trim_matches(['[', ']']);
    let orphans = Orphans(list.split(", ").map(|pid| pid.parse().unwrap()).collect());
    let pids = &orphans.0;
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    wait_until("every worker ends", || (!pids.iter().any(|pid| is_running(*pid))).then_some(()));
}
