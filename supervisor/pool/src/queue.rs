//! The queue of submitted jobs that wait for a worker, and the threads that work for tickets.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::completion::Completion;
use super::dispatcher::Dispatcher;
use super::error::PoolError;
use super::job::Job;
use super::result::JobResult;
use super::started::StartedJob;
use super::threads::PoolThread;
use super::ticket::Ticket;
use cofferdam_base::sync::lock;

/// A job that waits, and the way to complete its ticket.
#[derive(Debug)]
struct QueuedJob {
    job: Job,
    submitted: Instant,
    completion: Completion<Result<JobResult, PoolError>>,
}

/// Submitted jobs that wait for a worker, first come, first served.
#[derive(Debug)]
pub(super) struct JobQueue {
    limit: usize,
    state: Mutex<State>,
    /// A job was queued, or the queue was closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<QueuedJob>,
    closed: bool,
}

impl JobQueue {
    /// A queue for at most `limit` jobs.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).jobs.len()
    }

    /// Queues `job`.
    pub(super) fn submit(&self, job: Job) -> Result<Ticket, PoolError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(PoolError::Draining);
        }
        if state.jobs.len() >= self.limit {
            return Err(PoolError::Saturated { waiting: state.jobs.len(), limit: self.limit });
        }
        let (ticket, completion) = Ticket::new();
        state.jobs.push_back(QueuedJob { job, submitted: Instant::now(), completion });
        drop(state);
        self.changed.notify_one();
        Ok(ticket)
    }

    /// Takes no more jobs. Dispatcher threads answer those that wait.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Waits until a job is queued. False once the queue is closed and empty.
    fn wait_for_job(&self) -> bool {
        let mut state = lock(&self.state);
        while state.jobs.is_empty() {
            if state.closed {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Runs queued jobs until the queue is closed and empty. A job leaves the queue only once it has a permit, so that the queue
    /// holds as many jobs as its limit says.
    fn work_off(&self, dispatcher: &Dispatcher) {
        while self.wait_for_job() {
            let permit = dispatcher.take_permit();
            let next = lock(&self.state).jobs.pop_front();
            let Some(QueuedJob { job, submitted, completion }) = next else { continue };
            let result = match permit {
                Ok(permit) => {
                    let result = dispatcher.check_job(&job).and_then(|()| dispatcher.run(submitted, &job));
                    drop(permit);
                    result
                }
                Err(error) => Err(error),
            };
            completion.complete(result);
        }
    }
}

/// Starts the threads that work for tickets: dispatcher threads, which work off the queue, and collector threads, which wait for
/// the results of jobs that `submit` started itself. There are as many of each as jobs may run at a time. They are not the same
/// threads, because dispatcher threads wait for the permits that collector threads return.
pub(super) fn start_threads(
    count: usize,
    queue: &Arc<JobQueue>,
    to_collect: &Receiver<StartedJob>,
    dispatcher: &Arc<Dispatcher>,
) -> Vec<PoolThread> {
    let dispatch = |index| {
        let (queue, dispatcher) = (Arc::clone(queue), Arc::clone(dispatcher));
        let work = move || {
            dispatcher.id.enter();
            queue.work_off(&dispatcher);
        };
        PoolThread::spawn(format!("cofferdam-job-{index}"), work)
    };
    let collect = |index| {
        let (to_collect, dispatcher) = (to_collect.clone(), Arc::clone(dispatcher));
        let work = move || {
            dispatcher.id.enter();
            for started in to_collect {
                dispatcher.finish_started(started);
            }
        };
        PoolThread::spawn(format!("cofferdam-end-{index}"), work)
    };
    // Where one thread cannot be started, the others do its work. Where none can, tickets say that their job is lost.
    let dispatchers = (0..count).filter_map(|index| dispatch(index).ok());
    let collectors = (0..count).filter_map(|index| collect(index).ok());
    dispatchers.chain(collectors).collect()
}
