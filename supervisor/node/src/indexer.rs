//! The thread that indexes: takes what the source gives, and drives the chain along.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;
use thiserror::Error;

use super::state::{NodeState, Tip};
use crate::daemon;
use crate::feed::{Feed, FeedError, FeedEvent, FileFeed};
use cofferdam_chain::{ChainError, Hashed, Outcome, Pipeline, Pushed, Workers};
use cofferdam_pool::{Pool, PoolError};
use cofferdam_store::{Store, StoreError};

/// Why indexing ended otherwise than it should.
#[derive(Error)]
pub enum NodeError {
    /// The source gives no more blocks.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The chain cannot go on.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(NodeError);

/// Where blocks come from.
#[derive(Debug)]
pub enum Source {
    /// A daemon, for ever.
    Daemon(daemon::Follower),
    /// Files, to their end.
    Files(Box<FileFeed>),
}

impl Source {
    fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, FeedError> {
        match self {
            Self::Daemon(follower) => Feed::next(follower, patience),
            Self::Files(files) => files.next(patience),
        }
    }
}

/// Why indexing ended as it should.
#[derive(Debug)]
pub enum Ended {
    /// Somebody asked for it.
    Asked,
    /// The last height that was wanted is committed.
    Reached(u32),
    /// All files are indexed.
    OutOfFiles,
    /// A block stops the chain: of a guest's verdict every node would say the same.
    Stopped(Box<Outcome>),
}

/// What one indexing thread works on.
#[allow(missing_debug_implementations, reason = "holds a closure, and is of one thread")]
pub struct Indexer<'a, W = Arc<Pool>> {
    /// The chain.
    pub pipeline: &'a mut Pipeline<W>,
    /// Its store.
    pub store: &'a Store,
    /// What others see of it.
    pub state: &'a Arc<NodeState>,
    /// How many blocks one reorganisation may take back. The source looks at that too; this holds whatever the source says.
    pub max_reorg_depth: u32,
    /// The last height to index.
    pub exit_at: Option<u32>,
    /// Whether to end once everything that there is at some moment is committed.
    pub exit_at_tip: bool,
    /// Whether the store has been told the daemon's network.
    pub network_noted: bool,
    /// Whether somebody asks to end.
    pub is_asked: &'a dyn Fn() -> bool,
}

impl<W: Workers> Indexer<'_, W> {
    /// Indexes what `source` gives, until it ends or somebody asks for that. Everything that was taken is committed then.
    ///
    /// # Errors
    /// [`NodeError`]. What is committed is whole blocks.
    pub fn run(&mut self, source: &mut Source) -> Result<Ended, NodeError> {
        const TICK: Duration = Duration::from_millis(100);
        let started = Instant::now();
        let mut work = self.state.work();
        let before = work.elapsed;
        // Waiting at the tip is not waiting for what is late.
        let mut at_tip = false;
        loop {
            if (self.is_asked)() {
                self.pipeline.flush()?;
                return Ok(Ended::Asked);
            }
            if let Some(tip) = self.pipeline.tip().filter(|tip| self.exit_at.is_some_and(|last| last <= *tip))
            {
                self.pipeline.flush()?;
                return Ok(Ended::Reached(tip));
            }
            let asked = Instant::now();
            let event = source.next(TICK);
            if !at_tip {
                work.waiting += asked.elapsed();
            }
            if let Source::Daemon(follower) = source {
                self.note_daemon(follower)?;
            }
            match event {
                Ok(Some(FeedEvent::Block(block))) => {
                    at_tip = false;
                    if let Some(ended) = self.index(block)? {
                        return Ok(ended);
                    }
                }
                Ok(Some(FeedEvent::Rewind { fork, depth })) => self.rewind(fork, depth)?,
                Ok(Some(FeedEvent::AtTip { height, .. })) => {
                    self.pipeline.flush()?;
                    at_tip = true;
                    self.state.set_at_tip(true);
                    // Of workers, and of others who read the store and were killed.
                    self.store.clear_stale_readers()?;
                    tracing::info!("block {height} is the newest, and is indexed");
                    if self.exit_at_tip {
                        return Ok(Ended::Reached(height));
                    }
                }
                Ok(None) => {}
                Err(FeedError::Ended) => {
                    self.pipeline.flush()?;
                    return Ok(Ended::OutOfFiles);
                }
                Err(error) => {
                    // What came before it is good.
                    self.pipeline.flush()?;
                    return Err(error.into());
                }
            }
            work.times = self.pipeline.times();
            work.elapsed = before + started.elapsed();
            self.state.set_work(work);
        }
    }

    fn note_daemon(&mut self, follower: &daemon::Follower) -> Result<(), NodeError> {
        let status = follower.status();
        if let Some(network) = status.network.filter(|_| !self.network_noted) {
            self.pipeline.insist(|store| store.set_network(&network.to_string()))?;
            self.network_noted = true;
        }
        self.state.set_daemon(status);
        Ok(())
    }

    /// Indexes one block; why that is the end, if it is.
    fn index(&mut self, block: Hashed) -> Result<Option<Ended>, NodeError> {
        match self.pipeline.push(block) {
            Ok(Pushed::Taken) => Ok(None),
            Ok(Pushed::Stopped(outcome)) => {
                report(&outcome);
                Ok(Some(Ended::Stopped(outcome)))
            }
            // The block was cut off, and is the first of the next run.
            Err(ChainError::Pool(PoolError::Draining)) if (self.is_asked)() => {
                self.pipeline.flush()?;
                Ok(Some(Ended::Asked))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn rewind(&mut self, fork: Option<u32>, depth: u32) -> Result<(), NodeError> {
        self.state.begin_rewind();
        let taken_back = self.pipeline.roll_back(fork, depth.min(self.max_reorg_depth));
        let tip = self.store.tip();
        let tip = tip.map(|record| record.as_ref().map(Tip::of));
        // Whatever came of it: who waits for it to be over must not wait for ever.
        self.state.end_rewind(tip.as_ref().ok().copied().flatten(), depth);
        let (taken_back, _) = (taken_back?, tip?);
        let fork = fork.map_or_else(|| "before the first block".to_owned(), |fork| format!("block {fork}"));
        tracing::warn!("reorganisation: {taken_back} blocks were taken back, to {fork}");
        Ok(())
    }
}

/// Says, loudly, which block stops the chain and why.
fn report(outcome: &Outcome) {
    let result = &outcome.result;
    let what = match result.verdict {
        Verdict::Guest(_) => {
            "the chain stops before it, as it does on every node with this module; \
                              --on-guest-failure skip would commit it without writes"
        }
        Verdict::Host(_) => "nothing of it was committed; it is the first of the next run",
    };
    tracing::error!(
        "block {} ({}): {} ({}): {what}",
        outcome.height,
        outcome.hash,
        result.verdict,
        result.detail
    );
    let log: Vec<&str> = result.log.lines().collect();
    for line in log.iter().skip(log.len().saturating_sub(5)) {
        tracing::error!("block {}: the guest logged: {line}", outcome.height);
    }
}
