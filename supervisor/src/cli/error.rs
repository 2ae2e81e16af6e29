//! Why a command failed, and the exit code that goes with it.

use std::io;
use std::path::PathBuf;

use cofferdam_protocol::exit::CommandExit;
use thiserror::Error;

use crate::blocks::BlockError;
use crate::chain::ChainError;
use crate::pool::PoolError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// A setting of the command line that only shows to be wrong when it is used.
    #[error("{0}")]
    Usage(String),
    #[error("the module {}: {source}", path.display())]
    Module { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Blocks(#[from] BlockError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Chain(ChainError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("internal error: reading blocks ended before the last block")]
    Reader,
    /// Whoever read the output has had enough, as `head` does: no failure in itself.
    #[error("standard output was closed")]
    StdoutClosed,
}

impl CliError {
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::Io { what, source },
        }
    }

    pub(super) fn exit(&self) -> CommandExit {
        match self {
            Self::Usage(_) | Self::Pool(PoolError::Setting(_)) => CommandExit::Usage,
            Self::Pool(error) if error.is_memory() => CommandExit::NotCommitted,
            Self::Pool(PoolError::NoWorker) => CommandExit::NoWorker,
            Self::StdoutClosed => CommandExit::Success,
            _ => CommandExit::Failure,
        }
    }
}

impl From<ChainError> for CliError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Pool(error) => Self::Pool(error),
            other => Self::Chain(other),
        }
    }
}
