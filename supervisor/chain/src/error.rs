//! Why a chain cannot go on.

use thiserror::Error;

use crate::blocks::BlockHash;
use cofferdam_pool::PoolError;
use cofferdam_store::StoreError;

/// Why a chain cannot go on. Nothing of the block in question was committed.
#[derive(Error)]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pool did not run the block.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The thread that commits blocks panicked.
    #[error("internal error: the thread that commits blocks has panicked")]
    Committer,
    /// The thread that commits blocks could not be started.
    #[error("the thread that commits blocks could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The block was to run on two workers, and only one is in service.
    #[error(
        "block {height} could not be run on two workers: only one is in service. Nothing of the block was committed"
    )]
    OneWorker {
        /// The height of the block.
        height: u32,
    },
    /// The chain was asked to stop while the block waited for a second worker.
    #[error("block {height} was not run on two workers: the chain was asked to stop")]
    Interrupted {
        /// The height of the block.
        height: u32,
    },
    /// Two workers had different results. The host, the module or the pool is at fault, and no result can be trusted.
    #[error(
        "block {height} has different results on workers {} and {}: {} and {}. Nothing of the block was committed",
        workers[0], workers[1], results[0], results[1]
    )]
    Disagreement {
        /// The height of the block.
        height: u32,
        /// The process ids of the workers.
        workers: [u32; 2],
        /// The result of each worker: the verdict, the number of pairs, and the hash of the pairs.
        results: [String; 2],
    },
    /// The store has another block at this height.
    #[error(
        "the store is of another chain: at height {height} the store has block {stored}, and the blocks given have \
         {given}. Use another --db-path"
    )]
    OtherChain {
        /// The height at which the chains part.
        height: u32,
        /// The hash of the block in the store.
        stored: BlockHash,
        /// The hash of the block given.
        given: BlockHash,
    },
    /// The store has blocks above this height, and none at it.
    #[error(
        "the store is at height {tip} already and has no block at height {height}: the store was made from other blocks. \
         Use another --db-path"
    )]
    NotInStore {
        /// The height of the block given.
        height: u32,
        /// The height of the newest block.
        tip: u32,
    },
    /// The block does not follow the newest block.
    #[error(
        "block {given} at height {height} does not follow the store's newest block {stored} at height {tip}: blocks \
         between them are missing, or the block is of another branch"
    )]
    DoesNotFollow {
        /// The height of the block given.
        height: u32,
        /// The hash of the block given.
        given: BlockHash,
        /// The height of the newest block.
        tip: u32,
        /// The hash of the newest block.
        stored: BlockHash,
    },
}

cofferdam_protocol::debug_as_display!(ChainError);
