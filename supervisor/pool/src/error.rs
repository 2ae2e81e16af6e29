//! Why a pool cannot be built, or does not take a job.

use std::time::Duration;

use cofferdam_worker::module::ModuleError;
use thiserror::Error;

use super::artifact::ArtifactError;
use super::layers::MAX_LAYERS;
use crate::host::admission::AdmissionError;
use cofferdam_base::size::Bytes;

/// The longest name of a view, in bytes. The name travels in a frame, and the pipe must take the whole frame at once.
pub const MAX_EXPORT_BYTES: usize = 1024;

/// Why a pool cannot be built, or does not take a job. The outcome of a job that was taken is a verdict instead.
#[derive(Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This program has not called `init`, or has called it too late.
    #[error(transparent)]
    NotInitialised(#[from] cofferdam_worker::InitError),
    /// A setting is out of range.
    #[error("{0}")]
    Setting(String),
    /// The module cannot run here.
    #[error("module: {0}")]
    Module(#[from] ModuleError),
    /// The module does not compile, or the compiler failed.
    #[error("module: {0}")]
    Artifact(#[from] ArtifactError),
    /// There is not enough memory for the workers.
    #[error("not enough memory: {0}")]
    Admission(#[from] AdmissionError),
    /// A worker could not commit its memory at the start of the pool.
    #[error("memory not committed: {0}")]
    NotCommitted(String),
    /// A worker could not be started.
    #[error("a worker could not be started: {0}")]
    Start(String),
    /// A worker made no progress for too long while it was starting.
    #[error("a worker did not get ready within {0:?}: give it a longer start timeout")]
    StartTimeout(Duration),
    /// The job's input does not fit the input arena.
    #[error("the input has {} ({bytes} bytes), above the pool's limit of {}", Bytes(*bytes), Bytes(*limit))]
    InputTooLarge {
        /// The input's size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The name of the view is too long.
    #[error("the view's name has {bytes} bytes, above the limit of {MAX_EXPORT_BYTES}")]
    ExportName {
        /// The length of the name in bytes.
        bytes: usize,
    },
    /// The job has layers that the workers of this pool do not have.
    #[error("the job names more than {MAX_LAYERS} layers, or one of another pool")]
    Layers,
    /// The caller cancelled the start of the pool.
    #[error("the start of the pool was cancelled")]
    Cancelled,
    /// The queue is full.
    #[error("the queue is full: {waiting} of {limit} jobs are waiting")]
    Saturated {
        /// The jobs that are waiting.
        waiting: usize,
        /// The jobs that may wait ([`PoolBuilder::queue`](super::PoolBuilder::queue)).
        limit: usize,
    },
    /// The pool is stopping.
    #[error("the pool is draining and takes no more jobs")]
    Draining,
    /// No slot has a worker any more: the workers failed more often than the restart policy allows.
    #[error("no healthy worker is left: every slot failed more often than the restart policy allows")]
    NoWorker,
    /// The job of a ticket was lost because a thread of the pool panicked. This is a defect of the pool.
    #[error("internal error: the job was lost")]
    Lost,
}

cofferdam_protocol::debug_as_display!(PoolError);

impl PoolError {
    /// Whether memory could not be committed. A command exits with code 137 then.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Admission(_) | Self::NotCommitted(_))
    }
}
