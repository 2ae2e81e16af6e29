//! What is known of the node at this moment, and what of it was told: a trouble is said when it begins and when it is
//! over, not at every try in between.

use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::{BlockHash, Network};

use super::client::ChainInfo;
use super::trouble::Trouble;

/// How many headers a node may have more than blocks before that counts as being behind: each new block makes it one for
/// a moment.
const USUAL_HEADERS_AHEAD: u32 = 3;

/// How long a trouble that goes on is not told again.
const REMINDER: Duration = Duration::from_mins(10);

/// How it stands with the node, for a health check.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether the last request was answered as it should be.
    pub connected: bool,
    /// The network that the node is of, if it is one of Bitcoin's.
    pub network: Option<Network>,
    /// Height and hash of the node's best block.
    pub tip: Option<(u32, BlockHash)>,
    /// The height up to which the node knows headers.
    pub headers: Option<u32>,
    /// Whether the node says that it is still in its initial download.
    pub initial_block_download: bool,
    /// When the node last answered.
    pub last_contact: Option<Instant>,
    /// What went wrong last, kept after it has passed.
    pub last_error: Option<String>,
}

/// What was being done when something went wrong: what works in one may still fail in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Asking where the chain is.
    Asking,
    /// Fetching a block.
    Fetching,
}

/// The status, shared by the threads, and the log's one voice about it.
#[derive(Debug)]
pub(super) struct Reporter {
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    /// The trouble that was told and is not over.
    trouble: Option<(Activity, Discriminant<Trouble>)>,
    /// When it was told last.
    told: Option<Instant>,
    syncing: bool,
    shorter: bool,
}

impl Reporter {
    /// About the node at `url`.
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), state: Mutex::default() }
    }

    /// The status now.
    pub(super) fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// The node did what it was asked for.
    pub(super) fn worked(&self, activity: Activity) {
        let mut state = self.lock();
        state.status.last_contact = Some(Instant::now());
        if state.trouble.is_none_or(|(during, _)| during == activity) {
            state.status.connected = true;
            if state.trouble.take().is_some() {
                tracing::info!("the node at {} answers again", self.url);
            }
        }
    }

    /// It did not.
    pub(super) fn failed(&self, activity: Activity, trouble: &Trouble) {
        let mut state = self.lock();
        let kind = discriminant(trouble);
        let told = state.trouble.replace((activity, kind)).is_some_and(|(_, told)| told == kind);
        let words = format!("the node at {} {trouble}", self.url);
        if !told || state.told.is_none_or(|at| at.elapsed() >= REMINDER) {
            state.told = Some(Instant::now());
            tracing::warn!("{words}; trying again until it passes");
        }
        state.status.connected = false;
        state.status.last_error = Some(words);
    }

    /// Following ended.
    pub(super) fn ended(&self, reason: &str) {
        let mut state = self.lock();
        state.status.connected = false;
        state.status.last_error = Some(reason.to_owned());
    }

    /// The node said where its chain is.
    pub(super) fn informed(&self, info: &ChainInfo) {
        let mut state = self.lock();
        let status = &mut state.status;
        status.network = info.network();
        status.tip = Some((info.blocks, info.best));
        status.headers = Some(info.headers);
        status.initial_block_download = info.initial_block_download;
        let behind = info.headers.saturating_sub(info.blocks) > USUAL_HEADERS_AHEAD;
        let syncing = info.initial_block_download || behind;
        if std::mem::replace(&mut state.syncing, syncing) == syncing {
            return;
        }
        let (url, blocks, headers) = (&self.url, info.blocks, info.headers);
        if syncing {
            tracing::info!(
                "the node at {url} is still downloading: it has blocks up to height {blocks} and headers up to {headers}; \
                 following as it goes"
            );
        } else {
            tracing::info!("the node at {url} is done downloading, at height {blocks}");
        }
    }

    /// Whether the node's chain is a part of what was given: it ends at `theirs`, below `ours`.
    pub(super) fn shorter(&self, shorter: Option<(u32, u32)>) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.shorter, shorter.is_some()) == shorter.is_some() {
            return;
        }
        match shorter {
            Some((theirs, ours)) => tracing::warn!(
                "the node at {} is at height {theirs}, below height {ours} that was indexed from the same chain; waiting \
                 until it is there again",
                self.url
            ),
            None => tracing::info!("the node at {} has caught up with what was indexed", self.url),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use bitcoin::hashes::Hash as _;

    use super::*;

    /// What is logged, and by what.
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

    /// The lines that `report` makes the log say.
    fn said(report: impl FnOnce(&Reporter)) -> Vec<String> {
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

    fn starting(words: &str) -> Trouble {
        Trouble::Starting(words.to_owned())
    }

    fn info(blocks: u32, headers: u32) -> ChainInfo {
        let best = BlockHash::from_byte_array([1; 32]);
        let initial_block_download = false;
        ChainInfo { chain: "regtest".to_owned(), blocks, headers, best, initial_block_download }
    }

    #[test]
    fn a_trouble_is_said_once_and_so_is_its_end() {
        let lines = said(|reporter| {
            reporter.failed(Activity::Asking, &Trouble::Unreachable("connection refused".to_owned()));
            reporter.failed(Activity::Fetching, &Trouble::Unreachable("connection reset".to_owned()));
            for step in ["Loading block index...", "Verifying blocks..."] {
                reporter.failed(Activity::Asking, &starting(step));
            }
            assert!(!reporter.status().connected);
            reporter.worked(Activity::Asking);
            reporter.worked(Activity::Asking);
            reporter.worked(Activity::Fetching);
            assert!(reporter.status().connected);
            let last = reporter.status().last_error.unwrap();
            assert_eq!(last, "the node at http://node is starting: Verifying blocks...");
        });
        let expected = [
            "WARN the node at http://node cannot be reached: connection refused; trying again until it passes",
            "WARN the node at http://node is starting: Loading block index...; trying again until it passes",
            "INFO the node at http://node answers again",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_trouble_with_blocks_is_not_over_because_questions_are_answered() {
        let lines = said(|reporter| {
            let reason = "it gave block 00".to_owned();
            reporter.failed(Activity::Fetching, &Trouble::WrongBlock { height: 7, reason });
            reporter.worked(Activity::Asking);
            assert!(!reporter.status().connected);
            reporter.worked(Activity::Fetching);
            assert!(reporter.status().connected);
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn a_node_that_is_behind_is_told_from_one_that_has_just_heard_of_a_block() {
        let lines = said(|reporter| {
            reporter.informed(&info(100, 101));
            reporter.informed(&info(100, 900));
            reporter.informed(&info(500, 900));
            reporter.informed(&info(900, 900));
            reporter.shorter(Some((900, 950)));
            reporter.shorter(Some((920, 950)));
            reporter.shorter(None);
            reporter.shorter(None);
        });
        let starts = [
            "INFO the node at http://node is still downloading: it has blocks up to height 100",
            "INFO the node at http://node is done downloading, at height 900",
            "WARN the node at http://node is at height 900, below height 950",
            "INFO the node at http://node has caught up",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
