//! Tests of admission control with the crate shuttle, like the tests in the pool. shuttle runs the threads of a test in many
//! orders. The tests check that no waiting request is forgotten, that no more requests run than the capacity allows, and that
//! a permit passes to the next request if its own request has just stopped waiting.

use std::time::Duration;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

/// How many orders of the threads are tried.
const ORDERS: usize = 3_000;

/// Stands in for `crate::primitives` in the model.
mod primitives {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};

    /// The time has passed.
    pub(super) struct Elapsed;

    /// With a `max_wait` of zero, gives up at a moment that shuttle chooses. Otherwise never gives up.
    pub(super) async fn timeout<F: Future>(max_wait: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        if !max_wait.is_zero() {
            return Ok(future.await);
        }
        let now = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = now {
            return Ok(output);
        }
        shuttle::future::yield_now().await;
        match poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => Err(Elapsed),
        }
    }

    /// Like tokio's channel: a value that was sent and not received is dropped with the receiver.
    pub(super) mod oneshot {
        use std::future::Future;
        use std::pin::Pin;
        use std::sync::PoisonError;
        use std::task::{Context, Poll, Waker};

        use shuttle::sync::{Arc, Mutex, MutexGuard};

        #[derive(Debug)]
        struct State<T> {
            value: Option<T>,
            waker: Option<Waker>,
            is_sender_gone: bool,
            is_receiver_gone: bool,
        }

        #[derive(Debug)]
        pub(in super::super) struct Sender<T>(Arc<Mutex<State<T>>>);

        #[derive(Debug)]
        pub(in super::super) struct Receiver<T>(Arc<Mutex<State<T>>>);

        fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(in super::super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let state = State { value: None, waker: None, is_sender_gone: false, is_receiver_gone: false };
            let shared = Arc::new(Mutex::new(state));
            (Sender(Arc::clone(&shared)), Receiver(shared))
        }

        impl<T> Sender<T> {
            pub(in super::super) fn send(self, value: T) -> Result<(), T> {
                let mut state = lock(&self.0);
                if state.is_receiver_gone {
                    return Err(value);
                }
                state.value = Some(value);
                Ok(())
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                let waker = {
                    let mut state = lock(&self.0);
                    state.is_sender_gone = true;
                    state.waker.take()
                };
                waker.into_iter().for_each(Waker::wake);
            }
        }

        impl<T> Future for Receiver<T> {
            type Output = Result<T, ()>;

            fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let mut state = lock(&self.0);
                match state.value.take() {
                    Some(value) => Poll::Ready(Ok(value)),
                    None if state.is_sender_gone => Poll::Ready(Err(())),
                    None => {
                        state.waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                }
            }
        }

        impl<T> Drop for Receiver<T> {
            fn drop(&mut self) {
                let value = {
                    let mut state = lock(&self.0);
                    state.is_receiver_gone = true;
                    state.value.take()
                };
                drop(value);
            }
        }
    }
}

#[path = "admission.rs"]
#[allow(clippy::duplicate_mod, reason = "the same source with other primitives")]
#[allow(dead_code, reason = "the model uses a part of it")]
mod admission;

use crate::job_kind;
use admission::{Admission, Rejection};
use job_kind::JobKind;
use primitives::Arc;

const LONG: Duration = Duration::from_secs(1);

#[test]
fn no_request_is_forgotten_and_no_more_run_than_the_capacity_allows() {
    shuttle::check_random(
        || {
            let (admission, running) = (Admission::new(8), Arc::new(AtomicUsize::new(0)));
            let mut threads: Vec<_> = [JobKind::Block, JobKind::View, JobKind::Block]
                .into_iter()
                .map(|kind| {
                    let (admission, running) = (admission.clone(), Arc::clone(&running));
                    thread::spawn(move || {
                        let permit = shuttle::future::block_on(admission.acquire(kind, LONG)).unwrap();
                        assert!(running.fetch_add(1, Ordering::SeqCst) < 2, "the capacity is two");
                        thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    })
                })
                .collect();
            threads.push(thread::spawn({
                let admission = admission.clone();
                move || [2, 0, 1].into_iter().for_each(|capacity| admission.set_capacity(capacity))
            }));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let load = admission.load();
            assert_eq!((load.waiting_blocks, load.waiting_views, load.running), (0, 0, 0));
        },
        ORDERS,
    );
}

#[test]
fn a_permit_for_a_request_that_has_just_gone_is_not_lost() {
    shuttle::check_random(
        || {
            let admission = Admission::new(8);
            admission.set_capacity(1);
            let permit = shuttle::future::block_on(admission.acquire(JobKind::Block, LONG)).unwrap();
            let acquire = |kind, max_wait| {
                let admission = admission.clone();
                thread::spawn(move || shuttle::future::block_on(admission.acquire(kind, max_wait)).map(drop))
            };
            let (gone, stays) = (acquire(JobKind::Block, Duration::ZERO), acquire(JobKind::View, LONG));
            let leaves = thread::spawn(move || drop(permit));
            leaves.join().unwrap();
            assert!(matches!(gone.join().unwrap(), Ok(()) | Err(Rejection::TimedOut)));
            assert_eq!(stays.join().unwrap(), Ok(()));
            assert_eq!(admission.load().running, 0);
        },
        ORDERS,
    );
}

#[test]
fn closing_refuses_a_request_that_waits() {
    shuttle::check_random(
        || {
            let admission = Admission::new(8);
            let waits = thread::spawn({
                let admission = admission.clone();
                move || shuttle::future::block_on(admission.acquire(JobKind::View, LONG)).map(drop)
            });
            let closes = thread::spawn({
                let admission = admission.clone();
                move || admission.close()
            });
            closes.join().unwrap();
            assert_eq!(waits.join().unwrap(), Err(Rejection::Closed));
        },
        ORDERS,
    );
}

/// The model's condition variable has no timeout: a notification that is lost leaves the thread waiting, which shuttle
/// reports as a deadlock.
#[test]
fn a_thread_that_waits_for_idleness_wakes_when_the_last_permit_is_dropped() {
    shuttle::check_random(
        || {
            let admission = Admission::new(8);
            admission.set_capacity(2);
            let acquire = || shuttle::future::block_on(admission.acquire(JobKind::Block, LONG)).unwrap();
            let permits = [acquire(), acquire()];
            // A waiting request does not keep the thread waiting: it is not admitted while the capacity is 0.
            let waits = thread::spawn({
                let admission = admission.clone();
                move || shuttle::future::block_on(admission.acquire(JobKind::View, LONG)).map(drop)
            });
            let idles = thread::spawn({
                let admission = admission.clone();
                move || {
                    admission.set_capacity(0);
                    assert!(admission.wait_until_idle(LONG));
                    assert_eq!(admission.load().running, 0);
                    admission.set_capacity(1);
                }
            });
            let drops = permits.map(|permit| thread::spawn(move || drop(permit)));
            drops.into_iter().for_each(|thread| thread.join().unwrap());
            idles.join().unwrap();
            assert_eq!(waits.join().unwrap(), Ok(()));
        },
        ORDERS,
    );
}
