//! The thread that polls the node for its best chain. The thread plans which blocks are fetched next, and rolls the queue back if
//! the node has left the queue's chain.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::constants::genesis_block;
use bitcoin::{BlockHash, Network};

use super::backoff::Backoff;
use super::block_queue::{BlockQueue, BlockRef, Fork, Mismatch, PLANNED_BLOCKS};
use super::client::{ChainInfo, Client};
use super::error::DaemonError;
use super::settings::FollowerSettings;
use super::status::{Activity, Reporter};
use super::transient::{RequestFailure, TransientError};
use crate::event::LookupError;

/// The most hashes that are requested at once.
const HASH_BATCH: u32 = 100;

/// After this number of polls in a row during which the chain changed, the changes are logged. With the default poll interval,
/// this takes about ten seconds.
const CHANGES: u32 = 40;
/// The number of hashes in the first request of a search for a fork. It is small because most forks are one or two blocks deep.
const FIRST_STEP: u32 = 10;
/// How many mismatches in a row are tolerated. A reorganisation between two requests causes one mismatch. If several nodes with
/// different best blocks share one address, they cause more mismatches, until they are at the same block.
const MISMATCHES: u32 = 20;
/// While the best block stays the same, `getblockchaininfo` is called again only after this time.
const CHAIN_INFO_AGE: Duration = Duration::from_secs(10);

/// Follows the best chain of one Bitcoin node, and decides which block is fetched next.
pub(super) struct ChainTracker<C> {
    client: Arc<Client>,
    queue: Arc<BlockQueue>,
    reporter: Arc<Reporter>,
    settings: Arc<FollowerSettings>,
    /// Returns the hash that the caller has committed at a height; `None` only below the caller's first block.
    committed_hash: C,
    /// Whether the network and the genesis block were checked since the node was last unreachable.
    identity_checked: bool,
    /// The genesis block at the first check.
    genesis: Option<BlockHash>,
    tip: Option<NodeTip>,
    /// Whether the last block of the queue is known to be on the node's chain that ends with `tip`.
    agreed: bool,
    /// The number of mismatches in a row, and the highest given block at that time.
    mismatches: (u32, Option<(u32, BlockHash)>),
}

/// The node's best block.
#[derive(Clone, Copy, Debug)]
struct NodeTip {
    height: u32,
    hash: BlockHash,
    learnt: Instant,
}

impl<C> fmt::Debug for ChainTracker<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainTracker")
            .field("tip", &self.tip)
            .field("agreed", &self.agreed)
            .finish_non_exhaustive()
    }
}

impl<C: Fn(u32) -> Result<Option<BlockHash>, LookupError>> ChainTracker<C> {
    /// A tracker that fills `queue` from the node behind `client`.
    pub(super) fn new(
        client: Arc<Client>,
        queue: Arc<BlockQueue>,
        reporter: Arc<Reporter>,
        settings: Arc<FollowerSettings>,
        committed_hash: C,
    ) -> Self {
        Self {
            client,
            queue,
            reporter,
            settings,
            committed_hash,
            identity_checked: false,
            genesis: None,
            tip: None,
            agreed: false,
            mismatches: (0, None),
        }
    }

    /// Polls the node and updates the queue, until the queue is stopped, or until the node can no longer be followed.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut changes = 0;
        loop {
            let goes_on = match self.poll() {
                Ok(()) => {
                    backoff.reset();
                    changes = 0;
                    self.reporter.succeeded(Activity::Polling);
                    self.queue.wait_for_room(self.settings.poll_interval)
                }
                // The request was ended because the queue was stopped. That says nothing about the node.
                Err(_) if self.queue.is_stopped() => return,
                Err(RequestFailure::ChainMoved) => {
                    self.tip = None;
                    changes += 1;
                    if changes >= CHANGES {
                        let error = TransientError::Changing { times: changes };
                        self.reporter.failed(Activity::Polling, &error);
                    }
                    self.queue.pause(self.settings.poll_interval)
                }
                Err(RequestFailure::Transient(error)) => {
                    self.identity_checked = false;
                    self.tip = None;
                    self.reporter.failed(Activity::Polling, &error);
                    let delay = backoff.next_delay();
                    if error.attempt_limit().is_some_and(|limit| backoff.failures() >= limit) {
                        return self.fail(self.client.credentials_error());
                    }
                    self.queue.pause(delay)
                }
                Err(RequestFailure::Fatal(error)) => return self.fail(*error),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn fail(&self, error: DaemonError) {
        self.reporter.ended(&error.to_string());
        self.queue.fail(error);
    }

    /// Polls the node once, and brings the queue up to date.
    fn poll(&mut self) -> Result<(), RequestFailure> {
        if let Some(mismatch) = self.queue.take_mismatch() {
            self.count_mismatch(mismatch)?;
        }
        if !self.identity_checked {
            self.check_identity()?;
        }
        let best = self.client.best_block_hash()?;
        let tip = match self.tip {
            Some(tip) if tip.hash == best && tip.learnt.elapsed() < CHAIN_INFO_AGE => tip,
            _ => self.learn_tip()?,
        };
        if !self.agreed {
            self.agree(tip)?;
            self.agreed = true;
        }
        self.extend(tip)
    }

    /// Compares the network and the genesis block with the expected ones. This happens at the first contact, after each
    /// interruption, and when a fork is found: another node may be answering now.
    fn check_identity(&mut self) -> Result<(), RequestFailure> {
        let info = self.client.chain_info()?;
        self.check_network(&info)?;
        let found = self.client.block_hash(0)?;
        if let Some(network) = self.settings.network {
            let of = || format!("the genesis block of {}", network.to_core_arg());
            self.check_genesis(found, genesis_of(network), of)?;
        }
        if let Some(expected) = self.our_hash(0)? {
            self.check_genesis(found, expected, || "the genesis block of the indexed chain".to_owned())?;
        }
        if let Some(expected) = self.genesis {
            self.check_genesis(found, expected, || "the genesis block that it had before".to_owned())?;
        }
        if self.genesis.replace(found).is_none() {
            let url = self.client.url();
            tracing::info!("following the node at {url}: {} at height {}", info.chain, info.blocks);
        }
        self.identity_checked = true;
        Ok(())
    }

    fn check_network(&self, info: &ChainInfo) -> Result<(), RequestFailure> {
        match self.settings.network {
            Some(expected) if info.chain != expected.to_core_arg() => Err(DaemonError::OtherNetwork {
                url: self.client.url().to_owned(),
                expected: expected.to_core_arg(),
                found: info.chain.clone(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn check_genesis(
        &self,
        found: BlockHash,
        expected: BlockHash,
        of: impl FnOnce() -> String,
    ) -> Result<(), RequestFailure> {
        if found == expected {
            return Ok(());
        }
        let url = self.client.url().to_owned();
        Err(DaemonError::OtherGenesis { url, expected, of: of(), found }.into())
    }

    /// Asks the node for its network and its best block.
    fn learn_tip(&mut self) -> Result<NodeTip, RequestFailure> {
        let info = self.client.chain_info()?;
        self.check_network(&info)?;
        self.reporter.update_chain(&info);
        let tip = NodeTip { height: info.blocks, hash: info.best, learnt: Instant::now() };
        self.agreed &= self.tip.is_some_and(|before| before.hash == tip.hash);
        self.tip = Some(tip);
        Ok(tip)
    }

    /// Rolls the queue back if its end is no longer on the node's chain.
    fn agree(&mut self, tip: NodeTip) -> Result<(), RequestFailure> {
        self.queue.drop_above(tip.height);
        let Some((end, _)) = self.queue.end() else { return Ok(()) };
        let common = end.min(tip.height);
        let theirs = if common == tip.height { tip.hash } else { self.client.block_hash(common)? };
        match self.our_hash(common)? {
            Some(ours) if ours != theirs => {}
            // The chains agree, or the height is below our first block, where there is nothing to compare.
            _ => {
                self.reporter.update_behind((end > tip.height).then_some((tip.height, end)));
                return Ok(());
            }
        }
        // Between two requests another node may have taken the place of this one.
        self.check_identity()?;
        // While the fork is searched, the caller must not be given more blocks of the branch that was left. Otherwise the
        // rollback would be deeper than the depth that is checked here.
        self.queue.drop_planned();
        let Some((given, _)) = self.queue.given() else { return Ok(()) };
        let fork = self.find_fork(common.min(given))?;
        self.reporter.update_behind(None);
        if let Some((depth, (height, hash))) = self.queue.roll_back(fork) {
            let to =
                fork.at.map_or("to before the first block".to_owned(), |(at, _)| format!("to height {at}"));
            tracing::warn!(
                "the node at {} left block {hash} at height {height} for another branch: rolling back {depth} block(s), {to}",
                self.client.url()
            );
        }
        Ok(())
    }

    /// Finds the height at which the queue's chain and the node's chain part. The height is `from` or below it.
    fn find_fork(&self, from: u32) -> Result<Fork, RequestFailure> {
        let (mut high, mut step) = (from, FIRST_STEP);
        loop {
            let low = high.saturating_sub(step - 1);
            let theirs = self.client.block_hashes(low..=high)?;
            for (height, theirs) in (low..=high).rev().zip(theirs.into_iter().rev()) {
                match self.our_hash(height)? {
                    None => return Ok(Fork { at: None, left: height.saturating_add(1) }),
                    Some(ours) if ours == theirs => {
                        return Ok(Fork { at: Some((height, ours)), left: height.saturating_add(1) });
                    }
                    Some(ours) => self.check_depth(height, ours, theirs)?,
                }
            }
            if low == 0 {
                return Ok(Fork { at: None, left: 0 });
            }
            (high, step) = (low - 1, HASH_BATCH);
        }
    }

    /// Checks that the caller's blocks from `height` on, where the two chains differ, may be rolled back.
    fn check_depth(&self, height: u32, ours: BlockHash, theirs: BlockHash) -> Result<(), RequestFailure> {
        let limit = self.settings.max_reorg_depth;
        match self.queue.held() {
            Some(tip) if height <= tip && tip - height >= limit => {
                let url = self.client.url().to_owned();
                Err(DaemonError::TooDeep { url, limit, height, ours, theirs, tip }.into())
            }
            _ => Ok(()),
        }
    }

    /// Plans the blocks that follow the end of the queue.
    fn extend(&self, tip: NodeTip) -> Result<(), RequestFailure> {
        let last = self.settings.stop_height.map_or(tip.height, |stop| stop.min(tip.height));
        self.queue.set_target(last, (last == tip.height).then_some(tip.hash));
        while self.queue.has_room() {
            let end = self.queue.end();
            // The hash at the end is requested again, to be sure that the new hashes follow it.
            let first = end.map_or(self.settings.start_height, |(height, _)| height);
            let hashes = self.client.block_hashes(first..=last.min(first.saturating_add(HASH_BATCH)))?;
            let new = match (end, hashes.split_first()) {
                (Some((_, ours)), Some((theirs, new))) if *theirs == ours => new,
                (None, _) => hashes.as_slice(),
                (Some(_), _) => return Err(RequestFailure::ChainMoved),
            };
            self.queue.plan(new);
        }
        Ok(())
    }

    /// Counts a mismatch. The node is polled again after it, until too many have occurred in a row.
    fn count_mismatch(&mut self, mismatch: Mismatch) -> Result<(), RequestFailure> {
        let Mismatch { block: BlockRef { height, hash }, parent } = mismatch;
        let given = self.queue.given();
        let (before, unchanged) = self.mismatches;
        let times = if given == unchanged { before + 1 } else { 1 };
        self.mismatches = (times, given);
        if times >= MISMATCHES {
            let url = self.client.url().to_owned();
            return Err(DaemonError::NotAChain { url, height, hash, parent, times }.into());
        }
        match times {
            1 => Err(RequestFailure::ChainMoved),
            _ => Err(RequestFailure::Transient(TransientError::NotAChain { height })),
        }
    }

    /// The hash of the queue's chain at a height. Below the queue, the hash of the block that the caller has committed.
    fn our_hash(&self, height: u32) -> Result<Option<BlockHash>, RequestFailure> {
        if self.queue.end().is_none_or(|(end, _)| height > end) {
            return Ok(None);
        }
        let committed =
            || (self.committed_hash)(height).map_err(|source| DaemonError::Lookup { height, source }.into());
        self.queue.hash_at(height).map_or_else(committed, |hash| Ok(Some(hash)))
    }
}

fn genesis_of(network: Network) -> BlockHash {
    genesis_block(network).block_hash()
}

const _: () = assert!(PLANNED_BLOCKS >= HASH_BATCH as usize, "a batch of requested hashes is planned whole");
