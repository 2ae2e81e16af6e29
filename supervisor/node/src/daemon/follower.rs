//! The follower: what a caller sees of all this.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bitcoin::BlockHash;
use cofferdam_protocol::layer::MAX_LAYERS;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::client::Client;
use super::conductor::Conductor;
use super::error::DaemonError;
use super::fetcher::Fetcher;
use super::line::Line;
use super::settings::Settings;
use super::status::{Reporter, Status};
use super::transport::Target;
use crate::feed::{Feed, FeedError, FeedEvent, KnownError};

/// How many blocks are fetched at the same time, at most: as many as most nodes have threads for their RPC server by
/// default.
const FETCHERS: usize = 4;
/// How long a dropped follower waits for its threads, which were told to stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// Follows the best chain of a node. Dropped, it stops within a second.
///
/// It is used by one thread, which takes events with [`Follower::next`] as it can; blocks are fetched and checked ahead of
/// it, within the bounds of [`Settings::pipeline`] and [`super::AHEAD_BYTES`].
pub struct Follower {
    line: Arc<Line>,
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

/// Checks what can be checked of `settings` without the node.
///
/// # Errors
/// [`DaemonError::Url`].
pub fn check(settings: &Settings) -> Result<(), DaemonError> {
    Target::new(settings.url.expose(), &settings.auth).map(drop)
}

impl Follower {
    /// Follows the node, going on after `tip` (or from [`Settings::start_height`] if there is none).
    ///
    /// `known` gives the hash of the block that the caller has committed at a height; `None` only below the first block of
    /// the caller. It is asked for heights up to `tip`, and later for those given and committed, wherever it must be found out
    /// down to which height the node and the caller agree. An error ends the following. It is not asked for the newest
    /// blocks given, of which the caller need not have committed [`MAX_LAYERS`] and the one in hand.
    ///
    /// The node need not be there yet: it is waited for, and what is wrong with it comes from [`Follower::next`].
    ///
    /// # Errors
    /// [`DaemonError::Url`] and [`DaemonError::Thread`].
    pub fn start(
        settings: Settings,
        tip: Option<(u32, BlockHash)>,
        known: impl Fn(u32) -> Result<Option<BlockHash>, KnownError> + Send + 'static,
    ) -> Result<Self, DaemonError> {
        let target = Target::new(settings.url.expose(), &settings.auth)?;
        let fetchers = settings.pipeline.clamp(1, FETCHERS);
        let remembered = usize::try_from(settings.max_reorg_depth).unwrap_or(usize::MAX).max(MAX_LAYERS);
        let remembered = remembered.saturating_add(2);
        let line = Arc::new(Line::new(tip, settings.start_height, remembered, settings.pipeline));
        let reporter = Arc::new(Reporter::new(&target.shown));
        let client = Client::new(target, fetchers + 1, settings.timeout, settings.max_block_bytes);
        let (client, settings) = (Arc::new(client), Arc::new(settings));
        let (ending, ended) = bounded(0);
        let mut follower = Self { line, client, reporter, threads: Vec::new(), ended };
        for number in 0..fetchers {
            let fetcher = Fetcher {
                client: Arc::clone(&follower.client),
                line: Arc::clone(&follower.line),
                reporter: Arc::clone(&follower.reporter),
                settings: Arc::clone(&settings),
            };
            follower.spawn(format!("blocks-{number}"), ending.clone(), move || fetcher.run())?;
        }
        let (client, line) = (Arc::clone(&follower.client), Arc::clone(&follower.line));
        let conductor = Conductor::new(client, line, Arc::clone(&follower.reporter), settings, known);
        follower.spawn("blocks-tip".to_owned(), ending, move || conductor.run())?;
        Ok(follower)
    }

    fn spawn(
        &mut self,
        name: String,
        ending: Sender<()>,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), DaemonError> {
        let witness = Witness(Arc::clone(&self.line));
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _ending = ending;
            let _witness = witness;
            work();
        });
        self.threads.push(thread.map_err(DaemonError::Thread)?);
        Ok(())
    }

    /// The next event, waited for no longer than `patience`; `None` if there was none in that time.
    ///
    /// # Errors
    /// [`DaemonError`] where the node cannot be followed further. The blocks before that point were given; after it there
    /// are none ([`DaemonError::Ended`]).
    pub fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, DaemonError> {
        self.line.take(patience).inspect_err(|error| {
            if !matches!(error, DaemonError::Ended) {
                self.reporter.ended(&error.to_string());
            }
        })
    }

    /// How it stands with the node.
    #[must_use]
    pub fn status(&self) -> Status {
        self.reporter.status()
    }
}

impl Feed for Follower {
    fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, FeedError> {
        Ok(Self::next(self, patience)?)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.line.stop();
        self.client.close();
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Disconnected) {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// Tells the caller if a thread ends by a panic, instead of letting it wait for ever.
#[derive(Debug)]
struct Witness(Arc<Line>);

impl Drop for Witness {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(DaemonError::Died);
        }
    }
}
