//! A drain and the jobs, callers and starts of the pool.

use super::*;

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

#[test]
fn a_pool_that_was_drained_neither_grows_nor_shrinks_and_says_so_at_once() {
    let pool = build(small(SCRIPT).workers(2).initially(1));
    assert!(pool.drain(PATIENCE));
    let (grown, shrunk) = in_time("both answer", move || (pool.grow(), pool.shrink(PATIENCE * 10)));
    assert!(matches!(grown, Err(PoolError::Draining)), "{grown:?}");
    assert!(!shrunk);
}

/// Has `pool` grow in a thread of its own, and stops the worker while it starts. Gives the thread and the process.
fn grow_and_stop(pool: &Arc<Pool>) -> (thread::JoinHandle<Result<bool, PoolError>>, u32) {
    loop {
        let slots = pool.health().slots.len();
        let grows = thread::spawn({
            let pool = Arc::clone(pool);
            move || pool.grow()
        });
        let pid = wait_until("the process is there", || {
            let slot = pool.health().slots.get(slots).cloned()?;
            slot.pid.filter(|_| slot.state == SlotState::Starting || grows.is_finished())
        });
        send(pid, Signal::SIGSTOP);
        wait_until("it stops, or is done", || (process_state(pid) == Some('T')).then_some(()));
        if pool.health().slots[slots].state == SlotState::Starting {
            return (grows, pid);
        }
        // It was ready already: once more.
        send(pid, Signal::SIGCONT);
        assert!(grows.join().expect("it does not panic").expect("it is ready"));
        wait_until("one is given up", || pool.shrink(PATIENCE).then_some(()));
    }
}

#[test]
fn a_drain_ends_a_worker_that_is_being_added() {
    let pool = Arc::new(build(small(SCRIPT).workers(2).initially(1)));
    let (grows, pid) = grow_and_stop(&pool);
    assert!(pool.drain(PATIENCE));
    let grown = in_time("the call returns", move || grows.join().unwrap());
    assert!(matches!(grown, Err(PoolError::Draining)), "{grown:?}");
    assert_gone(&[pid]);
}

#[test]
fn a_worker_that_cannot_be_added_leaves_no_slot_behind() {
    let pool = Arc::new(build(small(SCRIPT).workers(2).initially(1).start_timeout(Duration::from_secs(5))));
    let (grows, pid) = grow_and_stop(&pool);
    let grown = in_time("the call returns", move || grows.join().unwrap());
    assert!(matches!(grown, Err(PoolError::StartTimeout(_))), "{grown:?}");
    assert_gone(&[pid]);
    assert_eq!(pool.health().slots.len(), 1);
    assert!(pool.grow().unwrap(), "there is room for one more");
    assert_eq!((pool.health().ready(), pool.health().slots.len()), (2, 2));
    // As many as there are: with the last of them, callers are told that no worker will come.
    assert!(pool.shrink(PATIENCE) && pool.shrink(PATIENCE));
    let called = in_time("a caller is told", move || pool.call(&good_block(1)).map(drop));
    assert!(matches!(called, Err(PoolError::NoWorker)), "{called:?}");
}

#[test]
fn a_start_whose_progress_breaks_or_panics_leaves_no_process() {
    let children_before = children();
    let broken = small(SCRIPT).workers(2).build_with(&mut |_| ControlFlow::Break(()));
    // Where it is ready before it is asked, that is the last word, and no question.
    drop(broken);
    let panics =
        || small(SCRIPT).workers(2).build_with(&mut |_| panic!("a defect of the caller, on purpose"));
    assert!(catch_unwind(panics).is_err());
    wait_until("every worker is gone", || {
        children().iter().all(|pid| children_before.contains(pid)).then_some(())
    });
}
