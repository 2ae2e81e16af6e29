//! Follows a Bitcoin node over JSON-RPC: gives the blocks of its best chain while the chain grows, and reports
//! reorganisations.
//!
//! [`Follower`] is the interface. Its parts:
//!
//! - One thread asks the node for its best block, and plans which blocks are fetched next (`chain_tracker`).
//! - Up to four threads fetch the planned blocks ahead of the caller, and verify them (`fetcher`).
//! - One queue holds the planned, fetched and ready blocks between these threads and the caller (`block_queue`). The queue is
//!   the only state that the threads share, apart from the status.
//!
//! A failure is either transient (`transient`), or final ([`DaemonError`]). After a transient failure, the follower logs the
//! failure and tries again. A failure that continues is logged again every ten minutes. A final failure ends the follower.
//!
//! The follower verifies whatever it can. The bytes of a block must hash to the requested hash, the transactions must match the
//! merkle root and the witness commitment, and the parent must be the block given before. The follower trusts the node in one
//! question only: which of two valid chains is the better one.

mod backoff;
mod batch_limit;
mod block_queue;
mod chain_tracker;
mod client;
mod error;
mod fetcher;
mod follower;
mod hash_window;
mod settings;
mod status;
mod transient;

pub use crate::transport::Auth;
pub use error::DaemonError;
pub use follower::{Follower, check_settings};
pub use settings::{FETCH_AHEAD_BYTES, FollowerSettings};
pub use status::DaemonStatus;
