//! Why a command failed, and the exit code for the failure.

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::exit::CommandExit;
use cofferdam_worker::module::ModuleError;
use cofferdam_worker::state::StateError;
use thiserror::Error;

use cofferdam_bench::BenchError;
use cofferdam_chain::ChainError;
use cofferdam_chain::blocks::BlockError;
use cofferdam_node::agreement::audit::AuditError;
use cofferdam_node::agreement::diff::DiffError;
use cofferdam_node::feed::FeedError;
use cofferdam_pool::PoolError;
use cofferdam_store::StoreError;
use cofferdam_store::snapshot::SnapshotError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// The command line is wrong in a way that its parser does not detect.
    #[error("{0}")]
    Usage(String),
    #[error("the module {} cannot be read: {source}", path.display())]
    Module { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    NotAModule { path: PathBuf, source: ModuleError },
    /// The functions of the module do not compile. The error of the pool does not name the file, because the pool does not
    /// know it.
    #[error("{}: {source}", path.display())]
    OfModule { path: PathBuf, source: Box<CliError> },
    #[error(transparent)]
    Blocks(#[from] BlockError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Chain(ChainError),
    #[error(transparent)]
    Diff(DiffError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// `diff` or `audit` could not compare. Its exit code differs from the exit code for "different".
    #[error(transparent)]
    NotCompared(Box<CliError>),
    #[error(
        "the store in {} begins at height {first}, and {option} is {asked}: remove {option} to continue the store, or index \
         into a new --db-path",
        path.display()
    )]
    Start { path: PathBuf, first: u32, option: &'static str, asked: u32 },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error(transparent)]
    Feed(FeedError),
    #[error("internal error: reading blocks ended before the last block")]
    Reader,
    #[error("internal error: the thread that prints lines has panicked")]
    Printer,
    #[error("internal error: the thread that indexes has ended")]
    Indexer,
    /// The reader of the output has closed it, as `head` does. This is no failure.
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

    pub(super) fn not_compared(self) -> Self {
        Self::NotCompared(Box::new(self))
    }

    /// Names the file of the module, if the error is about the module and does not name the file.
    pub(super) fn naming_module(self, path: Option<&Path>) -> Self {
        match (self, path) {
            (error @ Self::Pool(PoolError::Module(_) | PoolError::Artifact(_)), Some(path)) => {
                Self::OfModule { path: path.to_owned(), source: Box::new(error) }
            }
            (error, _) => error,
        }
    }

    /// The exit code of a command that failed with this error.
    pub(super) fn exit(&self) -> CommandExit {
        match self {
            Self::Usage(_) | Self::Pool(PoolError::Setting(_)) => CommandExit::Usage,
            Self::Pool(error) if error.is_memory() => CommandExit::NotCommitted,
            Self::Pool(PoolError::NoWorker) => CommandExit::NoWorker,
            Self::StdoutClosed => CommandExit::Success,
            Self::OfModule { source, .. } => source.exit(),
            Self::NotCompared(error) => match error.exit() {
                CommandExit::Failure => CommandExit::Usage,
                exit => exit,
            },
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

impl From<DiffError> for CliError {
    fn from(error: DiffError) -> Self {
        match error {
            DiffError::Chain { source: ChainError::Pool(error), .. } => Self::Pool(error),
            other => Self::Diff(other),
        }
    }
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Usage(text) => Self::Usage(text),
            BenchError::Pool(error) => Self::Pool(error),
            BenchError::Store(error) => Self::Store(error),
            BenchError::Chain(error) => error.into(),
            BenchError::Blocks(error) => Self::Blocks(error),
            BenchError::File { path, source } => Self::File { path, source },
            BenchError::Io { what, source } => Self::io(what)(source),
            BenchError::NoBlocks => Self::Reader,
        }
    }
}
