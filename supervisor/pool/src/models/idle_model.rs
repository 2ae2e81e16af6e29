//! A model of the idle workers: no token has two owners, no token is lost, nobody waits for ever while a worker is idle, and the
//! order in which workers are taken.

use shuttle::thread;

use super::ORDERS;
use super::primitives;
use super::primitives::Arc;

/// As much of a worker as the idle set looks at.
mod worker {
    use cofferdam_protocol::status::Phase;
    use shuttle::sync::atomic::{AtomicBool, Ordering};

    use super::primitives::{Arc, Mutex, lock};

    #[derive(Debug)]
    pub(super) struct Worker {
        pub(super) number: usize,
        alive: AtomicBool,
        pub(super) status: Status,
    }

    #[derive(Debug)]
    pub(super) struct Status(Mutex<Phase>);

    impl Status {
        pub(super) fn phase(&self) -> Option<Phase> {
            Some(*lock(&self.0))
        }

        pub(super) fn set_phase(&self, phase: Phase) {
            *lock(&self.0) = phase;
        }
    }

    impl Worker {
        pub(super) fn new(number: usize) -> Arc<Self> {
            Arc::new(Self { number, alive: AtomicBool::new(true), status: Status(Mutex::new(Phase::Idle)) })
        }

        pub(super) fn is_alive(&self) -> bool {
            self.alive.load(Ordering::SeqCst)
        }

        pub(super) fn die(&self) {
            self.alive.store(false, Ordering::SeqCst);
        }
    }

    #[derive(Debug)]
    pub(super) struct IdleWorker {
        pub(super) worker: Arc<Worker>,
    }
}

#[path = "../idle.rs"]
#[allow(clippy::duplicate_mod, reason = "the same file, of other primitives")]
mod idle;

use cofferdam_protocol::status::Phase;
use idle::{Choice, Idle};
use worker::{IdleWorker, Worker};

fn token(worker: &Arc<Worker>) -> IdleWorker {
    IdleWorker { worker: Arc::clone(worker) }
}

/// As `Dispatcher::take_idle` does.
fn take(idle: &Idle) -> IdleWorker {
    idle.try_take().or_else(|| idle.take(Choice::Soonest, None)).expect("it is not closed")
}

#[test]
fn each_worker_is_had_by_one_at_a_time_and_whoever_waits_gets_one() {
    shuttle::check_random(
        || {
            let idle = Arc::new(Idle::new());
            let workers = [Worker::new(0), Worker::new(1)];
            let had = Arc::new([const { std::sync::atomic::AtomicBool::new(false) }; 2]);
            workers.iter().for_each(|worker| idle.put(token(worker)));
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let (idle, had) = (Arc::clone(&idle), Arc::clone(&had));
                    thread::spawn(move || {
                        for _ in 0..2 {
                            let token = take(&idle);
                            let number = token.worker.number;
                            let order = std::sync::atomic::Ordering::SeqCst;
                            assert!(!had[number].swap(true, order), "it has two owners");
                            thread::yield_now();
                            had[number].store(false, order);
                            idle.put(token);
                        }
                    })
                })
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            assert_eq!(idle.stop().len(), 2, "none is lost");
        },
        ORDERS,
    );
}

#[test]
fn whoever_waits_gets_the_next_worker_though_one_dies_and_is_cleared_away() {
    shuttle::check_random(
        || {
            let idle = Arc::new(Idle::new());
            let (dies, lives) = (Worker::new(0), Worker::new(1));
            idle.put(token(&dies));
            let caller = thread::spawn({
                let idle = Arc::clone(&idle);
                move || {
                    // It may have been dying when it was taken; then it is given up, as by `IdleWorker::wait_exit`.
                    let mut taken = take(&idle);
                    while taken.worker.number == 0 {
                        taken = take(&idle);
                    }
                }
            });
            // Its slot's thread: notes the death, clears its token away, and puts the next one.
            let slot = thread::spawn({
                let (idle, dies) = (Arc::clone(&idle), Arc::clone(&dies));
                move || {
                    dies.die();
                    idle.remove_dead();
                    idle.put(token(&lives));
                }
            });
            // Somebody puts the dead one back, late.
            let late = thread::spawn({
                let (idle, dies) = (Arc::clone(&idle), Arc::clone(&dies));
                move || idle.put(token(&dies))
            });
            for thread in [caller, slot, late] {
                thread.join().unwrap();
            }
            assert!(idle.stop().is_empty(), "no token of a dead worker stays");
        },
        ORDERS,
    );
}

#[test]
fn the_one_that_was_used_last_goes_next_unless_it_is_still_being_reset() {
    shuttle::check_random(
        || {
            let idle = Idle::new();
            let (first, last) = (Worker::new(0), Worker::new(1));
            idle.put(token(&first));
            idle.put(token(&last));
            let taken = idle.try_take().unwrap();
            assert_eq!(taken.worker.number, 1, "it is awake, and its caches are warm");
            last.status.set_phase(Phase::Resetting);
            idle.put(taken);
            assert_eq!(idle.try_take().unwrap().worker.number, 0, "the other one is sooner at it");
            assert_eq!(idle.take(Choice::Oldest, None).unwrap().worker.number, 1);
        },
        1,
    );
}

#[test]
fn whoever_waits_hears_that_no_worker_will_come_and_a_stopped_set_keeps_no_token() {
    shuttle::check_random(
        || {
            let idle = Arc::new(Idle::new());
            let waits = thread::spawn({
                let idle = Arc::clone(&idle);
                move || idle.take(Choice::Soonest, None).is_none()
            });
            let late = thread::spawn({
                let idle = Arc::clone(&idle);
                move || idle.put(token(&Worker::new(0)))
            });
            drop(idle.stop());
            idle.close();
            late.join().unwrap();
            // It may have taken the token that was put before the stop.
            let _ = waits.join().unwrap();
            assert!(idle.stop().is_empty() && idle.is_closed());
            idle.reopen();
            assert!(!idle.is_closed());
        },
        ORDERS,
    );
}
