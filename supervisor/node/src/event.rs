//! The events that a feed of blocks gives to its caller.
//!
//! The events have a file of their own because two modules need them: the follower in [`crate::daemon`] produces the events, and
//! the feeds in [`crate::feed`] return them.

use cofferdam_chain::blocks::{BlockHash, Hashed};

/// The next event of a feed of blocks.
///
/// Events are consistent. Every block is one higher than the block given before it, and names that block as its parent. After a
/// rollback, the next block is one higher than the block at the fork, and names the block at the fork as its parent.
#[derive(Clone, Debug)]
pub enum FeedEvent {
    /// The next block. It follows the block given before. Its bytes were verified: they hash to the hash that the chain has
    /// at this height, and the merkle root and the witness commitment match the transactions.
    Block(Hashed),
    /// The source left the chain given so far for a better one. The next block that is given is the block after the fork, unless
    /// another rollback comes before it.
    Rollback {
        /// The highest given block that is still on the best chain; `None` if no given block is.
        fork: Option<u32>,
        /// How many of the given blocks are no longer on the best chain. At least 1.
        depth: u32,
    },
    /// Every block up to the source's tip was given. If the source has a last height to give, every block up to that height was
    /// given. Sent once each time the tip or the last height is reached.
    AtTip {
        /// The height of the tip.
        height: u32,
        /// The hash of the tip.
        hash: BlockHash,
    },
}

/// Why a caller cannot say which block it has indexed at a height: for example, because its store cannot be read.
pub type LookupError = Box<dyn std::error::Error + Send + Sync>;
