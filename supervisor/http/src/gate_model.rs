//! A model of the gate, as those in `pool/models`: however its callers and its capacity take turns, nobody is forgotten, no
//! more are in than may be, and a turn that comes to somebody who has just gone is given to the next.

use std::time::Duration;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

/// How many orders of threads are tried.
const ORDERS: usize = 3_000;

/// What `super::primitives` is outside of the model.
mod primitives {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    pub(super) use shuttle::sync::{Arc, Mutex, MutexGuard};

    /// The time is over.
    pub(super) struct Elapsed;

    /// Without patience, gives up at some moment: which one, is shuttle's to choose. Otherwise never.
    pub(super) async fn timeout<F: Future>(patience: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        if !patience.is_zero() {
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

    /// As tokio's: what was sent and not received is dropped with the receiver.
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

#[path = "gate.rs"]
#[allow(clippy::duplicate_mod, reason = "the same file, of other primitives")]
#[allow(dead_code, reason = "only some of it is modelled")]
mod gate;

use gate::{Gate, Lane, Refusal};
use primitives::Arc;

const LONG: Duration = Duration::from_secs(1);

#[test]
fn nobody_is_forgotten_and_no_more_are_in_than_may_be() {
    shuttle::check_random(
        || {
            let (gate, inside) = (Gate::new(8), Arc::new(AtomicUsize::new(0)));
            let mut threads: Vec<_> = [Lane::Blocks, Lane::Views, Lane::Blocks]
                .into_iter()
                .map(|lane| {
                    let (gate, inside) = (gate.clone(), Arc::clone(&inside));
                    thread::spawn(move || {
                        let turn = shuttle::future::block_on(gate.enter(lane, LONG)).unwrap();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "there is room for two");
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(turn);
                    })
                })
                .collect();
            threads.push(thread::spawn({
                let gate = gate.clone();
                move || [2, 0, 1].into_iter().for_each(|capacity| gate.set_capacity(capacity))
            }));
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let load = gate.load();
            assert_eq!((load.blocks, load.views, load.inside), (0, 0, 0));
        },
        ORDERS,
    );
}

#[test]
fn a_turn_that_comes_to_somebody_who_has_just_gone_is_not_lost() {
    shuttle::check_random(
        || {
            let gate = Gate::new(8);
            gate.set_capacity(1);
            let turn = shuttle::future::block_on(gate.enter(Lane::Blocks, LONG)).unwrap();
            let enter = |lane, patience| {
                let gate = gate.clone();
                thread::spawn(move || shuttle::future::block_on(gate.enter(lane, patience)).map(drop))
            };
            let (gone, stays) = (enter(Lane::Blocks, Duration::ZERO), enter(Lane::Views, LONG));
            let leaves = thread::spawn(move || drop(turn));
            leaves.join().unwrap();
            assert!(matches!(gone.join().unwrap(), Ok(()) | Err(Refusal::Waited)));
            assert_eq!(stays.join().unwrap(), Ok(()));
            assert_eq!(gate.load().inside, 0);
        },
        ORDERS,
    );
}

#[test]
fn a_gate_that_is_closed_keeps_nobody() {
    shuttle::check_random(
        || {
            let gate = Gate::new(8);
            let waits = thread::spawn({
                let gate = gate.clone();
                move || shuttle::future::block_on(gate.enter(Lane::Views, LONG)).map(drop)
            });
            let closes = thread::spawn({
                let gate = gate.clone();
                move || gate.close()
            });
            closes.join().unwrap();
            assert_eq!(waits.join().unwrap(), Err(Refusal::Closed));
        },
        ORDERS,
    );
}
