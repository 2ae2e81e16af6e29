//! The thread that knows where the node's chain is, and keeps the line of blocks on it: it plans what comes next, and takes
//! back what the node left.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitcoin::constants::genesis_block;
use bitcoin::{BlockHash, Network};

use super::client::{ChainInfo, Client};
use super::error::DaemonError;
use super::line::{Fork, Job, Line, PLANNED, Tear};
use super::settings::Settings;
use super::status::{Activity, Reporter};
use super::trouble::{Backoff, Failure, Trouble};
use crate::feed::KnownError;

/// How many hashes are asked for at once, at most.
const BATCH: u32 = 100;

/// How often in a row the chain may be found changed before that is told: some ten seconds, by the default poll.
const CHANGES: u32 = 40;
/// How many are asked for first where a fork is looked for: most are one or two deep.
const FIRST_STEP: u32 = 10;
/// How often hashes that are not of one chain are looked at again. A reorganisation between two questions makes one such
/// tear; nodes behind one address that are not at the same block make more, until they are.
const TEARS: u32 = 20;
/// How long what the node says of itself is good for while its best block stays.
const STALE: Duration = Duration::from_secs(10);

/// It.
pub(super) struct Conductor<K> {
    client: Arc<Client>,
    line: Arc<Line>,
    reporter: Arc<Reporter>,
    settings: Arc<Settings>,
    /// The hash that the caller has committed at a height; none only below its first block.
    known: K,
    /// Whether network and genesis block were compared since the node was last away.
    greeted: bool,
    /// The genesis block of the first greeting.
    genesis: Option<BlockHash>,
    tip: Option<Tip>,
    /// Whether the line's end was found on the node's chain as it is at `tip`.
    agreed: bool,
    /// How often in a row the hashes were not of one chain, while the highest block given was this one.
    tears: (u32, Option<(u32, BlockHash)>),
}

#[derive(Clone, Copy, Debug)]
struct Tip {
    height: u32,
    hash: BlockHash,
    learnt: Instant,
}

impl<K> fmt::Debug for Conductor<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conductor")
            .field("tip", &self.tip)
            .field("agreed", &self.agreed)
            .finish_non_exhaustive()
    }
}

impl<K: Fn(u32) -> Result<Option<BlockHash>, KnownError>> Conductor<K> {
    /// Of a line, from a node.
    pub(super) fn new(
        client: Arc<Client>,
        line: Arc<Line>,
        reporter: Arc<Reporter>,
        settings: Arc<Settings>,
        known: K,
    ) -> Self {
        Self {
            client,
            line,
            reporter,
            settings,
            known,
            greeted: false,
            genesis: None,
            tip: None,
            agreed: false,
            tears: (0, None),
        }
    }

    /// Keeps the line until it is stopped, or the node can be followed no further.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut changes = 0;
        loop {
            let goes_on = match self.turn() {
                Ok(()) => {
                    backoff.reset();
                    changes = 0;
                    self.reporter.worked(Activity::Asking);
                    self.line.wait_for_room(self.settings.poll)
                }
                // Its requests were ended with it, which says nothing about the node.
                Err(_) if self.line.is_stopped() => return,
                Err(Failure::Moved) => {
                    self.tip = None;
                    changes += 1;
                    if changes >= CHANGES {
                        self.reporter.failed(Activity::Asking, &Trouble::Changing { times: changes });
                    }
                    self.line.pause(self.settings.poll)
                }
                Err(Failure::Passing(trouble)) => {
                    self.greeted = false;
                    self.tip = None;
                    self.reporter.failed(Activity::Asking, &trouble);
                    let pause = backoff.pause();
                    if trouble.gives_up_after().is_some_and(|tries| backoff.tries() >= tries) {
                        return self.fail(self.client.credentials());
                    }
                    self.line.pause(pause)
                }
                Err(Failure::Final(error)) => return self.fail(*error),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn fail(&self, error: DaemonError) {
        self.reporter.ended(&error.to_string());
        self.line.fail(error);
    }

    /// One look at the node, and what follows from it.
    fn turn(&mut self) -> Result<(), Failure> {
        if let Some(tear) = self.line.take_tear() {
            self.mend(tear)?;
        }
        if !self.greeted {
            self.greet()?;
        }
        let best = self.client.best_block_hash()?;
        let tip = match self.tip {
            Some(tip) if tip.hash == best && tip.learnt.elapsed() < STALE => tip,
            _ => self.look()?,
        };
        if !self.agreed {
            self.agree(tip)?;
            self.agreed = true;
        }
        self.extend(tip)
    }

    /// Compares network and genesis block with what is expected: at the first contact, after each interruption, and
    /// where a fork is found, since it may be another node that answers now.
    fn greet(&mut self) -> Result<(), Failure> {
        let info = self.client.chain_info()?;
        self.check_network(&info)?;
        let found = self.client.block_hash(0)?;
        if let Some(network) = self.settings.network {
            self.check_genesis(found, genesis_of(network), || format!("that of {}", network.to_core_arg()))?;
        }
        if let Some(expected) = self.ours(0)? {
            self.check_genesis(found, expected, || "that of the chain that was indexed".to_owned())?;
        }
        if let Some(expected) = self.genesis {
            self.check_genesis(found, expected, || "the one that it had before".to_owned())?;
        }
        if self.genesis.replace(found).is_none() {
            let url = self.client.url();
            tracing::info!("following the node at {url}: {} at height {}", info.chain, info.blocks);
        }
        self.greeted = true;
        Ok(())
    }

    fn check_network(&self, info: &ChainInfo) -> Result<(), Failure> {
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
    ) -> Result<(), Failure> {
        if found == expected {
            return Ok(());
        }
        let url = self.client.url().to_owned();
        Err(DaemonError::OtherGenesis { url, expected, of: of(), found }.into())
    }

    /// Learns where the node's chain is now.
    fn look(&mut self) -> Result<Tip, Failure> {
        let info = self.client.chain_info()?;
        self.check_network(&info)?;
        self.reporter.informed(&info);
        let tip = Tip { height: info.blocks, hash: info.best, learnt: Instant::now() };
        self.agreed &= self.tip.is_some_and(|before| before.hash == tip.hash);
        self.tip = Some(tip);
        Ok(tip)
    }

    /// Cuts the line where it is no longer on the node's chain.
    fn agree(&mut self, tip: Tip) -> Result<(), Failure> {
        self.line.forget_above(tip.height);
        let Some((end, _)) = self.line.end() else { return Ok(()) };
        let common = end.min(tip.height);
        let theirs = if common == tip.height { tip.hash } else { self.client.block_hash(common)? };
        match self.ours(common)? {
            Some(ours) if ours != theirs => {}
            // Either it is on our chain, or below our first block, where there is nothing to compare yet.
            _ => {
                self.reporter.shorter((end > tip.height).then_some((tip.height, end)));
                return Ok(());
            }
        }
        // It may be another node by now, which took its place between two questions.
        self.greet()?;
        // The caller must not be given more of the left branch while the fork is looked for: it would have more to take back
        // than is checked here.
        self.line.forget_planned();
        let Some((given, _)) = self.line.given() else { return Ok(()) };
        let fork = self.fork(common.min(given))?;
        self.reporter.shorter(None);
        if let Some((depth, (height, hash))) = self.line.cut(fork) {
            let at = fork.at.map_or("before the first block".to_owned(), |(at, _)| format!("height {at}"));
            tracing::warn!(
                "the node at {} left block {hash} at height {height} for another branch: {depth} block(s) are taken back, \
                 to {at}",
                self.client.url()
            );
        }
        Ok(())
    }

    /// Finds where the line and the node's chain part, at `from` or below it.
    fn fork(&self, from: u32) -> Result<Fork, Failure> {
        let (mut high, mut step) = (from, FIRST_STEP);
        loop {
            let low = high.saturating_sub(step - 1);
            let theirs = self.client.block_hashes(low..=high)?;
            for (height, theirs) in (low..=high).rev().zip(theirs.into_iter().rev()) {
                match self.ours(height)? {
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
            (high, step) = (low - 1, BATCH);
        }
    }

    /// Whether the blocks that the caller holds may be taken back to below `height`, where the two differ.
    fn check_depth(&self, height: u32, ours: BlockHash, theirs: BlockHash) -> Result<(), Failure> {
        let limit = self.settings.max_reorg_depth;
        match self.line.held() {
            Some(tip) if height <= tip && tip - height >= limit => {
                let url = self.client.url().to_owned();
                Err(DaemonError::TooDeep { url, limit, height, ours, theirs, tip }.into())
            }
            _ => Ok(()),
        }
    }

    /// Plans what follows the line's end.
    fn extend(&self, tip: Tip) -> Result<(), Failure> {
        let last = self.settings.stop_height.map_or(tip.height, |stop| stop.min(tip.height));
        self.line.aim(last, (last == tip.height).then_some(tip.hash));
        while self.line.has_room() {
            let end = self.line.end();
            // The end itself is asked for once more, so that what follows is known to follow it.
            let first = end.map_or(self.settings.start_height, |(height, _)| height);
            let hashes = self.client.block_hashes(first..=last.min(first.saturating_add(BATCH)))?;
            let new = match (end, hashes.split_first()) {
                (Some((_, ours)), Some((theirs, new))) if *theirs == ours => new,
                (None, _) => hashes.as_slice(),
                (Some(_), _) => return Err(Failure::Moved),
            };
            self.line.plan(new);
        }
        Ok(())
    }

    /// After hashes that were not of one chain: the line is looked at anew, but not for ever.
    fn mend(&mut self, Tear { block: Job { height, hash }, parent }: Tear) -> Result<(), Failure> {
        let given = self.line.given();
        let (before, unchanged) = self.tears;
        let times = if given == unchanged { before + 1 } else { 1 };
        self.tears = (times, given);
        if times >= TEARS {
            return Err(DaemonError::NotAChain {
                url: self.client.url().to_owned(),
                height,
                hash,
                parent,
                times,
            }
            .into());
        }
        if times == 1 { Err(Failure::Moved) } else { Err(Failure::Passing(Trouble::Torn { height })) }
    }

    /// The hash of the line, or of what the caller has committed, at a height.
    fn ours(&self, height: u32) -> Result<Option<BlockHash>, Failure> {
        if self.line.end().is_none_or(|(end, _)| height > end) {
            return Ok(None);
        }
        let known = || (self.known)(height).map_err(|source| DaemonError::Known { height, source }.into());
        self.line.at(height).map_or_else(known, |hash| Ok(Some(hash)))
    }
}

fn genesis_of(network: Network) -> BlockHash {
    genesis_block(network).block_hash()
}

const _: () = assert!(PLANNED >= BATCH as usize, "a batch that was asked for is planned whole");
