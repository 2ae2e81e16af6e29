//! The status of the node, and the log lines about it. A transient failure is logged when it begins and when it is over. In
//! between it is not logged at every attempt, but only once in each [`REMINDER_INTERVAL`].

use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bitcoin::{BlockHash, Network};
use cofferdam_base::sync::lock;

use super::client::ChainInfo;
use super::transient::TransientError;

/// If a node has more headers than blocks, and the difference is above this number, the node counts as still downloading. A small
/// difference is usual: with each new block, the node has one header more than blocks for a moment.
const USUAL_HEADERS_AHEAD: u32 = 3;

/// The time between two log lines about one failure that continues.
const REMINDER_INTERVAL: Duration = Duration::from_mins(10);

/// The status of the node, for a health check.
#[derive(Clone, Debug, Default)]
pub struct DaemonStatus {
    /// Whether the node answers. After a failed request this is `false`, until a request of the same activity (polling or
    /// fetching) succeeds.
    pub connected: bool,
    /// The network of the node, if it is one of Bitcoin's.
    pub network: Option<Network>,
    /// The height and the hash of the node's best block.
    pub tip: Option<(u32, BlockHash)>,
    /// The height of the node's best header.
    pub headers: Option<u32>,
    /// Whether the node reports that it is still in its initial block download.
    pub initial_block_download: bool,
    /// When the node last answered.
    pub last_contact: Option<Instant>,
    /// The last error. It is kept after the error has passed.
    pub last_error: Option<String>,
}

/// What a thread was doing when a request failed. One activity may work while the other one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Asking the node for its best block and its hashes.
    Polling,
    /// Fetching a block.
    Fetching,
}

/// The status that the threads share. Every log line about the node's status is written here.
#[derive(Debug)]
pub(super) struct Reporter {
    url: String,
    state: Mutex<ReporterState>,
}

#[derive(Debug, Default)]
struct ReporterState {
    status: DaemonStatus,
    /// The failure that was logged and is not over.
    failure: Option<(Activity, Discriminant<TransientError>)>,
    /// When the failure was last logged.
    logged: Option<Instant>,
    downloading: bool,
    behind: bool,
}

impl Reporter {
    /// A reporter about the node at `url`.
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), state: Mutex::default() }
    }

    /// The current status.
    pub(super) fn status(&self) -> DaemonStatus {
        self.lock().status.clone()
    }

    /// Records that a request succeeded.
    pub(super) fn succeeded(&self, activity: Activity) {
        let mut state = self.lock();
        state.status.last_contact = Some(Instant::now());
        if state.failure.is_none_or(|(during, _)| during == activity) {
            state.status.connected = true;
            if state.failure.take().is_some() {
                tracing::info!("the node at {} answers again", self.url);
            }
        }
    }

    /// Records that a request failed, and that it will be tried again.
    pub(super) fn failed(&self, activity: Activity, error: &TransientError) {
        let mut state = self.lock();
        let kind = discriminant(error);
        let logged = state.failure.replace((activity, kind)).is_some_and(|(_, logged)| logged == kind);
        let message = format!("the node at {} {error}", self.url);
        if !logged || state.logged.is_none_or(|at| at.elapsed() >= REMINDER_INTERVAL) {
            state.logged = Some(Instant::now());
            tracing::warn!("{message}; trying again until it succeeds");
        }
        state.status.connected = false;
        state.status.last_error = Some(message);
    }

    /// Records that the follower ended with an error.
    pub(super) fn ended(&self, reason: &str) {
        let mut state = self.lock();
        state.status.connected = false;
        state.status.last_error = Some(reason.to_owned());
    }

    /// Records what the node reported about its chain.
    pub(super) fn update_chain(&self, info: &ChainInfo) {
        let mut state = self.lock();
        let status = &mut state.status;
        status.network = info.network();
        status.tip = Some((info.blocks, info.best));
        status.headers = Some(info.headers);
        status.initial_block_download = info.initial_block_download;
        let lacks_blocks = info.headers.saturating_sub(info.blocks) > USUAL_HEADERS_AHEAD;
        let downloading = info.initial_block_download || lacks_blocks;
        if std::mem::replace(&mut state.downloading, downloading) == downloading {
            return;
        }
        let (url, blocks, headers) = (&self.url, info.blocks, info.headers);
        if downloading {
            tracing::info!(
                "the node at {url} is still downloading: it has blocks up to height {blocks} and headers up to height \
                 {headers}; its blocks are indexed as they arrive"
            );
        } else {
            tracing::info!("the node at {url} has finished downloading, at height {blocks}");
        }
    }

    /// Records whether the node is behind the caller on the same chain: the node's chain ends at height `theirs`, below the
    /// caller's height `ours`.
    pub(super) fn update_behind(&self, behind: Option<(u32, u32)>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.behind, behind.is_some()) == behind.is_some() {
            return;
        }
        match behind {
            Some((theirs, ours)) => tracing::warn!(
                "the node at {} is at height {theirs}, but the same chain is indexed up to height {ours}; waiting until the \
                 node reaches height {ours}",
                self.url
            ),
            None => tracing::info!("the node at {} has caught up with the indexed chain", self.url),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReporterState> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use bitcoin::hashes::Hash as _;

    use super::*;

    /// The log that a test reads.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `report` logs.
    fn logged(report: impl FnOnce(&Reporter)) -> Vec<String> {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false);
        tracing::subscriber::with_default(subscriber.finish(), || report(&Reporter::new("http://node")));
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn starting(step: &str) -> TransientError {
        TransientError::Starting(step.to_owned())
    }

    fn info(blocks: u32, headers: u32) -> ChainInfo {
        let best = BlockHash::from_byte_array([1; 32]);
        let initial_block_download = false;
        ChainInfo { chain: "regtest".to_owned(), blocks, headers, best, initial_block_download }
    }

    #[test]
    fn a_failure_is_logged_once_and_so_is_its_end() {
        let lines = logged(|reporter| {
            reporter.failed(Activity::Polling, &TransientError::Unreachable("connection refused".to_owned()));
            reporter.failed(Activity::Fetching, &TransientError::Unreachable("connection reset".to_owned()));
            for step in ["Loading block index...", "Verifying blocks..."] {
                reporter.failed(Activity::Polling, &starting(step));
            }
            assert!(!reporter.status().connected);
            reporter.succeeded(Activity::Polling);
            reporter.succeeded(Activity::Polling);
            reporter.succeeded(Activity::Fetching);
            assert!(reporter.status().connected);
            let last = reporter.status().last_error.unwrap();
            assert_eq!(last, "the node at http://node is starting: Verifying blocks...");
        });
        let expected = [
            "WARN the node at http://node cannot be reached: connection refused; trying again until it succeeds",
            "WARN the node at http://node is starting: Loading block index...; trying again until it succeeds",
            "INFO the node at http://node answers again",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_failure_to_fetch_is_not_over_because_polls_succeed() {
        let lines = logged(|reporter| {
            let reason = "it gave block 00".to_owned();
            reporter.failed(Activity::Fetching, &TransientError::WrongBlock { height: 7, reason });
            reporter.succeeded(Activity::Polling);
            assert!(!reporter.status().connected);
            reporter.succeeded(Activity::Fetching);
            assert!(reporter.status().connected);
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn a_downloading_node_is_distinguished_from_a_node_with_one_new_header() {
        let lines = logged(|reporter| {
            reporter.update_chain(&info(100, 101));
            reporter.update_chain(&info(100, 900));
            reporter.update_chain(&info(500, 900));
            reporter.update_chain(&info(900, 900));
            reporter.update_behind(Some((900, 950)));
            reporter.update_behind(Some((920, 950)));
            reporter.update_behind(None);
            reporter.update_behind(None);
        });
        let starts = [
            "INFO the node at http://node is still downloading: it has blocks up to height 100",
            "INFO the node at http://node has finished downloading, at height 900",
            "WARN the node at http://node is at height 900, but the same chain is indexed up to height 950",
            "INFO the node at http://node has caught up",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
