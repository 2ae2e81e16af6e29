//! Pools that change their size, and tickets that collect their results by a reactor.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use cofferdam::fault::Fault;
use cofferdam::pool::{Job, Pool, PoolError, SlotHealth, SlotState, Ticket};
use cofferdam::status::Phase;
use cofferdam::verdict::{HostVerdict, Verdict};
use cofferdam_tests::support::guests::{Act, SCRIPT, good_block, good_pair, key_value_flush};
use cofferdam_tests::support::pool::{
    assert_good_block, build, is_running, limits, pairs, send, small, wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

cofferdam::enable_test_support!();

const LONG: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Submits `job` within `runtime`, to an idle worker. Nobody has polled the ticket.
fn submit(runtime: &Runtime, pool: &Pool, job: Job) -> Ticket {
    wait_until("a worker is idle", || {
        pool.health().slots.iter().any(|slot| slot.state == SlotState::Idle).then_some(())
    });
    let _within = runtime.enter();
    pool.submit(job).expect("the pool takes jobs")
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
    let ticket = pool.submit(Act::Spin(0).block(1)).unwrap();
    wait_for_state(&pool, 0, SlotState::Busy);
    assert!(!pool.shrink(Duration::from_millis(100)));
    assert_eq!(pool.health().slots.len(), 1);
    assert!(!pool.drain(Duration::ZERO));
    assert!(matches!(ticket.wait(), Err(PoolError::Draining)));
}

#[test]
fn a_job_that_loses_its_worker_is_run_again_and_its_ticket_is_woken() {
    let fault: Fault = "5x1:kill".parse().unwrap();
    let pool = build(small(SCRIPT).faults(vec![fault]).limits(limits(LONG, 2)));
    let runtime = runtime();
    let ticket = submit(&runtime, &pool, good_block(5));
    let result = runtime.block_on(ticket).unwrap();
    assert_eq!((pairs(&result), result.attempts()), (vec![good_pair(5)], 2));
    wait_until("the worker is replaced", || (pool.health().ready() == 1).then_some(()));
    assert_good_block(&pool, 6);
    // The deaths in a slot are known when the slot is removed.
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

#[test]
fn a_reactor_waits_for_a_short_job_a_long_one_and_one_that_loses_its_worker() {
    let pool = build(small(SCRIPT).limits(limits(Duration::from_secs(2), 0)));
    let runtime = runtime();
    let run = |job: Job| runtime.block_on(submit(&runtime, &pool, job)).unwrap();
    assert_eq!(pairs(&run(good_block(1))), [good_pair(1)]);
    assert_eq!(run(Act::Spin(30_000_000).block(2).deadline(LONG)).verdict, Verdict::COMPLETED);
    assert_eq!(run(Act::Spin(0).block(3)).verdict, Verdict::Host(HostVerdict::Deadline));
    wait_until("the worker is replaced", || (pool.health().ready() == 1).then_some(()));
    let spins = submit(&runtime, &pool, Act::Spin(0).block(4).deadline(LONG));
    let result = runtime.block_on(async {
        let mut spins = pin!(spins);
        let early = tokio::time::timeout(Duration::from_millis(5), &mut spins).await;
        assert!(early.is_err(), "it runs for ever: {early:?}");
        send(workers(&pool)[0], Signal::SIGKILL);
        spins.await
    });
    assert_eq!(result.unwrap().verdict, Verdict::Host(HostVerdict::Killed));
}

#[test]
fn a_job_whose_ticket_is_dropped_costs_no_worker() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let before = workers(&pool);
    drop(submit(&runtime(), &pool, Act::Spin(10_000_000).block(1)));
    // This job waits for the worker, which is still running the other one.
    assert_good_block(&pool, 2);
    assert_eq!((workers(&pool), pool.health().deaths()), (before, 0));
}

#[test]
fn a_ticket_that_nobody_polls_keeps_no_worker_from_others() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let runtime = runtime();
    let held = [(); 3].map(|()| {
        let held = submit(&runtime, &pool, Act::Spin(1_000_000).block(1));
        assert_good_block(&pool, 2);
        held
    });
    // Queued jobs are others, too.
    let first = submit(&runtime, &pool, Act::Spin(1_000_000).block(3));
    let second = pool.submit(good_block(4)).unwrap();
    assert_eq!(pairs(&second.wait().unwrap()), [good_pair(4)]);
    for ticket in held.into_iter().chain([first]) {
        assert_eq!(ticket.wait().unwrap().verdict, Verdict::COMPLETED);
    }
}

#[test]
fn the_deadline_of_a_job_holds_though_nobody_polls_its_ticket() {
    let pool = build(small(SCRIPT).limits(limits(Duration::from_millis(50), 0)));
    let ticket = submit(&runtime(), &pool, Act::Spin(0).block(1));
    wait_until("its worker is killed", || (pool.health().deaths() == 1).then_some(()));
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::Host(HostVerdict::Deadline));
}

#[test]
fn a_ticket_of_a_runtime_can_be_asked_waited_for_and_awaited_elsewhere() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let runtime = runtime();
    let ticket = submit(&runtime, &pool, good_block(1));
    wait_until("it is done", || ticket.is_done().then_some(()));
    assert_eq!(pairs(&ticket.wait().unwrap()), [good_pair(1)]);
    let ticket = submit(&runtime, &pool, Act::Spin(10_000_000).block(2));
    assert!(!ticket.is_done());
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::COMPLETED);
    let ticket = submit(&runtime, &pool, Act::Spin(10_000_000).block(3));
    assert_eq!(block_on(ticket).unwrap().verdict, Verdict::COMPLETED);
}

/// The smallest executor, which has no reactor: polls in this thread, which sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_drain_does_not_wait_for_whoever_holds_a_ticket() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let spins = submit(&runtime(), &pool, Act::Spin(0).block(1));
    assert!(!pool.drain(Duration::from_millis(50)));
    assert!(matches!(spins.wait(), Err(PoolError::Draining)));
}

#[test]
fn a_job_in_flight_when_a_drain_begins_is_finished_within_the_grace() {
    let pool = build(small(SCRIPT).limits(limits(LONG, 0)));
    let ticket = submit(&runtime(), &pool, Act::Spin(100_000_000).block(1));
    // Nobody polls the ticket meanwhile.
    assert!(pool.drain(LONG));
    assert_eq!(ticket.wait().unwrap().verdict, Verdict::COMPLETED);
}

#[test]
fn an_answer_with_a_large_output_arrives_whole() {
    const BYTES: usize = 300 << 10;
    let pool = build(small(SCRIPT).memory(8 << 20).limits(limits(LONG, 0)));
    let value = vec![7; BYTES];
    let block = Act::Flush(&key_value_flush(&[b"key", &value])).block(1);
    let runtime = runtime();
    let result = runtime.block_on(submit(&runtime, &pool, block)).unwrap();
    assert_eq!(pairs(&result), [(b"key".to_vec(), value)]);
    assert_good_block(&pool, 2);
}
