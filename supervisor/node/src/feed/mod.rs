//! Feeds of blocks. A feed gives the blocks of a chain that grows and can be reorganised.
//!
//! A [`cofferdam_chain::blocks::BlockSource`] gives a chain that does not change: its heights only rise. A [`Feed`] can also
//! report a rollback to a fork, and can report that it is at the tip and wait there for the next block.
//!
//! Two feeds exist: [`FileFeed`] reads the chain in bitcoind's block files, and
//! [`Follower`](crate::daemon::Follower) follows a Bitcoin node.

mod error;
mod file_feed;
mod follow;

pub use crate::event::{FeedEvent, LookupError};
pub use error::FeedError;
pub use file_feed::FileFeed;
pub use follow::Feed;
