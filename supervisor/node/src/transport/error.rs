//! Why an HTTP request to a node has no answer.

use std::io;
use std::time::Duration;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The cookie file cannot be read.
    #[error("the cookie file cannot be read: {0}")]
    NoCookie(io::Error),
    /// The answer is an HTTP status, without JSON that explains it.
    #[error("HTTP status {status}: {body}")]
    Status { status: u16, body: String },
    /// The answer is longer than this many bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    /// The node sent nothing for as long as it may.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The node kept sending, but the answer was not complete in this time.
    #[error("the answer was not complete after {0:?}")]
    TooSlow(Duration),
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Broken(String),
    /// The answer is not JSON.
    #[error("{0}")]
    NotJson(String),
}
