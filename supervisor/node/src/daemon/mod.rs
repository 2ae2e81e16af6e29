//! Blocks from a running Bitcoin node, by JSON-RPC: the chain that it holds for the best, while it grows and while it
//! changes its mind.
//!
//! [`Follower`] is what is used. Behind it stand one thread that asks the node where its chain is (`conductor`), a few that
//! fetch and check blocks ahead (`fetcher`), and between them and the caller the blocks that are planned, under way and
//! ready (`line`), which is the only state that they share. Each way of failing is either something that can pass, told
//! once and tried again (`trouble`), or the end with a reason ([`DaemonError`]).
//!
//! A node is believed nothing that can be checked: a block's bytes must hash to what was asked for, its transactions to
//! its merkle root and witness commitment, and its parent must be the block given before it. What a node alone can say is
//! which of two valid chains is the better one.

mod batches;
mod client;
mod conductor;
mod error;
mod fetcher;
mod follower;
mod line;
mod settings;
mod status;
mod transport;
mod trouble;
mod window;

pub use error::DaemonError;
pub use follower::{Follower, check};
pub use settings::{AHEAD_BYTES, Auth, Settings};
pub use status::Status;
// Other nodes are asked the same way: see `crate::agreement`.
pub(crate) use transport::{Capped, Connections, Target, TransportError};
