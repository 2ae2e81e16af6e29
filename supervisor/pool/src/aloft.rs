//! A job that a worker is at, in the hands of whoever began it. An executor waits for it with its own reactor, which waits
//! for connections anyway: no thread is woken for it, and none sleeps.
#![allow(unsafe_code, reason = "a descriptor is registered with a reactor")]

use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "tokio")]
use std::time::Instant;

#[cfg(feature = "tokio")]
use tokio::io::{Interest, unix::AsyncFd};

#[cfg(feature = "tokio")]
use super::JobResult;
use super::call::{Course, Desk, Look, Permit};
use super::dispatch::Followers;
use super::ticket::Ticket;
use super::worker::after;
use super::{Begun, Job, PoolError};

/// For how long a reactor waits for a job. It sees the answer and the end of a worker; of the end of the job's time, and of a
/// death that does not show on the pipe, it learns nothing, so a thread follows what takes longer.
#[cfg(feature = "tokio")]
const SHORT: Duration = Duration::from_millis(10);

/// A job that a worker is at. Dropping it does not stop the job: a thread of the pool follows it to its end. While it is held
/// and neither looked at nor waited for, nobody ends it when its time is over.
#[derive(Debug)]
#[must_use = "the job's result is only to be had through it"]
pub struct Aloft {
    /// None once it has been passed on.
    flown: Option<Box<Flown>>,
    desk: Arc<Desk>,
    followers: Followers,
}

#[derive(Debug)]
struct Flown {
    job: Job,
    course: Course,
    permit: Permit,
}

impl Aloft {
    pub(super) fn new(
        desk: &Arc<Desk>,
        followers: &Followers,
        job: Job,
        course: Course,
        permit: Permit,
    ) -> Self {
        let flown = Some(Box::new(Flown { job, course, permit }));
        Self { flown, desk: Arc::clone(desk), followers: followers.clone() }
    }

    /// What comes of it within `patience`: it is done, or still aloft, or there is a [`Ticket`] for the rest of its way, which
    /// takes time: its worker is lost, or has much to say.
    ///
    /// # Errors
    /// [`PoolError::Draining`].
    pub fn look(mut self, patience: Duration) -> Result<Begun, PoolError> {
        let Some(flown) = self.flown.take() else { return Err(PoolError::Lost) };
        let Flown { job, course, permit } = *flown;
        match self.desk.look(course, &job, after(patience)) {
            Look::Landed(result) => Ok(Begun::Done(result)),
            Look::Aloft(course) => {
                self.flown = Some(Box::new(Flown { job, course, permit }));
                Ok(Begun::Aloft(self))
            }
            Look::Long(course) => self.followers.follow(job, course, permit).map(Begun::Later),
        }
    }

    /// Waits for its result. In a runtime of tokio's that has its I/O and time enabled.
    ///
    /// # Errors
    /// As [`Pool::call`](super::Pool::call).
    ///
    /// # Panics
    /// Outside of such a runtime.
    #[cfg(feature = "tokio")]
    pub async fn land(mut self) -> Result<JobResult, PoolError> {
        let short = Instant::now() + SHORT;
        let deadline = self.flown.as_ref().and_then(|flown| flown.course.deadline());
        let until = deadline.map_or(short, |deadline| deadline.min(short));
        loop {
            if !self.is_readable_by(until).await {
                return self.follow()?.await;
            }
            self = match self.look(Duration::ZERO)? {
                Begun::Done(result) => return Ok(*result),
                Begun::Later(ticket) => return ticket.await,
                // A part of an answer.
                Begun::Aloft(still) => still,
            };
        }
    }

    /// Has a thread of the pool follow it to its end.
    ///
    /// # Errors
    /// [`PoolError::Draining`].
    pub fn follow(mut self) -> Result<Ticket, PoolError> {
        let Some(flown) = self.flown.take() else { return Err(PoolError::Lost) };
        let Flown { job, course, permit } = *flown;
        self.followers.follow(job, course, permit)
    }

    /// Waits until there is something to look at; false if there is nothing by then, or if it cannot be waited for: a reactor
    /// takes only so many descriptors.
    #[cfg(feature = "tokio")]
    async fn is_readable_by(&self, until: Instant) -> bool {
        let Some(descriptor) = self.flown.as_ref().and_then(|flown| flown.course.descriptor()) else {
            return false;
        };
        // SAFETY: the descriptor is borrowed, so it stays open and the same for as long as the registration, which ends in
        // here, and is asked for nothing but its number.
        let waiting = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        let Ok(waiting) = waiting else { return false };
        matches!(tokio::time::timeout_at(until.into(), waiting.readable()).await, Ok(Ok(_)))
    }
}

impl Drop for Aloft {
    fn drop(&mut self) {
        // A worker whose job is given up in the middle would have to end.
        if let Some(flown) = self.flown.take() {
            let Flown { job, course, permit } = *flown;
            // Whoever would want the result has gone.
            drop(self.followers.follow(job, course, permit));
        }
    }
}
