//! A drain that is called by code which the pool itself runs: a death hook, a waker.

use super::*;

/// A pool that its own hook or waker can reach.
type Shared = Arc<Mutex<Option<Pool>>>;

#[test]
fn a_hook_may_drain_the_pool_and_drop_it() {
    for drops in [false, true] {
        let shared = Shared::default();
        let (tell, told) = mpsc::channel();
        let (tell, reached) = (Mutex::new(tell), Arc::clone(&shared));
        let hook = move |_: &Death| {
            // Taken out before it is used: the test looks at it meanwhile.
            let pool = lock(&reached).take();
            let Some(pool) = pool else { return };
            if !drops {
                assert!(pool.drain(Duration::ZERO), "nothing runs");
            }
            drop(pool);
            lock(&tell).send(()).unwrap();
        };
        let pool = build(small(SCRIPT).workers(2).on_death(hook));
        let pids = workers(&pool);
        *lock(&shared) = Some(pool);
        send(pids[0], Signal::SIGKILL);
        told.recv_timeout(PATIENCE).expect("the hook returns");
        assert_gone(&pids);
    }
}

/// A waker that drains the pool.
struct Drains {
    pool: Weak<Pool>,
    tell: Mutex<mpsc::Sender<bool>>,
}

impl Wake for Drains {
    fn wake(self: Arc<Self>) {
        let drained = self.pool.upgrade().is_none_or(|pool| pool.drain(Duration::ZERO));
        lock(&self.tell).send(drained).expect("the test waits for it");
    }
}

#[test]
fn the_waker_of_a_ticket_may_drain_the_pool() {
    let pool = Arc::new(build(small(SCRIPT).workers(2)));
    let pids = workers(&pool);
    let (tell, told) = mpsc::channel();
    let tickets: Vec<_> = (0..2)
        .map(|height| {
            let mut ticket = Box::pin(pool.submit(Act::Spin(50_000_000).block(height)).unwrap());
            let waker = Drains { pool: Arc::downgrade(&pool), tell: Mutex::new(tell.clone()) };
            let waker = Waker::from(Arc::new(waker));
            assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            ticket
        })
        .collect();
    // Two at once: one of them finds the other at it.
    for _ in 0..2 {
        told.recv_timeout(PATIENCE).expect("the waker returns");
    }
    assert_gone(&pids);
    in_time("a drain from elsewhere", move || pool.drain(PATIENCE));
    drop(tickets);
}
