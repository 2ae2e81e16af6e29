//! What can go wrong between here and the node, sorted by what comes of it: what can pass is waited out, the chain moving
//! is looked at again, and the rest is the end.

use std::path::PathBuf;
use std::time::Duration;

use super::error::DaemonError;

/// Something that can pass. As words they continue "the node at URL …".
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection, or a broken one.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing came for so long.
    #[error("sent nothing for {0:?}")]
    Silent(Duration),
    /// Something came all the time, and not the end.
    #[error("did not finish its answer within {0:?}")]
    Slow(Duration),
    /// It answers that it is not yet ready (error -28).
    #[error("is starting: {0}")]
    Starting(String),
    /// Its HTTP server, or one before it, has no time.
    #[error("is overloaded or not ready (HTTP {status}){}", words(.body))]
    Busy {
        /// The HTTP status.
        status: u16,
        /// What it said, shortened.
        body: String,
    },
    /// There is no cookie yet.
    #[error("wants a cookie, and {} cannot be read ({reason}): the node writes it when it starts", path.display())]
    NoCookie {
        /// The cookie file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The cookie is refused, which passes if the node is just about to write another.
    #[error("refuses the cookie in {}", path.display())]
    OldCookie {
        /// The cookie file.
        path: PathBuf,
    },
    /// An answer that is none.
    #[error("gave an answer that is no JSON-RPC: {0}")]
    Garbled(String),
    /// An error that has no meaning of its own here.
    #[error("answered {method} with error {code}: {message}")]
    Refused {
        /// The method.
        method: &'static str,
        /// The error's code.
        code: i32,
        /// The error's message.
        message: String,
    },
    /// Hashes by height that are not those of one chain.
    #[error("gave hashes around height {height} that are not of one chain")]
    Torn {
        /// The height of the upper of two that do not fit.
        height: u32,
    },
    /// A chain that is another at every look.
    #[error("gave another chain each of the last {times} times that it was asked")]
    Changing {
        /// How often.
        times: u32,
    },
    /// A block of its chain that it does not find.
    #[error("does not find block {height} of its own best chain")]
    Missing {
        /// The height.
        height: u32,
    },
    /// Bytes that are not the block asked for.
    #[error("gave wrong bytes for block {height}: {reason}")]
    WrongBlock {
        /// The height.
        height: u32,
        /// What is wrong with them.
        reason: String,
    },
}

impl Trouble {
    /// After how many tries it will not pass any more; it is a matter of credentials then.
    pub(super) fn gives_up_after(&self) -> Option<u32> {
        // Some eight seconds, by the pauses of `Backoff`.
        matches!(self, Self::OldCookie { .. }).then_some(8)
    }
}

/// What an HTTP error said, as the tail of a sentence.
fn words(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// It can pass: try again later.
    Passing(Trouble),
    /// The chain is no longer as it was a moment ago: look again.
    Moved,
    /// The end.
    Final(Box<DaemonError>),
}

impl Failure {
    /// What it is, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Passing(trouble) => format!("it {trouble}"),
            Self::Moved => "its chain moved".to_owned(),
            Self::Final(error) => error.to_string(),
        }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::Final(Box::new(error))
    }
}

/// The growing pauses of one thread that tries again.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    /// Short enough that a node which is back is followed at once, for a person's idea of it.
    const LONGEST: Duration = Duration::from_secs(2);

    /// The pause before the next try.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = Self::FIRST.saturating_mul(1 << self.0.min(10));
        self.0 = self.0.saturating_add(1);
        pause.min(Self::LONGEST)
    }

    /// How many tries have failed in a row.
    pub(super) fn tries(&self) -> u32 {
        self.0
    }

    /// It went well.
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.tries(), 7);
        for _ in 0..100 {
            assert_eq!(backoff.pause(), Backoff::LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.pause(), Backoff::FIRST);
    }
}
