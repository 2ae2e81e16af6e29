//! Submitted jobs: a bounded queue, the threads that work it off, and the ticket that stands for a result to come.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, unbounded};

use super::call::{Course, Desk, Permit};
use super::{Job, JobResult, PoolError};
use crate::sync::lock;

/// A job in the queue, with the way to tell its ticket.
#[derive(Debug)]
pub(super) struct Queued {
    job: Job,
    completion: Completion,
}

/// A job that a worker is at already, to be followed to its end.
#[derive(Debug)]
pub(super) struct Followed {
    job: Job,
    course: Course,
    permit: Permit,
    completion: Completion,
}

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
struct Completion(Option<Arc<Shared>>);

impl Completion {
    fn complete(mut self, result: Result<JobResult, PoolError>) {
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

impl Drop for Completion {
    fn drop(&mut self) {
        self.tell(Err(PoolError::Lost));
    }
}

/// Puts `job` into the queue.
pub(super) fn submit(queue: &Sender<Queued>, job: Job) -> Result<Ticket, PoolError> {
    let shared = Arc::new(Shared::default());
    let completion = Completion(Some(Arc::clone(&shared)));
    match queue.try_send(Queued { job, completion }) {
        Ok(()) => Ok(Ticket(shared)),
        Err(TrySendError::Full(_)) => Err(PoolError::Saturated(queue.len())),
        Err(TrySendError::Disconnected(_)) => Err(PoolError::Draining),
    }
}

/// The way to the threads that follow jobs which were begun. Cheap to clone; closed for all at once.
#[derive(Clone, Debug)]
pub(super) struct Followers(Arc<Mutex<Option<Sender<Followed>>>>);

impl Followers {
    /// The way, and where it leads.
    pub(super) fn new() -> (Self, Receiver<Followed>) {
        let (following, followed) = unbounded();
        (Self(Arc::new(Mutex::new(Some(following)))), followed)
    }

    /// Has a job that was begun followed to its end.
    pub(super) fn follow(&self, job: Job, course: Course, permit: Permit) -> Result<Ticket, PoolError> {
        let following = lock(&self.0);
        let following = following.as_ref().ok_or(PoolError::Draining)?;
        let shared = Arc::new(Shared::default());
        let completion = Completion(Some(Arc::clone(&shared)));
        // If nobody receives, the completion says that the job is lost.
        let _ = following.send(Followed { job, course, permit, completion });
        Ok(Ticket(shared))
    }

    /// Takes no more. What was taken is followed to its end.
    pub(super) fn close(&self) {
        *lock(&self.0) = None;
    }
}

/// Starts the threads that work off the queue, and those that follow jobs which were begun elsewhere: of each as many as
/// jobs can run at a time. They are not the same threads: the former wait for the permits that the latter give back.
pub(super) fn dispatchers(
    count: usize,
    queue: &Receiver<Queued>,
    followed: &Receiver<Followed>,
    desk: &Arc<Desk>,
) -> Vec<JoinHandle<()>> {
    // Without one thread the others work the queue off; without any, tickets say that their job is lost.
    let spawn =
        |name: String, work: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name).spawn(work).ok();
    let dispatch = |index| {
        let (queue, desk) = (queue.clone(), Arc::clone(desk));
        let work = move || {
            desk.id.enter();
            for Queued { job, completion } in queue {
                completion.complete(desk.call(&job));
            }
        };
        spawn(format!("cofferdam-job-{index}"), Box::new(work))
    };
    let follow = |index| {
        let (followed, desk) = (followed.clone(), Arc::clone(desk));
        let work = move || {
            desk.id.enter();
            for Followed { job, course, permit, completion } in followed {
                let result = desk.finish(course, &job);
                drop(permit);
                completion.complete(result);
            }
        };
        spawn(format!("cofferdam-end-{index}"), Box::new(work))
    };
    (0..count).filter_map(dispatch).chain((0..count).filter_map(follow)).collect()
}
