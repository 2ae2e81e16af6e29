//! Why the state could not be read.

use std::path::PathBuf;

use cofferdam_protocol::arena::ArenaError;
use cofferdam_protocol::layer::LayerError;
use cofferdam_protocol::state::{self, LayoutError};
use thiserror::Error;

/// Why the state could not be read.
#[derive(Error)]
pub enum StateError {
    /// One of LMDB's two files is missing. A reader must not make it.
    #[error("no state store at {}: {file} is missing; the supervisor makes it before it starts a worker", path.display())]
    Missing {
        /// The store's directory.
        path: PathBuf,
        /// The missing file.
        file: &'static str,
    },
    /// LMDB refused to open the store.
    #[error("the state store at {} cannot be opened for reading: {source}", path.display())]
    Open {
        /// The store's directory.
        path: PathBuf,
        /// LMDB's error.
        source: heed::Error,
    },
    /// The store has another format, or is not a store of Cofferdam.
    #[error(
        "the store at {} has format {found:?}; this worker reads format {}: run one build for supervisor and workers",
        path.display(),
        state::FORMAT
    )]
    Format {
        /// The store's directory.
        path: PathBuf,
        /// The format found; none if there is none.
        found: Option<u32>,
    },
    /// A snapshot could not be taken or read.
    #[error("the state store at {}: {doing}: {source}", path.display())]
    Read {
        /// The store's directory.
        path: PathBuf,
        /// What failed.
        doing: &'static str,
        /// LMDB's error.
        source: heed::Error,
    },
    /// Stored bytes do not decode.
    #[error("the state store at {} is damaged: {source}; index into a new directory", path.display())]
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What does not decode.
        source: LayoutError,
    },
    /// The store does not name the profile of its results.
    #[error("the state store at {} does not name the profile of its results; index into a new directory", path.display())]
    NoProfile {
        /// The store's directory.
        path: PathBuf,
    },
    /// The span of a layer over the store is not inside the arena of layers.
    #[error("a layer over the state: {0}")]
    LayerPlace(#[from] ArenaError),
    /// A layer over the store does not parse.
    #[error("a layer over the state: {0}")]
    Layer(#[from] LayerError),
}

cofferdam_protocol::debug_as_display!(StateError);
