//! A value that one thread hands to another, once. The receiver waits for it, or awaits it.
//!
//! Crate `oneshot` does the same with a receiver of one type for threads and another for tasks. A thread can wait for a ticket, a
//! task can await it, and both can ask whether its result has come, in any order. That needs one type of receiver.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::primitives::{Arc, Condvar, Mutex, lock, wait};

/// The receiving end.
#[derive(Debug)]
pub(super) struct Pending<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Value<T>,
    waker: Option<Waker>,
    /// Whether a thread waits. If no thread waits, none is notified, because a notification costs a system call.
    is_awaited: bool,
}

#[derive(Debug)]
enum Value<T> {
    /// The sender has said nothing yet.
    Expected,
    Sent(T),
    /// The sender was dropped without a value, or the value was taken.
    None,
}

/// Makes the two ends.
pub(super) fn completion<T>() -> (Completion<T>, Pending<T>) {
    let state = Mutex::new(State { value: Value::Expected, waker: None, is_awaited: false });
    let shared = Arc::new(Shared { state, done: Condvar::new() });
    (Completion(Some(Arc::clone(&shared))), Pending(shared))
}

impl<T> State<T> {
    /// The value, or none if there will be none; pending before either is known.
    fn take(&mut self) -> Poll<Option<T>> {
        match std::mem::replace(&mut self.value, Value::None) {
            Value::Expected => {
                self.value = Value::Expected;
                Poll::Pending
            }
            Value::Sent(value) => Poll::Ready(Some(value)),
            Value::None => Poll::Ready(None),
        }
    }
}

impl<T> Pending<T> {
    /// Waits for the value. None if the sender was dropped without one.
    pub(super) fn wait(self) -> Option<T> {
        let mut state = lock(&self.0.state);
        loop {
            match state.take() {
                Poll::Ready(value) => return value,
                Poll::Pending => {
                    state.is_awaited = true;
                    state = wait(&self.0.done, state, None);
                }
            }
        }
    }

    /// Whether [`Pending::wait`] would return at once.
    pub(super) fn is_done(&self) -> bool {
        !matches!(lock(&self.0.state).value, Value::Expected)
    }
}

impl<T> Future for Pending<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0.state);
        let value = state.take();
        if value.is_pending() {
            state.waker = Some(context.waker().clone());
        }
        value
    }
}

/// The sending end. If it is dropped without a value, the receiver gets none, so that nobody waits for ever.
#[derive(Debug)]
pub(super) struct Completion<T>(Option<Arc<Shared<T>>>);

impl<T> Completion<T> {
    pub(super) fn complete(mut self, value: T) {
        self.tell(Value::Sent(value));
    }

    fn tell(&mut self, value: Value<T>) {
        let Some(shared) = self.0.take() else { return };
        let (waker, is_awaited) = {
            let mut state = lock(&shared.state);
            state.value = value;
            (state.waker.take(), state.is_awaited)
        };
        if is_awaited {
            shared.done.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        self.tell(Value::None);
    }
}
