//! Why a pool cannot be built, or does not take a job.

use std::time::Duration;

use cofferdam_worker::module::ModuleError;
use thiserror::Error;

use super::MAX_LAYERS;
use super::artifact::ArtifactError;
use super::host::admission::AdmissionError;
use cofferdam_base::size::Bytes;

/// The most bytes that the name of a view may have. It travels in a frame, whose pipe must take it at once.
pub const MAX_EXPORT_BYTES: usize = 1024;

/// Why a pool cannot be built, or does not take a job. What comes of a job that it took is a verdict instead.
#[derive(Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This program has not called [`init`](cofferdam_worker::init), or has called it too late.
    #[error(transparent)]
    NotInitialised(#[from] cofferdam_worker::InitError),
    /// A setting that no pool can have.
    #[error("{0}")]
    Setting(String),
    /// The module cannot run here.
    #[error("module: {0}")]
    Module(#[from] ModuleError),
    /// The module does not compile, or the compiler failed.
    #[error("module: {0}")]
    Artifact(#[from] ArtifactError),
    /// The memory for the workers is not there.
    #[error("not enough memory: {0}")]
    Admission(#[from] AdmissionError),
    /// A worker could not commit its memory at the start of the pool.
    #[error("memory not committed: {0}")]
    NotCommitted(String),
    /// A worker could not be started.
    #[error("a worker could not be started: {0}")]
    Start(String),
    /// A worker said nothing for too long while starting.
    #[error("a worker did not get ready within {0:?}")]
    StartTimeout(Duration),
    /// The job's input does not fit the input arena.
    #[error("the input has {} ({bytes} bytes), above the pool's limit of {}", Bytes(*bytes), Bytes(*limit))]
    InputTooLarge {
        /// The input's size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The name of the view is longer than any that is called.
    #[error("the view's name has {bytes} bytes, above the limit of {MAX_EXPORT_BYTES}")]
    ExportName {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The job is to run over layers that its workers do not have.
    #[error("the job names more than {MAX_LAYERS} layers, or one of another pool")]
    Layers,
    /// Whoever built the pool broke off.
    #[error("the start of the pool was broken off")]
    Cancelled,
    /// The queue is full.
    #[error("the queue is full: {0} jobs are waiting")]
    Saturated(usize),
    /// The pool is stopping.
    #[error("the pool is draining and takes no more jobs")]
    Draining,
    /// Every slot has failed more often than the restart policy allows.
    #[error("no healthy worker is left: every slot failed more often than the restart policy allows")]
    NoWorker,
    /// A ticket's job was lost because a thread of the pool panicked: a defect of the pool.
    #[error("internal error: the job was lost")]
    Lost,
}

cofferdam_protocol::debug_as_display!(PoolError);

impl PoolError {
    /// Whether this means that memory could not be committed: exit code 137 for a command.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Admission(_) | Self::NotCommitted(_))
    }
}
