//! Submitted jobs: a bounded queue, and the threads that work it off.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, unbounded};

use super::call::{Course, Desk, Permit};
use super::ticket::{Completion, Ticket, ticket};
use super::{Job, PoolError};
use cofferdam_base::sync::lock;

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

/// Puts `job` into the queue.
pub(super) fn submit(queue: &Sender<Queued>, job: Job) -> Result<Ticket, PoolError> {
    let (ticket, completion) = ticket();
    match queue.try_send(Queued { job, completion }) {
        Ok(()) => Ok(ticket),
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
        let (ticket, completion) = ticket();
        // If nobody receives, the completion says that the job is lost.
        let _ = following.send(Followed { job, course, permit, completion });
        Ok(ticket)
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
