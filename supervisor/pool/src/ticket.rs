//! The ticket that stands for a result to come, and its other end.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

use super::primitives::{Arc, Condvar, Mutex, lock};
use super::{JobResult, PoolError};

/// Stands for the result of a submitted job. Wait for it with [`Ticket::wait`], or `.await` it in any executor.
///
/// Dropping it does not stop the job.
#[derive(Debug)]
#[must_use = "the job's result is only to be had through its ticket"]
pub struct Ticket(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<JobResult, PoolError>>,
    waker: Option<Waker>,
}

impl Ticket {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Pool::call`](super::Pool::call).
    pub fn wait(self) -> Result<JobResult, PoolError> {
        let mut state = lock(&self.0.state);
        loop {
            match state.result.take() {
                Some(result) => return result,
                None => state = self.0.done.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Whether the result is there, so that [`Ticket::wait`] would not wait.
    pub fn is_done(&self) -> bool {
        lock(&self.0.state).result.is_some()
    }
}

impl Future for Ticket {
    type Output = Result<JobResult, PoolError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0.state);
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The other end of a ticket. Dropped without a word, it says that the job was lost, so that nobody waits for ever.
#[derive(Debug)]
pub(super) struct Completion(Option<Arc<Shared>>);

impl Completion {
    pub(super) fn complete(mut self, result: Result<JobResult, PoolError>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<JobResult, PoolError>) {
        let Some(shared) = self.0.take() else { return };
        let waker = {
            let mut state = lock(&shared.state);
            state.result = Some(result);
            state.waker.take()
        };
        shared.done.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The two ends of a result to come.
pub(super) fn ticket() -> (Ticket, Completion) {
    let shared = Arc::new(Shared::default());
    (Ticket(Arc::clone(&shared)), Completion(Some(shared)))
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.tell(Err(PoolError::Lost));
    }
}
