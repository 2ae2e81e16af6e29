//! A started job whose ticket collects the result itself. A tokio runtime waits for the worker's answer through its own reactor,
//! which also waits for connections. So no thread of the pool sleeps until the answer comes, and none has to be woken.
#![allow(unsafe_code, reason = "a descriptor is registered with a reactor")]

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cofferdam_protocol::wait;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep_until};

use super::call::Polled;
use super::deadline::after;
use super::dispatcher::Dispatcher;
use super::started::{JobCell, StartedJob};

/// How long the reactor waits for a job. The reactor sees the answer and the end of the worker. It does not see the end of the
/// job's time, nor a death that does not show on the pipe, so a thread of the pool collects a job that takes longer.
const REACTOR_TIME: Duration = Duration::from_millis(10);

/// A started job that its ticket collects.
#[derive(Debug)]
pub(super) struct InFlight {
    cell: Arc<JobCell>,
    dispatcher: Arc<Dispatcher>,
    /// None before the first poll.
    reactor: Option<Reactor>,
}

/// What the reactor waits for.
#[derive(Debug)]
struct Reactor {
    /// A duplicate of the worker's reply pipe: a thread that takes the job over may close the pipe itself.
    replies: AsyncFd<OwnedFd>,
    timeout: Pin<Box<Sleep>>,
}

impl InFlight {
    /// Whether a ticket that is made here can collect its job itself: within a runtime of tokio.
    pub(super) fn is_possible_here() -> bool {
        Handle::try_current().is_ok()
    }

    /// Leaves `started` to its ticket.
    pub(super) fn new(dispatcher: &Arc<Dispatcher>, started: StartedJob) -> Self {
        let cell = dispatcher.started.leave(started);
        let in_flight = Self { cell, dispatcher: Arc::clone(dispatcher), reactor: None };
        in_flight.give_way();
        in_flight
    }

    /// Drives the job. False once there is nothing left to drive: the job is done, or a thread of the pool collects it.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let timeout = if self.reactor.is_none() { wait::SPIN } else { Duration::ZERO };
        if !self.drive(timeout) {
            return false;
        }
        if self.reactor.is_none() {
            self.reactor = self.register();
        }
        loop {
            let Some(reactor) = &mut self.reactor else { return self.hand_over() };
            if reactor.timeout.as_mut().poll(context).is_ready() {
                return self.hand_over();
            }
            let mut ready = match reactor.replies.poll_read_ready(context) {
                Poll::Pending => return true,
                Poll::Ready(Err(_)) => return self.hand_over(),
                Poll::Ready(Ok(ready)) => ready,
            };
            // An answer that comes after this line makes the descriptor ready again.
            ready.clear_ready();
            if !self.drive(Duration::ZERO) {
                return false;
            }
        }
    }

    /// Completes the ticket if the answer is there.
    pub(super) fn look(&self) {
        self.drive(Duration::ZERO);
    }

    /// Waits for the result in this thread, and completes the ticket.
    pub(super) fn finish(self) {
        let Some(started) = self.cell.take() else { return };
        self.dispatcher.started.forget(&self.cell);
        self.dispatcher.finish_started(started);
    }

    /// Looks for the answer for up to `timeout`. Returns whether the job is still in flight here.
    fn drive(&self, timeout: Duration) -> bool {
        let Some(StartedJob { job, run, permit, completion }) = self.cell.take() else { return false };
        match self.dispatcher.poll(run, &job, after(timeout)) {
            Polled::InFlight(run) => {
                self.cell.put_back(StartedJob { job, run, permit, completion });
                self.give_way();
                true
            }
            Polled::Completed(result) => {
                self.dispatcher.started.forget(&self.cell);
                drop(permit);
                completion.complete(Ok(*result));
                false
            }
            Polled::NeedsThread(run) => {
                self.dispatcher.started.forget(&self.cell);
                self.dispatcher.started.collect(StartedJob { job, run, permit, completion });
                false
            }
        }
    }

    /// Has a thread of the pool collect the job if another job waits for a worker. The thread of that other job may have found
    /// this cell empty just before, while this ticket looked at its job.
    fn give_way(&self) {
        if self.dispatcher.is_anyone_waiting() {
            self.hand_over();
        }
    }

    /// Has a thread of the pool collect the job. Always returns false: nothing is left to drive.
    fn hand_over(&self) -> bool {
        if let Some(started) = self.cell.take() {
            self.dispatcher.started.forget(&self.cell);
            self.dispatcher.started.collect(started);
        }
        false
    }

    /// Has the reactor wait for the answer. None if the reactor cannot, for example because it has too many descriptors already.
    fn register(&self) -> Option<Reactor> {
        // A ticket can be polled by another executor than the one in which it was made.
        Handle::try_current().ok()?;
        let (replies, deadline) = self.cell.with(|started| {
            let current = started.run.current.as_ref()?;
            Some((current.descriptor().try_clone_to_owned().ok()?, current.deadline))
        })?;
        // SAFETY: the registration owns the descriptor, so the descriptor stays open, and its number the same, for as long as the
        // registration.
        let replies = unsafe { AsyncFd::register_with_interest(replies, Interest::READABLE) }.ok()?;
        let until = deadline.min(Instant::now() + REACTOR_TIME);
        Some(Reactor { replies, timeout: Box::pin(sleep_until(until.into())) })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The job is handed over and not dropped, because dropping a started job ends its worker.
        self.hand_over();
    }
}
