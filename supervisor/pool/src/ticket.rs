//! The ticket that stands for the result of a submitted job.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::completion::{Completion, Pending, completion};
use super::error::PoolError;
#[cfg(feature = "tokio")]
use super::in_flight::InFlight;
use super::result::JobResult;

type Outcome = Result<JobResult, PoolError>;

/// Stands for the result of a submitted job. Wait for the result with [`Ticket::wait`], or `.await` the ticket in any executor.
///
/// Dropping a ticket does not stop its job.
///
/// With the feature `tokio`, a ticket from a [`submit`](super::Pool::submit) within a runtime of tokio waits for the worker
/// through the runtime's own reactor. No thread of the pool takes part. The first poll looks for the answer for up to 50 µs,
/// because a short job is done sooner than a sleeping thread wakes up. While such a ticket is held and not polled, a thread of
/// the pool takes the job over as soon as another job waits for a worker, and at the latest after about a second.
#[derive(Debug)]
#[must_use = "the result of the job is only available through its ticket"]
pub struct Ticket {
    result: Pending<Outcome>,
    #[cfg(feature = "tokio")]
    in_flight: Option<InFlight>,
}

impl Ticket {
    /// A ticket, and the way to complete it.
    pub(super) fn new() -> (Self, Completion<Outcome>) {
        let (completion, result) = completion();
        let ticket = Self {
            result,
            #[cfg(feature = "tokio")]
            in_flight: None,
        };
        (ticket, completion)
    }

    /// The ticket of a job whose result is known.
    pub(super) fn done(result: JobResult) -> Self {
        let (ticket, completion) = Self::new();
        completion.complete(Ok(result));
        ticket
    }

    /// Returns the ticket, which now collects the result of its job itself.
    #[cfg(feature = "tokio")]
    pub(super) fn collects(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    /// Waits for the result, in this thread.
    ///
    /// # Errors
    /// As [`Pool::call`](super::Pool::call).
    pub fn wait(self) -> Outcome {
        #[cfg(feature = "tokio")]
        if let Some(in_flight) = self.in_flight {
            in_flight.finish();
        }
        self.result.wait().unwrap_or(Err(PoolError::Lost))
    }

    /// Whether the result is there, so that [`Ticket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        #[cfg(feature = "tokio")]
        if let Some(in_flight) = &self.in_flight {
            in_flight.look();
        }
        self.result.is_done()
    }
}

impl Future for Ticket {
    type Output = Outcome;

    /// # Panics
    /// If the ticket was made within a runtime of tokio whose I/O or time is not enabled (`enable_all` enables both).
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        #[cfg(feature = "tokio")]
        if let Some(in_flight) = &mut self.in_flight
            && !in_flight.poll(context)
        {
            self.in_flight = None;
        }
        Pin::new(&mut self.result).poll(context).map(|result| result.unwrap_or(Err(PoolError::Lost)))
    }
}
