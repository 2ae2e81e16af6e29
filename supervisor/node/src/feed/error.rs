//! Why a feed of blocks cannot go on.

use cofferdam_chain::blocks::{BlockError, BlockHash};

use crate::daemon::DaemonError;
use crate::event::LookupError;

/// Why a feed cannot go on. The feed gives nothing after this error.
#[derive(thiserror::Error)]
pub enum FeedError {
    /// The files or the stream of blocks cannot be read, or a block in them is damaged or missing.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// The Bitcoin node can no longer be followed.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The chain in the files leaves the indexed chain deeper than a reorganisation may go.
    #[error(
        "the chain in the block files leaves the indexed chain too deep: at height {height} the files have block {given}, \
         another block is indexed there, and blocks up to height {tip} are indexed. --max-reorg-depth allows a reorganisation \
         of {max_reorg_depth} blocks: raise --max-reorg-depth, or index into another --db-path"
    )]
    TooDeep {
        /// The lowest height that was compared. The two chains differ there.
        height: u32,
        /// The hash that the files have at that height.
        given: BlockHash,
        /// The highest indexed height.
        tip: u32,
        /// The deepest allowed reorganisation, in blocks.
        max_reorg_depth: u32,
    },
    /// The caller cannot say which block it has indexed.
    #[error("the indexed block at height {height} cannot be read: {source}. Nothing was rolled back")]
    Lookup {
        /// The height.
        height: u32,
        /// The caller's error.
        source: LookupError,
    },
    /// The thread that reads blocks could not be started.
    #[error("cannot start the thread that reads blocks: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread that reads blocks panicked, which is a defect.
    #[error("internal error: the thread that reads blocks panicked")]
    Reader,
    /// Every block was given, and no more will come.
    #[error("the feed has given all of its blocks")]
    Ended,
}

cofferdam_protocol::debug_as_display!(FeedError);
