//! Jobs that a worker is running already, and the channel to the threads that collect their results.

use std::sync::Mutex;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::completion::Completion;
use super::error::PoolError;
use super::job::Job;
use super::permits::Permit;
use super::result::JobResult;
use super::run::JobRun;
use cofferdam_base::sync::lock;

/// A job that a worker is running.
#[derive(Debug)]
pub(super) struct StartedJob {
    pub(super) job: Job,
    pub(super) run: JobRun,
    pub(super) permit: Permit,
    pub(super) completion: Completion<Result<JobResult, PoolError>>,
}

/// The channel to the collector threads. Closed when the pool stops.
#[derive(Debug)]
pub(super) struct StartedJobs {
    collect: Mutex<Option<Sender<StartedJob>>>,
    #[cfg(feature = "tokio")]
    in_flight: Mutex<Vec<std::sync::Arc<JobCell>>>,
}

impl StartedJobs {
    /// The sending end of the channel, and the receiving end for the collector threads.
    pub(super) fn new() -> (Self, Receiver<StartedJob>) {
        let (sender, receiver) = unbounded();
        let jobs = Self {
            collect: Mutex::new(Some(sender)),
            #[cfg(feature = "tokio")]
            in_flight: Mutex::default(),
        };
        (jobs, receiver)
    }

    /// Has a thread of the pool wait for the result of `started`. A pool that has stopped answers `Draining`.
    pub(super) fn collect(&self, started: StartedJob) {
        if let Some(collect) = &*lock(&self.collect) {
            // If no thread receives, dropping the completion says that the job is lost.
            let _ = collect.send(started);
            return;
        }
        let StartedJob { run, permit, completion, .. } = started;
        // Dropping the attempt closes the worker's pipes, which ends the worker.
        drop((run, permit));
        completion.complete(Err(PoolError::Draining));
    }

    /// Accepts no more jobs. The jobs that were accepted before are still collected.
    pub(super) fn close(&self) {
        *lock(&self.collect) = None;
    }
}

#[cfg(feature = "tokio")]
pub(super) use cell::JobCell;

/// Started jobs whose tickets collect the results themselves.
#[cfg(feature = "tokio")]
mod cell {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::{StartedJob, StartedJobs};
    use cofferdam_base::sync::lock;

    /// The place of a started job whose ticket collects the result itself. Either the ticket or a thread that needs the job's
    /// worker takes the job out.
    #[derive(Debug)]
    pub(in super::super) struct JobCell(Mutex<Option<StartedJob>>);

    impl JobCell {
        /// Takes the job out. None if another thread has it: to look at it for a moment, or for good.
        pub(in super::super) fn take(&self) -> Option<StartedJob> {
            lock(&self.0).take()
        }

        /// Puts the job back, after a look at it.
        pub(in super::super) fn put_back(&self, started: StartedJob) {
            *lock(&self.0) = Some(started);
        }

        /// Reads something of the job, if it is still there.
        pub(in super::super) fn with<T>(&self, read: impl FnOnce(&StartedJob) -> Option<T>) -> Option<T> {
            lock(&self.0).as_ref().and_then(read)
        }
    }

    impl StartedJobs {
        /// Leaves `started` to its ticket.
        pub(in super::super) fn leave(&self, started: StartedJob) -> Arc<JobCell> {
            let cell = Arc::new(JobCell(Mutex::new(Some(started))));
            lock(&self.in_flight).push(Arc::clone(&cell));
            cell
        }

        /// Forgets a cell whose job was taken out for good.
        pub(in super::super) fn forget(&self, cell: &Arc<JobCell>) {
            lock(&self.in_flight).retain(|known| !Arc::ptr_eq(known, cell));
        }

        /// Has threads of the pool collect every job that was left to its ticket and was started at least `age` ago.
        pub(in super::super) fn collect_left(&self, age: Duration) {
            let cells = lock(&self.in_flight).clone();
            for cell in cells {
                let is_old = cell.with(|started| Some(started.run.started.elapsed() >= age));
                if is_old == Some(true)
                    && let Some(started) = cell.take()
                {
                    self.forget(&cell);
                    self.collect(started);
                }
            }
        }
    }
}
