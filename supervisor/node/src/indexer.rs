//! The indexing loop. It takes events from a feed: it gives each block to the pipeline, and has the pipeline roll blocks back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;
use thiserror::Error;

use crate::feed::{Feed, FeedError, FeedEvent};
use crate::node_state::{NodeState, Tip};
use cofferdam_chain::{ChainError, Hashed, Outcome, Pipeline, Pushed};
use cofferdam_pool::{Pool, PoolError, Runner};
use cofferdam_store::{Store, StoreError};

/// How long the loop waits for an event before it checks again whether it should stop, and updates the status of the daemon.
const TICK: Duration = Duration::from_millis(100);

/// How many lines of the guest's log are repeated when a block stops the chain.
const LOGGED_LINES: usize = 5;

/// Why indexing failed.
#[derive(Error)]
pub enum IndexError {
    /// The feed cannot give more blocks.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The pipeline cannot go on.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(IndexError);

/// Why indexing stopped without an error.
#[derive(Debug)]
pub enum StopReason {
    /// The caller requested the stop.
    Requested,
    /// The last wanted height is committed. With [`Indexer::stop_at_tip`], this is the height of the tip.
    Reached(u32),
    /// The feed has given all of its blocks. Only a feed of files ends this way.
    FeedEnded,
    /// A block stops the chain. If the verdict is a guest verdict, every node with this module stops at the same block.
    BlockFailed(Box<Outcome>),
}

/// What one indexing thread works on.
#[allow(missing_debug_implementations, reason = "it holds a closure, and one thread uses it")]
pub struct Indexer<'a, R = Arc<Pool>> {
    /// The pipeline that runs and commits the blocks.
    pub pipeline: &'a mut Pipeline<R>,
    /// How many blocks one reorganisation may roll back. The feed has a limit, too. This limit applies even if the feed reports a
    /// deeper rollback.
    pub max_reorg_depth: u32,
    /// The last height to index. Default `None`: all heights.
    pub stop_height: Option<u32>,
    /// Whether to stop once the feed is at its tip. Default `false`.
    pub stop_at_tip: bool,
    store: &'a Store,
    state: &'a NodeState,
    /// Whether the store has the name of the daemon's network.
    network_recorded: bool,
    /// Whether the caller requests to stop. Called between two events, and at least every 100 ms.
    stop_requested: &'a dyn Fn() -> bool,
}

impl<'a, R: Runner> Indexer<'a, R> {
    /// An indexer that commits to `store` by `pipeline`, which was resumed from the same store, and that reports to `state`.
    ///
    /// `stop_requested` is called between two events, and at least every 100 ms while no event comes.
    pub fn new(
        pipeline: &'a mut Pipeline<R>,
        store: &'a Store,
        state: &'a NodeState,
        max_reorg_depth: u32,
        stop_requested: &'a dyn Fn() -> bool,
    ) -> Self {
        Self {
            pipeline,
            max_reorg_depth,
            stop_height: None,
            stop_at_tip: false,
            store,
            state,
            network_recorded: false,
            stop_requested,
        }
    }

    /// Indexes the blocks of `feed` until one of the [`StopReason`]s holds. Every block that was taken is committed then.
    ///
    /// # Errors
    /// [`IndexError`]. The store holds whole blocks then, too.
    pub fn run(&mut self, feed: &mut dyn Feed) -> Result<StopReason, IndexError> {
        let started = Instant::now();
        let mut times = self.state.times();
        let before = times.elapsed;
        // The time of waiting at the tip is not counted as time of waiting for a slow feed.
        let mut at_tip = false;
        loop {
            if let Some(reason) = self.stop_reason() {
                self.pipeline.flush()?;
                return Ok(reason);
            }
            let waits = Instant::now();
            let event = feed.next(TICK);
            if !at_tip {
                times.feed_wait += waits.elapsed();
            }
            self.record_daemon(feed)?;
            match event {
                Ok(Some(FeedEvent::Block(block))) => {
                    at_tip = false;
                    if let Some(reason) = self.index(block)? {
                        return Ok(reason);
                    }
                }
                Ok(Some(FeedEvent::Rollback { fork, depth })) => self.roll_back(fork, depth)?,
                Ok(Some(FeedEvent::AtTip { height, .. })) => {
                    at_tip = true;
                    self.reach_tip(height)?;
                    if self.stop_at_tip {
                        return Ok(StopReason::Reached(height));
                    }
                }
                Ok(None) => {}
                Err(FeedError::Ended) => {
                    self.pipeline.flush()?;
                    return Ok(StopReason::FeedEnded);
                }
                Err(error) => {
                    // The blocks before the error are good.
                    self.pipeline.flush()?;
                    return Err(error.into());
                }
            }
            times.pipeline = self.pipeline.times();
            times.elapsed = before + started.elapsed();
            self.state.set_times(times);
        }
    }

    fn stop_reason(&self) -> Option<StopReason> {
        if (self.stop_requested)() {
            return Some(StopReason::Requested);
        }
        let tip = self.pipeline.tip()?;
        self.stop_height.is_some_and(|last| last <= tip).then_some(StopReason::Reached(tip))
    }

    /// Records the status of the daemon and, once it is known, the daemon's network.
    fn record_daemon(&mut self, feed: &dyn Feed) -> Result<(), IndexError> {
        let Some(status) = feed.daemon_status() else { return Ok(()) };
        if let Some(network) = status.network.filter(|_| !self.network_recorded) {
            self.pipeline.write(|store| store.set_network(&network.to_string()))?;
            self.network_recorded = true;
        }
        self.state.set_daemon(status);
        Ok(())
    }

    fn reach_tip(&mut self, height: u32) -> Result<(), IndexError> {
        self.pipeline.flush()?;
        self.state.record_at_tip();
        // Workers and other readers that were killed leave their slots in the store's table of readers.
        self.store.clear_stale_readers()?;
        tracing::info!("block {height} is indexed: the node is at the tip");
        Ok(())
    }

    /// Indexes one block. If indexing stops at this block, returns the reason.
    fn index(&mut self, block: Hashed) -> Result<Option<StopReason>, IndexError> {
        match self.pipeline.push(block) {
            Ok(Pushed::Taken(_)) => Ok(None),
            Ok(Pushed::Stopped(outcome)) => {
                log_failed_block(&outcome);
                Ok(Some(StopReason::BlockFailed(outcome)))
            }
            // The request to stop interrupted the block. The next run begins with this block.
            Err(ChainError::Pool(PoolError::Draining) | ChainError::Interrupted { .. })
                if (self.stop_requested)() =>
            {
                self.pipeline.flush()?;
                Ok(Some(StopReason::Requested))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn roll_back(&mut self, fork: Option<u32>, depth: u32) -> Result<(), IndexError> {
        self.state.begin_rollback();
        let rolled_back = self.pipeline.roll_back(fork, depth.min(self.max_reorg_depth));
        let tip = self.store.tip();
        let tip = tip.map(|record| record.as_ref().map(Tip::of));
        // The end of the rollback is recorded in the state even if the rollback failed. Otherwise views would wait for the end of
        // the rollback for ever.
        self.state.end_rollback(tip.as_ref().ok().copied().flatten(), depth);
        let (rolled_back, _) = (rolled_back?, tip?);
        let to =
            fork.map_or_else(|| "to before the first block".to_owned(), |fork| format!("to block {fork}"));
        tracing::warn!("reorganisation: rolled back {rolled_back} block(s), {to}");
        Ok(())
    }
}

/// Logs which block stops the chain, and why.
fn log_failed_block(outcome: &Outcome) {
    let Outcome { height, hash, result, .. } = outcome;
    let consequence = match result.verdict {
        Verdict::Guest(_) => {
            "the chain stops before this block, as it does on every node with this module; with --on-guest-failure skip the \
             block is committed without writes"
        }
        Verdict::Host(_) => "nothing of this block was committed; the next run begins with it",
    };
    tracing::error!("block {height} ({hash}): {} ({}): {consequence}", result.verdict, result.detail);
    let log: Vec<&str> = result.log.lines().collect();
    for line in log.iter().skip(log.len().saturating_sub(LOGGED_LINES)) {
        tracing::error!("block {height}: the guest logged: {line}");
    }
}
