//! What is known of the chain at this moment: written by the thread that indexes, read by everybody else.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::daemon;
use cofferdam_base::sync::lock;
use cofferdam_chain::blocks::BlockHash;
use cofferdam_chain::{CommitWatch, Outcome, Times, hash_of};
use cofferdam_http::{Extension, Figure};
use cofferdam_store::BlockRecord;

/// How fresh the tip must be for the node to be ready.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// How many blocks the daemon may be ahead.
    pub lag: u32,
    /// How long it may have been silent.
    pub silence: Duration,
}

/// The newest committed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

impl Tip {
    /// The block that `record` is of.
    pub fn of(record: &BlockRecord) -> Self {
        Self { height: record.height, hash: hash_of(record.hash) }
    }
}

/// The chain, as others than the indexing thread see it.
#[derive(Debug)]
pub struct NodeState {
    label: Option<String>,
    freshness: Freshness,
    /// Whether a daemon is followed, or only files are read.
    follows: bool,
    tip: Mutex<Option<Tip>>,
    /// Odd while blocks are being taken back.
    epoch: watch::Sender<u64>,
    reorgs: AtomicU64,
    deepest_reorg: AtomicU32,
    blocks: AtomicU64,
    /// Whether everything that the source had was indexed at some moment.
    at_tip: AtomicBool,
    daemon: Mutex<Option<daemon::Status>>,
    work: Mutex<Work>,
    last_block: Mutex<Option<Instant>>,
    commits: OnceLock<CommitWatch>,
    /// Why nothing is indexed any more.
    ended: Mutex<Option<String>>,
}

/// Where the indexing thread's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// In the pipeline.
    pub times: Times,
    /// Waiting for a block that the source had not given yet, although there was one.
    pub waiting: Duration,
    /// Since the first block.
    pub elapsed: Duration,
}

impl NodeState {
    /// A chain that stands at `tip`. `label` is what the operator calls it.
    pub fn new(tip: Option<Tip>, label: Option<String>, freshness: Freshness, follows: bool) -> Self {
        Self {
            label,
            freshness,
            follows,
            tip: Mutex::new(tip),
            epoch: watch::channel(0).0,
            reorgs: AtomicU64::default(),
            deepest_reorg: AtomicU32::default(),
            blocks: AtomicU64::default(),
            at_tip: AtomicBool::default(),
            daemon: Mutex::default(),
            work: Mutex::default(),
            last_block: Mutex::default(),
            commits: OnceLock::new(),
            ended: Mutex::default(),
        }
    }

    /// The newest committed block.
    pub fn tip(&self) -> Option<Tip> {
        *lock(&self.tip)
    }

    /// The daemon, as far as it is known.
    pub fn daemon(&self) -> Option<daemon::Status> {
        lock(&self.daemon).clone()
    }

    /// How many blocks this process has committed.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Where the time went.
    pub fn work(&self) -> Work {
        *lock(&self.work)
    }

    /// Counts how often blocks were taken back; waits while they are being taken back.
    pub async fn settled_epoch(&self) -> u64 {
        let mut epoch = self.epoch.subscribe();
        // The sender lives as long as `self`.
        match epoch.wait_for(|epoch| epoch % 2 == 0).await {
            Ok(epoch) => *epoch,
            Err(_) => self.epoch(),
        }
    }

    /// Counts how often blocks were taken back, without waiting.
    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// How many blocks the daemon is ahead, if it has said where it is.
    pub fn lag(&self) -> Option<u32> {
        let (daemon, _) = lock(&self.daemon).as_ref()?.tip?;
        let next = self.tip().map_or(0, |tip| tip.height + 1);
        Some((daemon + 1).saturating_sub(next))
    }

    /// Has a commit that fails for want of room not be tried again, so that whoever waits for it hears of it.
    pub fn give_up_commits(&self) {
        if let Some(commits) = self.commits.get() {
            commits.give_up();
        }
    }

    pub fn watch_commits(&self, commits: CommitWatch) {
        // There is one pipeline.
        let _ = self.commits.set(commits);
    }

    pub fn set_daemon(&self, status: daemon::Status) {
        *lock(&self.daemon) = Some(status);
    }

    pub fn set_work(&self, work: Work) {
        *lock(&self.work) = work;
    }

    pub fn set_at_tip(&self, at_tip: bool) {
        self.at_tip.store(at_tip, Ordering::Relaxed);
    }

    pub fn committed(&self, outcome: &Outcome) {
        *lock(&self.tip) = Some(Tip { height: outcome.height, hash: outcome.hash });
        *lock(&self.last_block) = Some(Instant::now());
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on what is read above the fork may be of either branch.
    pub fn begin_rewind(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub fn end_rewind(&self, tip: Option<Tip>, depth: u32) {
        *lock(&self.tip) = tip;
        self.reorgs.fetch_add(1, Ordering::Relaxed);
        self.deepest_reorg.fetch_max(depth, Ordering::Relaxed);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub fn end(&self, reason: String) {
        *lock(&self.ended) = Some(reason);
    }

    /// Why the tip is not fresh, or that it is.
    fn freshness(&self) -> Result<String, String> {
        let at = self
            .tip()
            .map_or_else(|| "no block is indexed".to_owned(), |tip| format!("at block {}", tip.height));
        if !self.follows {
            let done = self.at_tip.load(Ordering::Relaxed);
            return if done { Ok(at) } else { Err(format!("{at}, and there are more")) };
        }
        let Some(daemon) = self.daemon() else { return Err("the daemon was not reached yet".to_owned()) };
        let Some((height, _)) = daemon.tip else {
            return Err(daemon.last_error.unwrap_or_else(|| "the daemon was not reached yet".to_owned()));
        };
        let silent = daemon.last_contact.map(|contact| contact.elapsed());
        match silent {
            Some(silent) if silent > self.freshness.silence => {
                let why = daemon.last_error.map_or_else(String::new, |error| format!(": {error}"));
                return Err(format!("the daemon has not answered for {}s{why}", silent.as_secs()));
            }
            _ => {}
        }
        if daemon.initial_block_download {
            return Err(format!("the daemon is in its initial download, at block {height}"));
        }
        match self.lag() {
            Some(lag) if lag > self.freshness.lag => {
                Err(format!("{at}, {lag} blocks behind the daemon{}", trouble(&daemon)))
            }
            _ => Ok(format!("{at}, the daemon at {height}{}", trouble(&daemon))),
        }
    }
}

impl Extension for NodeState {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn ready(&self) -> Result<String, String> {
        if let Some(reason) = lock(&self.ended).clone() {
            return Err(format!("indexing has ended: {reason}"));
        }
        if let Some(reason) = self.commits.get().and_then(CommitWatch::stalled) {
            return Err(reason);
        }
        self.freshness()
    }

    fn status(&self) -> Value {
        let tip = self.tip();
        let daemon = self.daemon().unwrap_or_default();
        let work = self.work();
        json!({
            "label": self.label,
            "height": tip.map(|tip| tip.height),
            "hash": tip.map(|tip| tip.hash.to_string()),
            "daemon_height": daemon.tip.map(|(height, _)| height),
            "daemon_connected": self.follows.then_some(daemon.connected),
            "daemon_error": daemon.last_error,
            "network": daemon.network.map(|network| network.to_string()),
            "lag": self.lag(),
            "reorgs": self.reorgs.load(Ordering::Relaxed),
            "deepest_reorg": self.deepest_reorg.load(Ordering::Relaxed),
            "blocks": self.blocks(),
            "last_block_s": lock(&self.last_block).map(|at| at.elapsed().as_secs_f64()),
            "stalled": self.commits.get().and_then(CommitWatch::stalled),
            "work_s": {
                "elapsed": work.elapsed.as_secs_f64(),
                "guest": work.times.guest.as_secs_f64(),
                "overhead": work.times.overhead.as_secs_f64(),
                "layers": work.times.layers.as_secs_f64(),
                "commits": work.times.commits.as_secs_f64(),
                "waiting": work.waiting.as_secs_f64(),
            },
        })
    }

    fn figures(&self) -> Vec<Figure> {
        let gauge = |name, help, value: f64| Figure { name, help, counter: false, value };
        let counter = |name, help, value: f64| Figure { name, help, counter: true, value };
        let work = self.work();
        let mut figures = vec![
            counter("chain_blocks", "Blocks that this process has committed", to_float(self.blocks())),
            counter("chain_reorgs", "Reorganisations", to_float(self.reorgs.load(Ordering::Relaxed))),
            counter("chain_guest_seconds", "Time in the indexer's own code", work.times.guest.as_secs_f64()),
            counter(
                "chain_overhead_seconds",
                "Time from handing a block over to its result, without the guest's own",
                work.times.overhead.as_secs_f64(),
            ),
            counter(
                "chain_commit_wait_seconds",
                "Time that indexing waited for commits",
                work.times.commits.as_secs_f64(),
            ),
            counter(
                "chain_feed_wait_seconds",
                "Time that indexing waited for blocks that were there to be had",
                work.waiting.as_secs_f64(),
            ),
        ];
        figures.extend(
            self.tip().map(|tip| gauge("chain_height", "The newest committed block", tip.height.into())),
        );
        let daemon = self.daemon().and_then(|daemon| daemon.tip);
        figures.extend(
            daemon
                .map(|(height, _)| gauge("chain_daemon_height", "The daemon's newest block", height.into())),
        );
        figures
            .extend(self.lag().map(|lag| gauge("chain_lag", "Blocks that the daemon is ahead", lag.into())));
        figures
    }
}

/// What is being tried again at this moment, as the tail of a sentence.
fn trouble(daemon: &daemon::Status) -> String {
    match &daemon.last_error {
        Some(error) if !daemon.connected => format!(": {error}"),
        _ => String::new(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a graph")]
fn to_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[test]
    fn readiness_says_what_is_being_tried_again() {
        let freshness = Freshness { lag: 2, silence: Duration::from_mins(1) };
        let state = NodeState::new(None, None, freshness, true);
        let error = "the node at http://x answered getblock with error -1: no";
        let behind = |connected| daemon::Status {
            connected,
            tip: Some((9, BlockHash::from_byte_array([1; 32]))),
            last_contact: Some(Instant::now()),
            last_error: Some(error.to_owned()),
            ..daemon::Status::default()
        };
        state.set_daemon(behind(false));
        let reason = state.ready().unwrap_err();
        assert_eq!(reason, format!("no block is indexed, 10 blocks behind the daemon: {error}"));
        // What has passed is not told.
        state.set_daemon(behind(true));
        assert_eq!(state.ready().unwrap_err(), "no block is indexed, 10 blocks behind the daemon");
    }
}
