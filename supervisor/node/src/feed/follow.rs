//! The interface through which the indexer receives blocks.

use std::time::Duration;

use crate::daemon::{DaemonStatus, Follower};
use crate::event::FeedEvent;

use super::error::FeedError;

/// A source of blocks that one thread follows.
pub trait Feed {
    /// Returns the next event. Waits for it for at most `timeout`, and returns `None` if no event came in that time.
    ///
    /// # Errors
    /// [`FeedError`]. The feed gives nothing after an error.
    fn next(&mut self, timeout: Duration) -> Result<Option<FeedEvent>, FeedError>;

    /// The status of the Bitcoin node behind the feed; `None` if the feed follows no node.
    fn daemon_status(&self) -> Option<DaemonStatus> {
        None
    }
}

impl Feed for Follower {
    fn next(&mut self, timeout: Duration) -> Result<Option<FeedEvent>, FeedError> {
        Ok(Self::next(self, timeout)?)
    }

    fn daemon_status(&self) -> Option<DaemonStatus> {
        Some(self.status())
    }
}
