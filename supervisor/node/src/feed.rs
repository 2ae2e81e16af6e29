//! A feed of blocks that does not end: the chain of a node while it grows, and while it takes blocks back.
//!
//! What a [`cofferdam_chain::blocks::BlockSource`] gives is a chain that is settled; heights only rise. A feed adds the two things that a
//! living chain does: it is left for a better one, and it has a tip at which one waits.

mod files;

use std::time::Duration;

use cofferdam_chain::blocks::{BlockError, BlockHash, Hashed};

use super::daemon::DaemonError;

pub use files::FileFeed;

/// What a feed of blocks gives next.
///
/// Events are consistent: every block is one higher than the one given before it and names it as its parent, and after a
/// rewind the same holds of the block at the fork.
#[derive(Clone, Debug)]
pub enum FeedEvent {
    /// The next block, which follows the one given before. Its bytes were verified: their hash is the one that the chain
    /// has at this height, and merkle root and witness commitment are those of the transactions.
    Block(Hashed),
    /// The chain given so far was left. Next comes the block after the fork.
    Rewind {
        /// The highest block that is still of the best chain; `None` if none of those given is.
        fork: Option<u32>,
        /// How many of the blocks given are no longer of the best chain.
        depth: u32,
    },
    /// Everything up to the source's tip was given; said once each time that it is reached.
    AtTip {
        /// Height of the tip.
        height: u32,
        /// Its hash.
        hash: BlockHash,
    },
}

/// Why a caller cannot tell which block it has indexed at a height: its store cannot be read, say.
pub type KnownError = Box<dyn std::error::Error + Send + Sync>;

/// A source of blocks that is followed by one thread.
pub trait Feed {
    /// The next event, waited for no longer than `patience`; `None` if there was none in that time.
    ///
    /// # Errors
    /// [`FeedError`], after which the feed gives nothing more.
    fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, FeedError>;
}

/// Why a feed cannot go on.
#[derive(thiserror::Error)]
pub enum FeedError {
    /// Files or a stream of blocks.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// A node.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The chain left the one that is indexed further down than it may.
    #[error(
        "the chain given has block {given} at height {height}, the indexed one another, and its tip is at height {tip}: that is \
         deeper than --max-reorg-depth {max_reorg_depth}; allow it, or index into another --db-path"
    )]
    TooDeep {
        /// The lowest height that was compared, and differs.
        height: u32,
        /// The hash given.
        given: BlockHash,
        /// The height that is indexed.
        tip: u32,
        /// How deep a reorganisation may be.
        max_reorg_depth: u32,
    },
    /// The caller cannot tell which block it has indexed.
    #[error("the indexed block at height {height} cannot be read: {source}. Nothing was taken back")]
    Known {
        /// The height.
        height: u32,
        /// What the caller said.
        source: KnownError,
    },
    /// No thread could be started to read blocks.
    #[error("a thread to read blocks: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread that reads blocks has panicked: a defect.
    #[error("internal error: the thread that reads blocks has ended early")]
    Reader,
    /// Everything was given, and nothing more will come.
    #[error("there are no more blocks")]
    Ended,
}

cofferdam_protocol::debug_as_display!(FeedError);
