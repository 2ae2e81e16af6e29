//! Pools that change their size, and jobs that are begun and not waited for.

use std::time::Duration;

use cofferdam::fault::Fault;
use cofferdam::pool::{Aloft, Begun, Job, Pool, PoolError, SlotHealth};
use cofferdam::status::Phase;
use cofferdam::verdict::{HostVerdict, Verdict};
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block, good_pair, key_value_flush};
use cofferdam_tests::support::pool::{
    assert_good_block, build, is_running, limits, pairs, send, small, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

const LONG: Duration = Duration::from_secs(20);

fn begin(pool: &Pool, job: Job, patience: Duration) -> Begun {
    match pool.begin(job, patience).expect("the pool takes jobs") {
        Begun::Aloft(aloft) => Begun::Later(aloft.follow().expect("it is followed")),
        begun => begun,
    }
}

#[test]
fn a_pool_grows_up_to_what_was_asked_for_and_shrinks_to_nothing() {
    let pool = build(small(SCRIPT).workers(2).spares(1).initially(1));
    assert_eq!((pool.health().slots.len(), pool.full_size(), pool.workers()), (1, 3, 2));
    assert_good_block(&pool, 1);
    assert!(pool.grow().unwrap() && pool.grow().unwrap());
    assert!(!pool.grow().unwrap(), "it is whole");
    assert_eq!((pool.health().ready(), workers(&pool).len()), (3, 3));
    assert_good_block(&pool, 2);
    let before = workers(&pool);
    assert!(pool.shrink(LONG));
    // Its memory is free when the call returns: the process is gone.
    let left = workers(&pool);
    assert_eq!(left.len(), 2);
    assert!(before.iter().filter(|pid| !left.contains(pid)).all(|pid| !is_running(*pid)));
    assert_eq!(pool.health().deaths(), 0, "an end that was asked for is no death");
    assert_good_block(&pool, 3);
    assert!(pool.shrink(LONG) && pool.shrink(LONG));
    assert!(!pool.shrink(Duration::from_millis(50)), "there is none left");
    // And back: a slot that was given up by intent is not one that failed.
    assert!(pool.is_lost(), "no worker will come by itself");
    assert!(pool.grow().unwrap() && !pool.is_lost());
    assert_good_block(&pool, 4);
    assert!(pool.drain(LONG));
    assert!(!before.iter().any(|pid| is_running(*pid)));
}

#[test]
fn a_busy_worker_is_not_given_up() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let Begun::Later(ticket) = begin(&pool, Act::Spin(0).block(1), Duration::from_millis(5)) else {
        panic!("it runs for ever")
    };
    assert!(!pool.shrink(Duration::from_millis(100)));
    assert_eq!(pool.health().slots.len(), 1);
    assert!(!pool.drain(Duration::ZERO));
    assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
}

#[test]
fn a_short_job_is_done_at_once_and_a_long_one_is_followed() {
    let pool = build(small(SCRIPT).limits(limits(Duration::from_millis(500), 0)));
    let Begun::Done(result) = begin(&pool, good_block(1), LONG) else { panic!("it takes microseconds") };
    assert_eq!(pairs(&result), [good_pair(1)]);
    let Begun::Later(ticket) = begin(&pool, Act::Spin(0).block(2), Duration::from_millis(1)) else {
        panic!("it runs for ever")
    };
    // No worker is idle: this one is only queued.
    let Begun::Later(next) = begin(&pool, good_block(3), LONG) else {
        panic!("there is one worker, and it is busy")
    };
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::Host(HostVerdict::Deadline));
    assert_eq!(pairs(&next.wait().unwrap()), [good_pair(3)]);
}

#[test]
fn a_job_that_loses_its_worker_while_it_is_begun_is_run_again() {
    let fault: Fault = "5x1:kill".parse().unwrap();
    let pool = build(small(SCRIPT).faults(vec![fault]).limits(limits(LONG, 2)));
    // However long the caller is ready to wait: a death is not waited for here.
    let Begun::Later(ticket) = begin(&pool, good_block(5), LONG) else { panic!("its worker dies") };
    let result = ticket.wait().unwrap();
    assert_eq!((pairs(&result), result.attempts()), (vec![good_pair(5)], 2));
    wait_until("the worker is replaced", || (pool.health().ready() == 1).then_some(()));
    assert_good_block(&pool, 6);
    // What happened in a slot is known when the slot is no more.
    assert!(pool.shrink(LONG));
    assert_eq!((pool.health().slots.len(), pool.health().deaths()), (0, 1));
}

#[test]
fn the_worker_that_was_used_last_goes_next_once_it_is_reset() {
    // What goes next while it is still being reset is settled where no process has to be caught at it: `pool/idle.rs`.
    let pool = build(small(SCRIPT).workers(2));
    let first = assert_good_block(&pool, 0).worker.pid;
    for height in 1..20 {
        wait_until("it is reset", || {
            let slots = pool.health().slots;
            let is_idle = |slot: &SlotHealth| slot.pid == Some(first) && slot.phase == Some(Phase::Idle);
            slots.iter().any(is_idle).then_some(())
        });
        assert_eq!(
            assert_good_block(&pool, height).worker.pid,
            first,
            "it is awake, and its caches are warm"
        );
    }
}

/// A job that a worker is at, and that nobody has looked at yet.
fn aloft(pool: &Pool, job: Job) -> Aloft {
    match pool.begin(job, Duration::ZERO).expect("the pool takes jobs") {
        Begun::Aloft(aloft) => aloft,
        begun => panic!("a worker was idle, and nobody has looked: {begun:?}"),
    }
}

#[test]
fn a_reactor_waits_for_a_short_job_a_long_one_and_one_that_loses_its_worker() {
    let pool = build(small(SCRIPT).limits(limits(Duration::from_secs(2), 0)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let land = |job: Aloft| runtime.block_on(job.land()).unwrap();
    assert_eq!(pairs(&land(aloft(&pool, good_block(1)))), [good_pair(1)]);
    assert_eq!(land(aloft(&pool, Act::Spin(30_000_000).block(2).deadline(LONG))).verdict, Verdict::COMPLETED);
    assert_eq!(land(aloft(&pool, Act::Spin(0).block(3))).verdict, Verdict::Host(HostVerdict::Deadline));
    wait_until("the worker is replaced", || (pool.health().ready() == 1).then_some(()));
    let spins = aloft(&pool, Act::Spin(0).block(4));
    let Begun::Aloft(spins) = spins.look(Duration::from_millis(5)).unwrap() else {
        panic!("it runs for ever")
    };
    send(workers(&pool)[0], Signal::SIGKILL);
    assert_eq!(land(spins).verdict, Verdict::Host(HostVerdict::Killed));
}

#[test]
fn a_job_that_is_dropped_while_it_is_aloft_costs_no_worker() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let before = workers(&pool);
    drop(aloft(&pool, Act::Spin(10_000_000).block(1)));
    // It waits for the worker that is still at the other one.
    assert_good_block(&pool, 2);
    assert_eq!((workers(&pool), pool.health().deaths()), (before, 0));
}

#[test]
fn a_drain_does_not_wait_for_whoever_holds_a_job_that_is_aloft() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let spins = aloft(&pool, Act::Spin(0).block(1));
    assert!(!pool.drain(Duration::from_millis(50)));
    assert!(matches!(spins.look(LONG), Err(PoolError::Draining)));
}

#[test]
fn a_job_that_is_aloft_when_a_drain_begins_is_followed_within_the_grace() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let job = aloft(&pool, Act::Spin(100_000_000).block(1));
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| pool.drain(LONG));
        wait_until("it takes no more", || pool.submit(good_block(2)).is_err().then_some(()));
        assert_eq!(job.follow().unwrap().wait().unwrap().verdict, Verdict::COMPLETED);
        assert!(drained.join().unwrap());
    });
}

#[test]
fn an_answer_with_much_output_is_left_to_a_thread_of_the_pool() {
    const BYTES: usize = 300 << 10;
    let pool = build(small(SCRIPT).memory(8 << 20).limits(limits(LONG, 0)));
    let value = vec![7; BYTES];
    let block = Act::Flush(&key_value_flush(&[b"key", &value])).block(1);
    let Begun::Later(ticket) = aloft(&pool, block).look(LONG).unwrap() else { panic!("it is much") };
    assert_eq!(pairs(&ticket.wait().unwrap()), [(b"key".to_vec(), value)]);
    assert_good_block(&pool, 2);
}
