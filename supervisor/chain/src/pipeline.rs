//! Runs the blocks of one chain in order. A block runs while earlier blocks are still being committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::{GuestVerdict, Verdict};
use crossbeam_channel::bounded;

use super::committer::{CommitWatch, Committed, Committer, Observer, Ran};
use super::outcome::{hash_bytes, hash_of};
use super::redundancy::run_on_two;
use super::settings::{OnGuestFailure, PipelineSettings};
use super::{ChainError, Hashed, Outcome, extend_digest};
use crate::blocks::SourceBlock;
use cofferdam_pool::{Job, JobResult, MAX_LAYERS, Pool, ResetHandle, Runner, StateLayer};
use cofferdam_store::{BlockRecord, Store, StoreError};

/// The result of pushing a block.
#[derive(Debug)]
pub enum Pushed {
    /// The block ran, and is being committed. The handle gives the result of the reset of the block's worker.
    Taken(ResetHandle),
    /// The chain stops before the block. All earlier blocks are committed.
    Stopped(Box<Outcome>),
}

/// How the time since the pipeline was made was spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The number of blocks that ran.
    pub blocks: u64,
    /// The time that guests ran.
    pub guest: Duration,
    /// The time from submitting a block to receiving its result, minus the time that the guest ran. This time includes the pipe,
    /// copies, and the wait for a worker whose reset is not done.
    pub overhead: Duration,
    /// The time to make layers from the writes of blocks.
    pub layers: Duration,
    /// The time that was spent waiting for commits, because too many blocks were not committed yet.
    pub commits: Duration,
}

/// The newest block that the pipeline has run and handed to the committer.
#[derive(Clone, Copy, Debug)]
struct Tip {
    height: u32,
    hash: [u8; 32],
}

/// The writes of a block that may not be committed yet.
#[derive(Debug)]
struct Pending {
    layer: StateLayer,
    /// The height of the block before; none for the first block of a store.
    before: Option<u32>,
}

/// The result of running a block.
enum Executed {
    /// The block is to be committed.
    Commit(Ran),
    /// The chain stops before the block.
    Stop(Box<Outcome>),
}

/// Runs the blocks of one chain on a pool, and commits them to a store. When the pipeline is dropped, it commits every block that
/// it took.
#[derive(Debug)]
pub struct Pipeline<R = Arc<Pool>> {
    pool: R,
    store: Arc<Store>,
    settings: PipelineSettings,
    tip: Option<Tip>,
    /// Blocks that are not known to be committed, oldest first.
    pending: VecDeque<Pending>,
    committer: Committer,
    times: Times,
}

impl<R: Runner> Pipeline<R> {
    /// Goes on from the newest block of `store`. The pool must read the same store, and the store must have the profile of the
    /// pool. `observer` is called for each block, once the block is committed.
    ///
    /// # Errors
    /// [`ChainError::Store`], [`ChainError::Thread`].
    pub fn resume(
        pool: R,
        store: Arc<Store>,
        settings: PipelineSettings,
        observer: Observer,
    ) -> Result<Self, ChainError> {
        let newest = store.tip()?;
        let committed = committed(&pool, newest.as_ref());
        let committer = Committer::start(&store, committed, &settings, observer);
        let committer = committer.map_err(ChainError::Thread)?;
        let tip = newest.map(|record| Tip { height: record.height, hash: record.hash });
        Ok(Self { pool, store, settings, tip, pending: VecDeque::new(), committer, times: Times::default() })
    }

    /// The height of the newest block that was taken, committed or not.
    pub fn tip(&self) -> Option<u32> {
        self.tip.map(|tip| tip.height)
    }

    /// What is committed at this moment.
    pub fn committed(&self) -> Committed {
        self.committer.committed()
    }

    /// How the time was spent.
    pub fn times(&self) -> Times {
        self.times
    }

    /// The commits, for other threads.
    pub fn watch(&self) -> CommitWatch {
        self.committer.watch()
    }

    /// Whether the chain already has a block with this height and this hash. A block above the newest one is new.
    ///
    /// # Errors
    /// [`ChainError::OtherChain`] and [`ChainError::NotInStore`] if the chain has another block at this height, or none;
    /// [`ChainError::Store`].
    pub fn has(&mut self, block: &SourceBlock) -> Result<bool, ChainError> {
        let SourceBlock { height, hash, .. } = *block;
        let Some(tip) = self.tip().filter(|tip| height <= *tip) else { return Ok(false) };
        if !self.committer.has(height) {
            self.flush()?;
        }
        match self.store.block(height)? {
            None => Err(ChainError::NotInStore { height, tip }),
            Some(stored) if stored.hash == hash_bytes(hash) => Ok(true),
            Some(stored) => Err(ChainError::OtherChain { height, stored: hash_of(stored.hash), given: hash }),
        }
    }

    /// Runs `block` on the state before it, and begins to commit what it wrote. Returns before the block is committed.
    ///
    /// # Errors
    /// [`ChainError::DoesNotFollow`] if the block does not follow the newest block, as
    /// [`linked`](PipelineSettings::linked) demands; any other [`ChainError`]. Earlier blocks are then committed whole or not
    /// at all.
    pub fn push(&mut self, block: Hashed) -> Result<Pushed, ChainError> {
        let ran = match self.execute(block)? {
            Executed::Commit(ran) => ran,
            Executed::Stop(outcome) => return Ok(Pushed::Stopped(outcome)),
        };
        let (before, height) = (self.tip(), ran.outcome.height);
        let reset = ran.outcome.result.reset.clone();
        let started = Instant::now();
        let layer = self.pool.layer(height, ran.outcome.result.writes());
        self.times.layers += started.elapsed();
        self.commit(ran)?;
        match layer {
            Some(layer) => self.pending.push_back(Pending { layer, before }),
            // There is no room for a layer. The next block reads from the store.
            None => self.flush()?,
        }
        Ok(Pushed::Taken(reset))
    }

    /// Runs `block` as [`Pipeline::push`] does, and waits until it is committed. If the chain stops before the block, the outcome
    /// is not [`committed`](Outcome::committed).
    ///
    /// # Errors
    /// As [`Pipeline::push`]. Nothing of the block is committed then.
    pub fn push_and_wait(&mut self, block: Hashed) -> Result<Box<Outcome>, ChainError> {
        let mut ran = match self.execute(block)? {
            Executed::Commit(ran) => ran,
            Executed::Stop(outcome) => return Ok(outcome),
        };
        let (reply, outcome) = bounded(1);
        ran.reply = Some(reply);
        self.commit(ran)?;
        self.flush()?;
        outcome.try_recv().map_err(|_| ChainError::Committer)
    }

    /// Orders the commit of all blocks that were taken, without waiting for further blocks. Returns at once. This is for a caller
    /// that has no further block at this moment.
    ///
    /// # Errors
    /// [`ChainError`] if an earlier commit failed.
    pub fn commit_now(&mut self) -> Result<(), ChainError> {
        self.committer.commit_now()
    }

    /// Waits until all blocks that were taken are committed.
    ///
    /// # Errors
    /// [`ChainError`] if a commit failed.
    pub fn flush(&mut self) -> Result<(), ChainError> {
        let started = Instant::now();
        self.committer.flush()?;
        self.pending.clear();
        self.times.commits += started.elapsed();
        Ok(())
    }

    /// Writes something other than a block to the store. A full disk is handled as for blocks.
    ///
    /// # Errors
    /// The [`StoreError`] of `write`.
    pub fn write<T>(&self, mut write: impl FnMut(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.committer.retry(|| write(&self.store))
    }

    /// Removes every block above `to`, or all blocks if `to` is none, and goes on from there. Returns how many blocks were
    /// removed, which is at most `at_most`.
    ///
    /// # Errors
    /// [`StoreError::TooDeep`] if there are more than `at_most` blocks above `to`: no block is removed then. Any other
    /// [`ChainError`]: the store is then as it was after one of its blocks, which need not be `to`.
    pub fn roll_back(&mut self, to: Option<u32>, at_most: u32) -> Result<u32, ChainError> {
        self.flush()?;
        let removed = self.remove_above(to, at_most);
        // This is done after an error, too: some blocks may have been removed.
        let newest = self.store.tip()?;
        let committed = committed(&self.pool, newest.as_ref());
        self.tip = newest.map(|record| Tip { height: record.height, hash: record.hash });
        self.committer.go_on_from(committed)?;
        Ok(removed?)
    }

    fn remove_above(&self, to: Option<u32>, at_most: u32) -> Result<u32, StoreError> {
        let mut removed = 0;
        loop {
            match self.write(|store| store.roll_back_step(to, at_most - removed))? {
                0 => return Ok(removed),
                more => removed += more,
            }
        }
    }

    /// Runs a block on the state before it. If the chain stops before the block, this commits all earlier blocks.
    fn execute(&mut self, block: Hashed) -> Result<Executed, ChainError> {
        let Hashed { block, sha256 } = block;
        self.check_follows(&block)?;
        self.make_room()?;
        let SourceBlock { height, hash, bytes, .. } = block;
        let block_bytes = bytes.len() as u64;
        let layers: Vec<_> = self.pending.iter().rev().map(|pending| pending.layer.clone()).collect();
        // The job ignores the quarantine. A block that ends its workers stops the chain anyway, and the next run has to try the
        // block again.
        let job = Job::block(height, bytes).on_state(self.state_tip()).over(layers).despite_quarantine();
        let result = self.run(&job, height)?;
        self.times.blocks += 1;
        self.times.guest += result.exec;
        self.times.overhead += result.overhead;
        let writes_sha256 = Hash([0; 32]);
        let outcome =
            Outcome { height, hash, block_bytes, result, writes_sha256, digest: None, committed: false };
        let outcome = Box::new(outcome);
        match outcome.result.verdict {
            Verdict::Guest(verdict)
                if verdict == GuestVerdict::Completed || self.settings.policy == OnGuestFailure::Skip =>
            {
                Ok(Executed::Commit(Ran { outcome, sha256, verdict, reply: None }))
            }
            _ => self.stop_before(outcome, sha256).map(Executed::Stop),
        }
    }

    fn run(&self, job: &Job, height: u32) -> Result<JobResult, ChainError> {
        if self.settings.redundant {
            return run_on_two(&self.pool, job, height, self.committer.stop());
        }
        Ok(self.pool.call(job)?)
    }

    /// A height that the store has certainly reached: the height of the block before the oldest pending block.
    fn state_tip(&self) -> Option<u32> {
        match self.pending.front() {
            Some(oldest) => oldest.before,
            None => self.tip(),
        }
    }

    fn check_follows(&self, block: &SourceBlock) -> Result<(), ChainError> {
        let Some(tip) = self.tip else { return Ok(()) };
        let follows = if self.settings.linked {
            tip.height.checked_add(1) == Some(block.height)
                && block.previous.is_none_or(|previous| hash_bytes(previous) == tip.hash)
        } else {
            block.height > tip.height
        };
        if follows {
            return Ok(());
        }
        Err(ChainError::DoesNotFollow {
            height: block.height,
            given: block.hash,
            tip: tip.height,
            stored: hash_of(tip.hash),
        })
    }

    /// Frees the layers of blocks that are committed. If too many blocks are not committed, waits for their commit.
    fn make_room(&mut self) -> Result<(), ChainError> {
        while self.pending.front().is_some_and(|oldest| self.committer.has(oldest.layer.height())) {
            self.pending.pop_front();
        }
        if self.pending.len() < MAX_LAYERS { Ok(()) } else { self.flush() }
    }

    /// Hands a block to the committer.
    fn commit(&mut self, ran: Ran) -> Result<(), ChainError> {
        let tip = Tip { height: ran.outcome.height, hash: hash_bytes(ran.outcome.hash) };
        self.committer.commit(ran)?;
        self.tip = Some(tip);
        Ok(())
    }

    /// Commits the blocks before a block that stops the chain, and computes the digest that the chain would have with this block.
    fn stop_before(&mut self, mut outcome: Box<Outcome>, sha256: Hash) -> Result<Box<Outcome>, ChainError> {
        self.flush()?;
        outcome.writes_sha256 = outcome.result.writes().hash();
        if let Verdict::Guest(verdict) = outcome.result.verdict {
            let before = self.committed().digest;
            let digest = extend_digest(before, outcome.height, sha256, verdict, outcome.writes_sha256);
            outcome.digest = Some(digest);
        }
        Ok(outcome)
    }
}

/// The height and the digest of a store whose newest block is `newest`.
fn committed(pool: &impl Runner, newest: Option<&BlockRecord>) -> Committed {
    let digest = newest.map_or_else(|| pool.profile().hash(), |record| record.digest);
    Committed { tip: newest.map(|record| record.height), digest }
}
