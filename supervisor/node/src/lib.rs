//! The node: a chain that follows a Bitcoin daemon, and the faces that it shows to its clients.
//!
//! One thread indexes ([`Indexer`]): it takes blocks from a [`Source`], runs them on the pool, has them committed while the
//! next ones run ([`cofferdam_chain::Pipeline`]), and takes them back when the daemon's chain leaves them. What others may know
//! of that is a [`NodeState`]. Clients ask over JSON-RPC ([`rpc`]), and are answered by [`Node`]: views run on the same
//! workers as blocks, but never on the last one that is free.

pub mod agreement;
mod backend;
pub mod daemon;
pub mod feed;
mod indexer;
pub mod rpc;
mod state;

pub use backend::Node;
pub use indexer::{Ended, Indexer, NodeError, Source};
pub use state::{Freshness, NodeState, Tip, Work};
