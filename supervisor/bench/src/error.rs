//! Why nothing was measured.

use std::io;
use std::path::PathBuf;

use cofferdam_chain::ChainError;
use cofferdam_chain::blocks::BlockError;
use cofferdam_pool::PoolError;
use cofferdam_store::StoreError;
use thiserror::Error;

/// Why nothing was measured.
#[derive(Error)]
pub enum BenchError {
    /// An argument does not fit what is measured.
    #[error("{0}")]
    Usage(String),
    /// The pool failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The bundled blocks could not be read.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// There are no bundled blocks. This is a defect of the program.
    #[error("internal error: this program has no bundled blocks")]
    NoBlocks,
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An operation of the system failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

cofferdam_protocol::debug_as_display!(BenchError);

impl BenchError {
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
