//! Blocks in order, on a pool and a store: each is run on the state of the one before it, and committed whole.
//!
//! [`Chain`] takes one step at a time: run, commit, next. [`Pipeline`] runs a block while the ones before it are still being
//! committed, and takes blocks back after a reorganisation.

pub mod blocks;
mod committer;
mod patience;
mod pipeline;
#[cfg(feature = "bundled")]
pub mod sample;

use std::sync::Arc;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::{GuestVerdict, Verdict};
use thiserror::Error;

pub use blocks::Hashed;
pub use cofferdam_protocol::digest::extend as extend_digest;
pub use committer::{Batch, CommitWatch, Observer};
pub use pipeline::{Pipeline, PipelineSettings, Pushed, Times, Workers};

use crate::blocks::{BlockHash, SourceBlock};
use cofferdam_pool::{Job, JobResult, PoolError, Runner};
use cofferdam_store::{BlockRecord, Store, StoreError};

/// What to do when a block does not complete for a reason of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGuestFailure {
    /// Stop there; the block is not committed, and the next run meets it again.
    #[default]
    Stop,
    /// Commit the block with its verdict and without writes, and go on.
    Skip,
}

/// Why the chain cannot go on. Nothing of the block in question was committed.
#[derive(Error)]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pool took no job.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The thread that commits has ended without a reason.
    #[error("internal error: the thread that commits blocks has ended")]
    Committer,
    /// That thread could not be started.
    #[error("a thread to commit blocks: {0}")]
    Thread(#[source] std::io::Error),
    /// Two workers were to agree, and only one is in service.
    #[error(
        "block {height} could not be run on two workers: only one is in service; nothing of it was committed"
    )]
    OneWorker {
        /// The block.
        height: u32,
    },
    /// Two workers came to different results: the host, the module or the pool is at fault, and no result can be trusted.
    #[error(
        "block {height} has different results on workers {} and {}: {} and {}; nothing of it was committed",
        workers[0], workers[1], results[0], results[1]
    )]
    Disagreement {
        /// The block.
        height: u32,
        /// The workers' process ids.
        workers: [u32; 2],
        /// What each came to: verdict, number of pairs, and their hash.
        results: [String; 2],
    },
    /// The store has another block at this height.
    #[error(
        "the store is of another chain: at height {height} it has block {stored}, and the blocks given have {given}; \
         use another --db-path"
    )]
    OtherChain {
        /// Where they part.
        height: u32,
        /// The hash in the store.
        stored: BlockHash,
        /// The hash of the block given.
        given: BlockHash,
    },
    /// The store is further, and has no block at this height.
    #[error(
        "the store is at height {tip} already and has no block at height {height}: it was made from other blocks; use \
         another --db-path"
    )]
    NotInStore {
        /// The height given.
        height: u32,
        /// The store's newest height.
        tip: u32,
    },
    /// The block does not follow the store's newest one.
    #[error(
        "block {given} at height {height} does not follow the store's newest block {stored} at height {tip}: blocks \
         between them are missing, or it is of another branch"
    )]
    DoesNotFollow {
        /// The height given.
        height: u32,
        /// The hash of the block given.
        given: BlockHash,
        /// The store's newest height.
        tip: u32,
        /// The hash of the store's newest block.
        stored: BlockHash,
    },
}

cofferdam_protocol::debug_as_display!(ChainError);

/// What came of one block.
#[derive(Debug)]
pub struct Outcome {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// Its size in bytes.
    pub block_bytes: u64,
    /// What the pool says.
    pub result: JobResult,
    /// SHA-256 over the writes.
    pub writes_sha256: Hash,
    /// The chain's digest with this block; none for a host verdict, which is no property of the block.
    pub digest: Option<Hash>,
    /// Whether the store has it now.
    pub committed: bool,
}

/// What was done about one block.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the store has it already.
    Known,
    /// It was run.
    Ran(Box<Outcome>),
}

/// A pool, or what stands in for one, and a store, at one point of a chain.
#[derive(Debug)]
pub struct Chain<R> {
    pool: R,
    store: Arc<Store>,
    policy: OnGuestFailure,
    tip: Option<BlockRecord>,
    digest: Hash,
    links: bool,
}

impl<R: Runner> Chain<R> {
    /// Goes on from where `store` is. The pool must read the same store, and the store belong to the pool's profile.
    ///
    /// # Errors
    /// [`ChainError::Store`].
    pub fn resume(pool: R, store: Arc<Store>, policy: OnGuestFailure) -> Result<Self, ChainError> {
        let tip = store.tip()?;
        let digest = tip.as_ref().map_or_else(|| pool.profile().hash(), |tip| tip.digest);
        Ok(Self { pool, store, policy, tip, digest, links: false })
    }

    /// Demands that every block names the one before it, the store's newest block included.
    #[must_use]
    pub fn linked(mut self, links: bool) -> Self {
        self.links = links;
        self
    }

    /// The newest height that is committed.
    pub fn tip(&self) -> Option<u32> {
        self.tip.as_ref().map(|tip| tip.height)
    }

    /// The digest of everything that is committed.
    pub fn digest(&self) -> Hash {
        self.digest
    }

    /// Runs `block` on the state before it, and commits what it wrote.
    ///
    /// # Errors
    /// [`ChainError`]; the store is then as it was.
    pub fn step(&mut self, block: Hashed) -> Result<Step, ChainError> {
        let Hashed { block, sha256 } = block;
        if self.is_known(&block)? {
            return Ok(Step::Known);
        }
        let SourceBlock { height, hash, bytes, .. } = block;
        let block_bytes = bytes.len() as u64;
        let result = self.pool.call(&Job::block(height, bytes).on_state(self.tip()).despite_quarantine())?;
        let writes_sha256 = result.writes().hash();
        let mut outcome =
            Outcome { height, hash, block_bytes, result, writes_sha256, digest: None, committed: false };
        if let Verdict::Guest(verdict) = outcome.result.verdict {
            let digest = extend_digest(self.digest, height, sha256, verdict, writes_sha256);
            outcome.digest = Some(digest);
            if verdict == GuestVerdict::Completed || self.policy == OnGuestFailure::Skip {
                self.commit(&mut outcome, verdict, digest)?;
            }
        }
        Ok(Step::Ran(Box::new(outcome)))
    }

    fn commit(
        &mut self,
        outcome: &mut Outcome,
        verdict: GuestVerdict,
        digest: Hash,
    ) -> Result<(), ChainError> {
        let writes = outcome.result.writes();
        let record = BlockRecord {
            height: outcome.height,
            hash: hash_bytes(outcome.hash),
            digest,
            verdict,
            writes: writes.count(),
            writes_sha256: outcome.writes_sha256,
        };
        self.store.commit(&record, writes)?;
        self.tip = Some(record);
        self.digest = digest;
        outcome.committed = true;
        Ok(())
    }

    /// Whether the store has this very block already; an error if it has another, or cannot follow with this one.
    fn is_known(&self, block: &SourceBlock) -> Result<bool, ChainError> {
        let Some(tip) = &self.tip else { return Ok(false) };
        if block.height <= tip.height {
            return self.is_stored(block, tip.height);
        }
        let follows = tip.height.checked_add(1) == Some(block.height)
            && block.previous.is_none_or(|previous| hash_bytes(previous) == tip.hash);
        if self.links && !follows {
            return Err(ChainError::DoesNotFollow {
                height: block.height,
                given: block.hash,
                tip: tip.height,
                stored: hash_of(tip.hash),
            });
        }
        Ok(false)
    }

    fn is_stored(&self, block: &SourceBlock, tip: u32) -> Result<bool, ChainError> {
        let height = block.height;
        let Some(stored) = self.store.block(height)? else {
            return Err(ChainError::NotInStore { height, tip });
        };
        if stored.hash != hash_bytes(block.hash) {
            let stored = hash_of(stored.hash);
            return Err(ChainError::OtherChain { height, stored, given: block.hash });
        }
        Ok(true)
    }
}

fn hash_bytes(hash: BlockHash) -> [u8; 32] {
    use bitcoin::hashes::Hash as _;
    hash.to_byte_array()
}

/// The hash that is stored as these bytes.
pub fn hash_of(bytes: [u8; 32]) -> BlockHash {
    use bitcoin::hashes::Hash as _;
    BlockHash::from_byte_array(bytes)
}
