//! The follower is the interface of this module. It starts and ends the threads that fetch blocks.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bitcoin::BlockHash;
use cofferdam_protocol::layer::MAX_LAYERS;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::block_queue::BlockQueue;
use super::chain_tracker::ChainTracker;
use super::client::Client;
use super::error::DaemonError;
use super::fetcher::Fetcher;
use super::settings::FollowerSettings;
use super::status::{DaemonStatus, Reporter};
use crate::event::{FeedEvent, LookupError};
use crate::transport::Endpoint;

/// How many blocks are fetched at the same time, at most. Most nodes have this many threads for their RPC server by default.
const FETCHERS: usize = 4;
/// How long a dropped follower waits for its threads to end. The follower has told them to stop before it waits.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Follows one Bitcoin node. When the follower is dropped, it tells its threads to end, and waits for them for at most one
/// second.
///
/// One thread uses the follower, and takes events with [`Follower::next`] at its own speed. Meanwhile blocks are fetched and
/// verified ahead, within the bounds of [`FollowerSettings::fetch_ahead`] and
/// [`FETCH_AHEAD_BYTES`](super::FETCH_AHEAD_BYTES).
pub struct Follower {
    queue: Arc<BlockQueue>,
    client: Arc<Client>,
    reporter: Arc<Reporter>,
    threads: Vec<JoinHandle<()>>,
    /// Disconnected once the last thread has ended.
    ended: Receiver<()>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("url", &self.client.url()).finish_non_exhaustive()
    }
}

/// Checks `settings` as far as that is possible without the node.
///
/// # Errors
/// [`DaemonError::Url`] if the URL is wrong.
pub fn check_settings(settings: &FollowerSettings) -> Result<(), DaemonError> {
    endpoint(settings).map(drop)
}

fn endpoint(settings: &FollowerSettings) -> Result<Endpoint, DaemonError> {
    Endpoint::parse(settings.url.expose(), &settings.auth).map_err(|reason| DaemonError::Url { reason })
}

impl Follower {
    /// Starts to follow the node. The first block is the one after `tip` or, without a tip, the one at
    /// [`FollowerSettings::start_height`].
    ///
    /// `committed_hash` returns the hash of the block that the caller has committed at a height, and `None` only below the
    /// caller's first block. The follower calls it to find the height up to which the node and the caller agree: at first
    /// for heights up to `tip`, later also for blocks that were given and committed. An error ends the follower.
    /// `committed_hash` is not called for the newest given blocks, so that the caller may commit late: up to
    /// [`MAX_LAYERS`] blocks, and the block that it is working on, need not be committed.
    ///
    /// The node need not be running yet: the follower waits for it. If something is wrong with the node, [`Follower::next`]
    /// returns an error.
    ///
    /// # Errors
    /// [`DaemonError::Url`] if the URL is wrong; [`DaemonError::Thread`] if a thread cannot be started.
    pub fn start(
        settings: FollowerSettings,
        tip: Option<(u32, BlockHash)>,
        committed_hash: impl Fn(u32) -> Result<Option<BlockHash>, LookupError> + Send + 'static,
    ) -> Result<Self, DaemonError> {
        let endpoint = endpoint(&settings)?;
        let fetchers = settings.fetch_ahead.clamp(1, FETCHERS);
        let remembered = usize::try_from(settings.max_reorg_depth).unwrap_or(usize::MAX).max(MAX_LAYERS);
        let remembered = remembered.saturating_add(2);
        let queue = BlockQueue::new(tip, settings.start_height, remembered, settings.fetch_ahead);
        let reporter = Reporter::new(&endpoint.display_url);
        let client = Client::new(endpoint, fetchers + 1, settings.silence_timeout, settings.max_block_bytes);
        let (queue, reporter) = (Arc::new(queue), Arc::new(reporter));
        let (client, settings) = (Arc::new(client), Arc::new(settings));
        let (ending, ended) = bounded(0);
        let mut follower = Self { queue, client, reporter, threads: Vec::new(), ended };
        for number in 0..fetchers {
            let fetcher = Fetcher {
                client: Arc::clone(&follower.client),
                queue: Arc::clone(&follower.queue),
                reporter: Arc::clone(&follower.reporter),
                settings: Arc::clone(&settings),
            };
            follower.spawn(format!("blocks-{number}"), ending.clone(), move || fetcher.run())?;
        }
        let (client, queue) = (Arc::clone(&follower.client), Arc::clone(&follower.queue));
        let reporter = Arc::clone(&follower.reporter);
        let tracker = ChainTracker::new(client, queue, reporter, settings, committed_hash);
        follower.spawn("blocks-tip".to_owned(), ending, move || tracker.run())?;
        Ok(follower)
    }

    fn spawn(
        &mut self,
        name: String,
        ending: Sender<()>,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), DaemonError> {
        let guard = PanicGuard(Arc::clone(&self.queue));
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _ending = ending;
            let _guard = guard;
            work();
        });
        self.threads.push(thread.map_err(DaemonError::Thread)?);
        Ok(())
    }

    /// Returns the next event. Waits for it for at most `timeout`, and returns `None` if no event came in that time.
    ///
    /// # Errors
    /// [`DaemonError`] if the node can no longer be followed. The blocks before that point were given. Each further call
    /// returns [`DaemonError::Ended`].
    pub fn next(&mut self, timeout: Duration) -> Result<Option<FeedEvent>, DaemonError> {
        self.queue.take(timeout).inspect_err(|error| {
            if !matches!(error, DaemonError::Ended) {
                self.reporter.ended(&error.to_string());
            }
        })
    }

    /// The status of the node.
    #[must_use]
    pub fn status(&self) -> DaemonStatus {
        self.reporter.status()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.queue.stop();
        self.client.close();
        if self.ended.recv_timeout(SHUTDOWN_TIMEOUT) == Err(RecvTimeoutError::Disconnected) {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// Ends the queue with an error if its thread panics, so that the caller does not wait for ever.
#[derive(Debug)]
struct PanicGuard(Arc<BlockQueue>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(DaemonError::Panicked);
        }
    }
}
