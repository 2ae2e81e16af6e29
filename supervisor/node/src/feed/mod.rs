//! Feeds of blocks: the chain of a node while it grows, and while it reorganises.
//!
//! A [`cofferdam_chain::blocks::BlockSource`] gives a settled chain, whose heights only rise. A [`Feed`] adds what a living
//! chain needs: it can roll back to a fork, and it can reach a tip and wait there for the next block.
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
