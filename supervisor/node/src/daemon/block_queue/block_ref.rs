//! The types in which the block queue and its users speak of blocks: a height with a hash, a fork, and a mismatch of two blocks.

use bitcoin::BlockHash;

/// The chain tracker plans more blocks while the queue holds at most half this number of planned blocks.
pub(in crate::daemon) const PLANNED_BLOCKS: usize = 100;

/// A block on the node's chain, which is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct BlockRef {
    /// The height.
    pub(in crate::daemon) height: u32,
    /// The hash.
    pub(in crate::daemon) hash: BlockHash,
}

/// The height at which the node left the queue's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Fork {
    /// The highest block that both chains have, if there is one.
    pub(in crate::daemon) at: Option<(u32, BlockHash)>,
    /// The lowest height of the queue's chain that the node has left.
    pub(in crate::daemon) left: u32,
}

/// Two planned neighbours that do not fit together: the upper block names another parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Mismatch {
    /// The upper block.
    pub(in crate::daemon) block: BlockRef,
    /// The parent that the upper block names. Another block was planned or given below the upper block.
    pub(in crate::daemon) parent: BlockHash,
}
