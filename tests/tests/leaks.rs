//! Pools that come and go leave nothing: no process, no descriptor, no thread, no mapping.
//!
//! In a file of its own, with one test, because it counts what the whole process has.

use std::fs;
use std::time::Duration;

use cofferdam::pool::{JobResult, PoolError, SlotState};
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_good_block, build, call, children, descriptors, limits, send, small, wait_for_state,
    wait_until,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// One pool's whole life: good blocks, traps, deaths of every kind, jobs in the queue at its end. Gives the results.
fn live_and_die() -> Vec<JobResult> {
    let faults = ["2:kill", "3:exit=1", "4:garbage"].map(|fault| fault.parse().expect("a fault plan"));
    let pool = build(small(SCRIPT).workers(2).spares(1).faults(faults.to_vec()));
    let mut results = Vec::new();
    for height in 0..6 {
        results.push(call(&pool, &good_block(height)));
        results.push(call(&pool, &Act::ExhaustThenTrap.block(50)));
    }
    assert!(results.iter().step_by(2).all(|result| result.verdict.is_completed()));
    send(wait_for_state(&pool, 2, SlotState::Idle), Signal::SIGKILL);
    let tickets: Vec<_> = (60..70).map(|height| pool.submit(good_block(height))).collect();
    drop(pool);
    drop(tickets);
    results
}

/// A pool that ends while its worker hangs, and starts that fail at each step.
fn fail() {
    let faults = vec!["1x9:hang".parse().expect("a fault plan")];
    let pool = build(small(SCRIPT).faults(faults).limits(limits(PATIENCE, 0)));
    let ticket = pool.submit(good_block(1)).expect("there is room in the queue");
    wait_for_state(&pool, 0, SlotState::Busy);
    drop(pool);
    assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
    for builder in [
        small("(module"),
        small("(module (func (result i32)))"),
        small(SCRIPT).workers(2).start_timeout(Duration::ZERO),
        small(SCRIPT).state("/nonexistent"),
    ] {
        assert!(builder.build().is_err());
    }
}

fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("the mappings of this process");
    maps.lines().filter(|line| line.contains("memfd:cofferdam")).count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("the threads of this process").count()
}

#[test]
fn pools_that_come_and_go_leave_nothing_behind() {
    let pid = std::process::id();
    // The first time, things are made that are kept: the harness's own, allocator arenas, and the like.
    live_and_die();
    fail();
    let (before, threads_before) = (descriptors(pid), threads());
    for _ in 0..5 {
        // What is kept of jobs keeps nothing of the workers.
        let _results = live_and_die();
        fail();
        assert_eq!(children(), Vec::<u32>::new(), "no process, reaped or not");
        assert_eq!(descriptors(pid), before);
        assert_eq!(mappings(), 0);
        wait_until("threads that were joined are gone", || (threads() <= threads_before).then_some(()));
    }
    // And it can tell: a pool that lives is seen.
    let pool = build(small(SCRIPT));
    assert_good_block(&pool, 1);
    assert_eq!(children().len(), 1);
    assert!(descriptors(pid).len() > before.len() && threads() > threads_before && mappings() > 0);
}
