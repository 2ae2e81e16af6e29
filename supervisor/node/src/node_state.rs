//! The state of the node: which block is committed, how far the Bitcoin node is, and how the indexing goes.
//!
//! The indexing thread writes this state. Health checks, metrics, the status page and JSON-RPC calls read it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::daemon::DaemonStatus;
use cofferdam_base::sync::lock;
use cofferdam_chain::blocks::BlockHash;
use cofferdam_chain::{CommitWatch, Outcome, Times, hash_of};
use cofferdam_http::{Application, ApplicationMetric};
use cofferdam_store::BlockRecord;

/// How fresh the committed tip must be for the node to be ready.
#[derive(Clone, Copy, Debug)]
pub struct ReadinessLimits {
    /// How many blocks the node may be behind the Bitcoin node.
    pub max_lag: u32,
    /// The longest time that may have passed since the Bitcoin node last answered.
    pub max_silence: Duration,
}

/// The newest committed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The height of the block.
    pub height: u32,
    /// The hash of the block.
    pub hash: BlockHash,
}

impl Tip {
    /// The tip whose block `record` describes.
    pub fn of(record: &BlockRecord) -> Self {
        Self { height: record.height, hash: hash_of(record.hash) }
    }
}

/// The state of the node, which the indexing thread shares with all other threads.
///
/// As the [`Application`] of the HTTP service it adds the check `chain` to readiness, and figures about the chain to the status
/// and the metrics.
#[derive(Debug)]
pub struct NodeState {
    label: Option<String>,
    limits: ReadinessLimits,
    /// Whether a Bitcoin node is followed. Otherwise only files are read.
    follows_daemon: bool,
    tip: Mutex<Option<Tip>>,
    /// The number of rollbacks that have begun or ended: odd while blocks are being rolled back.
    epoch: watch::Sender<u64>,
    reorgs: AtomicU64,
    deepest_reorg: AtomicU32,
    blocks: AtomicU64,
    /// Whether every block that the feed had was indexed at some moment.
    was_at_tip: AtomicBool,
    daemon: Mutex<Option<DaemonStatus>>,
    times: Mutex<IndexingTimes>,
    last_block: Mutex<Option<Instant>>,
    commits: OnceLock<CommitWatch>,
    /// Why indexing ended.
    ended: Mutex<Option<String>>,
}

/// Where the time of the indexing thread went.
#[derive(Clone, Copy, Debug, Default)]
pub struct IndexingTimes {
    /// The time in the pipeline, by activity.
    pub pipeline: Times,
    /// The time spent waiting for the feed while it had blocks to give. Waiting at the tip does not count.
    pub feed_wait: Duration,
    /// The time since indexing began.
    pub elapsed: Duration,
}

impl NodeState {
    /// The state of a node whose newest committed block is `tip`.
    ///
    /// `label` is the operator's name for the node; the status shows it. `follows_daemon` says whether a Bitcoin node is
    /// followed: then the node is ready within `limits`. Otherwise the node is ready once all files are indexed.
    pub fn new(
        tip: Option<Tip>,
        label: Option<String>,
        limits: ReadinessLimits,
        follows_daemon: bool,
    ) -> Self {
        Self {
            label,
            limits,
            follows_daemon,
            tip: Mutex::new(tip),
            epoch: watch::channel(0).0,
            reorgs: AtomicU64::default(),
            deepest_reorg: AtomicU32::default(),
            blocks: AtomicU64::default(),
            was_at_tip: AtomicBool::default(),
            daemon: Mutex::default(),
            times: Mutex::default(),
            last_block: Mutex::default(),
            commits: OnceLock::new(),
            ended: Mutex::default(),
        }
    }

    /// The newest committed block.
    pub fn tip(&self) -> Option<Tip> {
        *lock(&self.tip)
    }

    /// The last known status of the Bitcoin node. `None` if no Bitcoin node is followed, or if no status was recorded yet.
    pub fn daemon(&self) -> Option<DaemonStatus> {
        lock(&self.daemon).clone()
    }

    /// How many blocks this process has committed.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Where the time of the indexing thread went.
    pub fn times(&self) -> IndexingTimes {
        *lock(&self.times)
    }

    /// How many blocks the Bitcoin node is ahead, if its height is known.
    pub fn lag(&self) -> Option<u32> {
        let (daemon, _) = lock(&self.daemon).as_ref()?.tip?;
        let next = self.tip().map_or(0, |tip| tip.height + 1);
        Some((daemon + 1).saturating_sub(next))
    }

    /// Watches the commits of the pipeline. While the commits are stalled, for example because the disk is full, the node is not
    /// ready.
    ///
    /// Only the first call counts, because a node has one pipeline.
    pub fn watch_commits(&self, commits: CommitWatch) {
        let _ = self.commits.set(commits);
    }

    /// Stops the retries of a commit that fails because the disk is full. The thread that waits for the commit then gets the
    /// error. Does nothing before [`NodeState::watch_commits`].
    pub fn give_up_commits(&self) {
        if let Some(commits) = self.commits.get() {
            commits.give_up();
        }
    }

    /// Records that a block was committed. The pipeline's observer must call this for each block.
    pub fn record_commit(&self, outcome: &Outcome) {
        *lock(&self.tip) = Some(Tip { height: outcome.height, hash: outcome.hash });
        *lock(&self.last_block) = Some(Instant::now());
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that indexing ended, and why. The node is not ready from now on.
    pub fn record_end(&self, reason: String) {
        *lock(&self.ended) = Some(reason);
    }

    /// Waits until no rollback is under way, and returns the epoch: if the epoch is the same later, no block was rolled back
    /// in between.
    pub(crate) async fn settled_epoch(&self) -> u64 {
        let mut epoch = self.epoch.subscribe();
        // Waiting fails only without a sender, and the sender lives as long as `self`.
        match epoch.wait_for(|epoch| epoch % 2 == 0).await {
            Ok(epoch) => *epoch,
            Err(_) => self.epoch(),
        }
    }

    /// The epoch, without waiting. See [`NodeState::settled_epoch`].
    pub(crate) fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Records that a rollback begins. Until the rollback ends, values that are read above the fork may belong to either branch.
    pub(crate) fn begin_rollback(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Records that a rollback of `depth` blocks ended, and that `tip` is now the newest committed block.
    pub(crate) fn end_rollback(&self, tip: Option<Tip>, depth: u32) {
        *lock(&self.tip) = tip;
        self.reorgs.fetch_add(1, Ordering::Relaxed);
        self.deepest_reorg.fetch_max(depth, Ordering::Relaxed);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub(crate) fn set_daemon(&self, status: DaemonStatus) {
        *lock(&self.daemon) = Some(status);
    }

    pub(crate) fn set_times(&self, times: IndexingTimes) {
        *lock(&self.times) = times;
    }

    /// Records that every block that the feed had is indexed.
    pub(crate) fn record_at_tip(&self) {
        self.was_at_tip.store(true, Ordering::Relaxed);
    }

    /// Whether the committed tip is fresh enough for the node to be ready. Both results hold the reason.
    fn freshness(&self) -> Result<String, String> {
        let at = self
            .tip()
            .map_or_else(|| "no block is indexed".to_owned(), |tip| format!("at block {}", tip.height));
        if !self.follows_daemon {
            let done = self.was_at_tip.load(Ordering::Relaxed);
            return if done { Ok(at) } else { Err(format!("{at}, and the files have more blocks")) };
        }
        let not_reached = || "the daemon was not reached yet".to_owned();
        let Some(daemon) = self.daemon() else { return Err(not_reached()) };
        let Some((height, _)) = daemon.tip else { return Err(daemon.last_error.unwrap_or_else(not_reached)) };
        let silence = daemon.last_contact.map(|contact| contact.elapsed());
        match silence {
            Some(silence) if silence > self.limits.max_silence => {
                let reason = daemon.last_error.map_or_else(String::new, |error| format!(": {error}"));
                return Err(format!("the daemon has not answered for {}s{reason}", silence.as_secs()));
            }
            _ => {}
        }
        if daemon.initial_block_download {
            return Err(format!("the daemon is in its initial block download, at block {height}"));
        }
        match self.lag() {
            Some(lag) if lag > self.limits.max_lag => {
                Err(format!("{at}, {lag} blocks behind the daemon{}", current_error(&daemon)))
            }
            _ => Ok(format!("{at}, the daemon is at block {height}{}", current_error(&daemon))),
        }
    }
}

impl Application for NodeState {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn readiness(&self) -> Result<String, String> {
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
        let times = self.times();
        json!({
            "label": self.label,
            "height": tip.map(|tip| tip.height),
            "hash": tip.map(|tip| tip.hash.to_string()),
            "daemon_height": daemon.tip.map(|(height, _)| height),
            "daemon_connected": self.follows_daemon.then_some(daemon.connected),
            "daemon_error": daemon.last_error,
            "network": daemon.network.map(|network| network.to_string()),
            "lag": self.lag(),
            "reorgs": self.reorgs.load(Ordering::Relaxed),
            "deepest_reorg": self.deepest_reorg.load(Ordering::Relaxed),
            "blocks": self.blocks(),
            "last_block_s": lock(&self.last_block).map(|at| at.elapsed().as_secs_f64()),
            "stalled": self.commits.get().and_then(CommitWatch::stalled),
            "work_s": {
                "elapsed": times.elapsed.as_secs_f64(),
                "guest": times.pipeline.guest.as_secs_f64(),
                "overhead": times.pipeline.overhead.as_secs_f64(),
                "layers": times.pipeline.layers.as_secs_f64(),
                "commits": times.pipeline.commits.as_secs_f64(),
                "waiting": times.feed_wait.as_secs_f64(),
            },
        })
    }

    fn metrics(&self) -> Vec<ApplicationMetric> {
        let gauge = |name, help, value: f64| ApplicationMetric { name, help, counter: false, value };
        let counter = |name, help, value: f64| ApplicationMetric { name, help, counter: true, value };
        let times = self.times();
        let mut figures = vec![
            counter("chain_blocks", "Blocks that this process has committed", to_float(self.blocks())),
            counter("chain_reorgs", "Reorganisations", to_float(self.reorgs.load(Ordering::Relaxed))),
            counter("chain_guest_seconds", "Time that the guest ran", times.pipeline.guest.as_secs_f64()),
            counter(
                "chain_overhead_seconds",
                "Time from submitting a block to receiving its result, minus the time the guest ran",
                times.pipeline.overhead.as_secs_f64(),
            ),
            counter(
                "chain_commit_wait_seconds",
                "Time that indexing waited for commits",
                times.pipeline.commits.as_secs_f64(),
            ),
            counter(
                "chain_feed_wait_seconds",
                "Time that indexing waited for blocks while there were blocks to give",
                times.feed_wait.as_secs_f64(),
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
        figures.extend(
            self.lag().map(|lag| gauge("chain_lag", "How many blocks the daemon is ahead", lag.into())),
        );
        figures
    }
}

/// The error that is being retried at this moment, as the end of a sentence.
fn current_error(daemon: &DaemonStatus) -> String {
    match &daemon.last_error {
        Some(error) if !daemon.connected => format!(": {error}"),
        _ => String::new(),
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures in a graph need no more precision")]
fn to_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    #[test]
    fn readiness_names_a_current_error_and_no_past_one() {
        let limits = ReadinessLimits { max_lag: 2, max_silence: Duration::from_mins(1) };
        let state = NodeState::new(None, None, limits, true);
        let error = "the node at http://x answered getblock with error -1: no";
        let behind = |connected| DaemonStatus {
            connected,
            tip: Some((9, BlockHash::from_byte_array([1; 32]))),
            last_contact: Some(Instant::now()),
            last_error: Some(error.to_owned()),
            ..DaemonStatus::default()
        };
        state.set_daemon(behind(false));
        let reason = state.readiness().unwrap_err();
        assert_eq!(reason, format!("no block is indexed, 10 blocks behind the daemon: {error}"));
        // The error has passed.
        state.set_daemon(behind(true));
        assert_eq!(state.readiness().unwrap_err(), "no block is indexed, 10 blocks behind the daemon");
    }
}
