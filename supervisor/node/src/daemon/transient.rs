//! The failures of a request to the node. The kind of a failure says what the follower does: it waits and tries again, it polls
//! the node's chain again, or it ends.

use std::path::PathBuf;
use std::time::Duration;

use super::error::DaemonError;

/// A failure that can pass. Its text continues the sentence "the node at URL …".
#[derive(Debug, thiserror::Error)]
pub(super) enum TransientError {
    /// The connection cannot be made, or broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The node sent nothing for this long.
    #[error("sent nothing for {0:?}")]
    Silent(Duration),
    /// The node kept sending, but did not complete its answer.
    #[error("did not complete its answer within {0:?}")]
    Slow(Duration),
    /// The node says that it is not ready yet (error -28).
    #[error("is starting: {0}")]
    Starting(String),
    /// The node's HTTP server, or a proxy in front of it, is overloaded.
    #[error("is overloaded or not ready (HTTP {status}){}", suffix(.body))]
    Busy {
        /// The HTTP status.
        status: u16,
        /// The beginning of the HTTP body.
        body: String,
    },
    /// The cookie file cannot be read.
    #[error(
        "requires a cookie, but the cookie file {} cannot be read ({reason}); the node writes this file when it starts",
        path.display()
    )]
    NoCookie {
        /// The cookie file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// The node refuses the cookie. This passes if the node is just about to write another one.
    #[error("refuses the cookie in {}", path.display())]
    OldCookie {
        /// The cookie file.
        path: PathBuf,
    },
    /// The answer is not JSON-RPC.
    #[error("gave an answer that is not JSON-RPC: {0}")]
    Malformed(String),
    /// The node answered with an error that needs no treatment of its own.
    #[error("answered {method} with error {code}: {message}")]
    Refused {
        /// The method.
        method: &'static str,
        /// The error's code.
        code: i32,
        /// The error's message.
        message: String,
    },
    /// The node's hashes by height do not form one chain.
    #[error("gave hashes around height {height} that do not form one chain")]
    NotAChain {
        /// The height of the upper one of two blocks that do not fit together.
        height: u32,
    },
    /// The node reports another chain at every poll.
    #[error("reported another chain at each of the last {times} polls")]
    Changing {
        /// The number of polls.
        times: u32,
    },
    /// The node does not find a block of its own best chain.
    #[error("does not find block {height} of its own best chain")]
    Missing {
        /// The height.
        height: u32,
    },
    /// The node sent bytes that are not the requested block.
    #[error("gave wrong bytes for block {height}: {reason}")]
    WrongBlock {
        /// The height.
        height: u32,
        /// What is wrong with the bytes.
        reason: String,
    },
}

impl TransientError {
    /// After how many failed attempts in a row the follower gives up; `None` if it never does. Only a refused cookie has a limit.
    /// When the limit is reached, the credentials count as wrong.
    pub(super) fn attempt_limit(&self) -> Option<u32> {
        // About eight seconds, by the delays of `Backoff`.
        matches!(self, Self::OldCookie { .. }).then_some(8)
    }
}

/// The body of an HTTP error, as the end of a sentence.
fn suffix(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

/// Why a request to the node has no result.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// The failure can pass: the follower tries again later.
    Transient(TransientError),
    /// The node's chain has changed since the request was planned: the follower looks at the chain again.
    ChainMoved,
    /// The failure is final: the follower ends.
    Fatal(Box<DaemonError>),
}

impl RequestFailure {
    /// The failure as part of a log line.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Transient(error) => format!("it {error}"),
            Self::ChainMoved => "its chain changed".to_owned(),
            Self::Fatal(error) => error.to_string(),
        }
    }
}

impl From<DaemonError> for RequestFailure {
    fn from(error: DaemonError) -> Self {
        Self::Fatal(Box::new(error))
    }
}
