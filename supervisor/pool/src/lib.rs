//! The pool: worker processes with committed memory, behind a small interface.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use cofferdam_pool::{Job, Pool};
//!
//! // The first line of `main`: a process that was started as a worker becomes one here.
//! cofferdam_pool::init();
//! let module = std::fs::read("indexer.wasm")?;
//! let pool = Pool::builder(module).workers(2).build()?;
//! let result = pool.call(&Job::block(0, b"the block".to_vec()))?;
//! println!("{}: {} pairs", result.verdict, result.writes().count());
//! # Ok(()) }
//! ```
//!
//! # Architecture
//!
//! A [`Pool`] has *slots*. Each slot has at most one *worker*: a process that has committed all of its memory. A *job* is one call
//! of the guest. The pool knows nothing of any chain: a block is bytes at a height.
//!
//! **How a job runs.** There are two ways to run a job. [`Pool::call`] runs it in the caller's thread. [`Pool::submit`] returns a
//! [`Ticket`] that can be waited for or awaited. In both cases:
//! 1. The `dispatcher` gives out a *permit* (`permits`) and the token of an idle worker (`idle`). There are as many permits as
//!    jobs may run at a time. The token can only be moved, so a worker has one user at a time.
//! 2. An `attempt` writes the job to the worker's pipe and checks the answer. After a sound answer the token returns to `idle`.
//!    It returns in no other case: dropping a token closes the worker's pipes, which ends the worker.
//! 3. If the worker was lost, the job is retried on another one (`call`, `run`). A job that has lost all its attempts goes into
//!    `quarantine`: it is answered from memory for a while.
//!
//! **Threads.** The thread that waits for a result speaks to the worker's pipes itself, because a handover between threads costs
//! more than the round trip to the worker. For [`Pool::call`] that is the caller's thread. [`Pool::submit`] starts the job in the
//! caller's thread if a worker is idle. Then a collector thread waits for the answer (`started`, `queue`). With the feature
//! `tokio`, and within a tokio runtime, the ticket itself waits for the worker's descriptor instead (`in_flight`). If no worker
//! is idle, the job waits in the `queue` until a dispatcher thread runs it.
//!
//! **A worker's life.** Each slot has a thread (`slot_supervisor`). It starts a worker (`process`, `spawn`), waits for its end
//! (`exit_notice`, `reap`), classifies the death (`death`, `oom`, `kernel_log`), and starts the next worker after a pause
//! ([`restart`]). The `register` knows which slots there are and whether more may be opened. Death hooks run in a thread of their
//! own (`death_hook`).
//!
//! **Before the start.** [`host::admission`] checks that enough memory is available, also within the limits of the
//! [`host::cgroup`]. `artifact` finds the compiled module in the cache, or has a compiler process compile the module.

mod artifact;
mod attempt;
mod builder;
mod call;
mod common;
mod completion;
mod deadline;
mod death;
mod death_hook;
mod dispatcher;
mod error;
mod exit_notice;
mod failed_attempt;
mod health;
pub mod host;
mod idle;
#[cfg(feature = "tokio")]
mod in_flight;
mod job;
mod kernel_log;
mod layers;
#[cfg(test)]
mod models;
mod need;
mod oom;
pub mod orphans;
mod permits;
mod pool;
mod primitives;
mod process;
mod progress;
mod quarantine;
mod queue;
mod reap;
mod register;
mod reset;
pub mod restart;
mod result;
mod result_buffer;
mod run;
mod runner;
mod settings;
mod size;
mod slot;
mod slot_supervisor;
mod slots;
mod spawn;
mod start;
mod started;
mod threads;
mod ticket;
mod uncommitted;
mod worker;

pub use artifact::{ArtifactOrigin, default_cache_directory};
pub use builder::PoolBuilder;
pub use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};
pub use death::{Death, DeathCounts, RequestRecord};
pub use error::{MAX_EXPORT_BYTES, PoolError};
pub use failed_attempt::{FailedAttempt, WorkerInfo};
pub use health::{Health, SlotHealth, SlotState};
pub use job::{Input, Job};
#[doc(hidden)]
pub use layers::LayerRoom;
pub use layers::{MAX_LAYERS, StateLayer};
pub use need::need_of;
pub use pool::Pool;
pub use progress::{Progress, StartProgress};
pub use quarantine::{QuarantineEntry, QuarantinePolicy, Quarantined};
pub use reset::ResetHandle;
pub use result::{JobOutput, JobResult};
pub use runner::Runner;
pub use settings::Limits;
pub use ticket::Ticket;
pub use uncommitted::Uncommitted;

// What an embedding program needs besides the pool.
pub use cofferdam_protocol::{exit, fault, profile, status, verdict, writes};
pub use cofferdam_worker::{InitError, init, init_with};

/// Runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
