//! Callers on many threads, and tickets.

use super::*;

#[test]
fn deaths_during_jobs_do_not_count_against_the_slot() {
    let policy = RestartPolicy { intensity: 0, ..RestartPolicy::default() };
    let pool = build(planted("5x9:kill").restart(policy).limits(limits(PATIENCE, 4)));
    let result = call(&pool, &good_block(5));
    assert_lost(&result, 5, HostVerdict::Killed);
    assert_good_block(&pool, 6);
}

#[test]
fn callers_on_many_threads_get_their_own_answers() {
    let pool = build(small(SCRIPT).workers(2).spares(1));
    thread::scope(|scope| {
        for thread in 0..8 {
            let pool = &pool;
            scope.spawn(move || (0..25).for_each(|n| drop(assert_good_block(pool, thread * 100 + n))));
        }
    });
    assert_eq!(pool.health().deaths(), 0);
}

#[test]
fn callers_on_many_threads_survive_workers_that_die_all_the_time() {
    let faults: Vec<Fault> =
        (0..200).step_by(10).map(|height| format!("{height}:kill").parse().unwrap()).collect();
    let pool = build(small(SCRIPT).workers(2).faults(faults));
    thread::scope(|scope| {
        for thread in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for height in thread * 50..thread * 50 + 50 {
                    let result = call(pool, &good_block(height));
                    assert_eq!(pairs(&result), [good_pair(height)], "{result:?}");
                    assert_eq!(result.attempts(), if height % 10 == 0 { 2 } else { 1 }, "{result:?}");
                }
            });
        }
    });
    assert_eq!(pool.health().deaths(), 20);
}

#[test]
fn tickets_bring_each_its_own_result() {
    let pool = build(small(SCRIPT).workers(2));
    let tickets: Vec<_> = (0..60).map(|height| (height, pool.submit(good_block(height)).unwrap())).collect();
    // Waited for out of order.
    for (height, ticket) in tickets.into_iter().rev() {
        let result = ticket.wait().unwrap();
        assert_eq!(pairs(&result), [good_pair(height)]);
    }
    assert_eq!(pool.health().queued, 0);
}

/// The smallest executor: polls in this thread, which sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    block_on_and(future, || {})
}

/// The same; calls `pending` each time before it sleeps.
fn block_on_and<F: Future>(future: F, pending: impl Fn()) -> F::Output {
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
            Poll::Pending => {
                pending();
                thread::park();
            }
        }
    }
}

#[test]
fn tickets_can_be_awaited() {
    let pool = build(planted("1x1:hang"));
    // Pending for certain: its worker hangs until it is killed.
    let ticket = pool.submit(good_block(1)).unwrap();
    let pid = wait_for_state(&pool, 0, SlotState::Busy);
    let killed = Once::new();
    let result = block_on_and(ticket, || killed.call_once(|| send(pid, Signal::SIGKILL))).unwrap();
    assert!(killed.is_completed(), "it was pending");
    assert_retried(&result, 1, HostVerdict::Killed);
    let both = async {
        let (first, second) = (pool.submit(good_block(2)).unwrap(), pool.submit(good_block(3)).unwrap());
        (second.await.unwrap(), first.await.unwrap())
    };
    let (third, second) = block_on(both);
    assert_eq!((pairs(&second), pairs(&third)), (vec![good_pair(2)], vec![good_pair(3)]));
}

#[test]
fn a_full_queue_says_that_it_is_saturated() {
    let pool = build(planted("1x1:hang").queue(2));
    let running = pool.submit(good_block(1)).unwrap();
    let pid = wait_for_state(&pool, 0, SlotState::Busy);
    let waiting = [2, 3].map(|height| (height, pool.submit(good_block(height)).unwrap()));
    assert_eq!(pool.health().queued, 2);
    assert!(matches!(pool.submit(good_block(4)), Err(PoolError::Saturated { waiting: 2, limit: 2 })));
    assert!(!running.is_done());
    send(pid, Signal::SIGKILL);
    assert_retried(&running.wait().unwrap(), 1, HostVerdict::Killed);
    for (height, ticket) in waiting {
        assert_eq!(pairs(&ticket.wait().unwrap()), [good_pair(height)]);
    }
    assert_eq!(pairs(&pool.submit(good_block(5)).unwrap().wait().unwrap()), [good_pair(5)]);
}
