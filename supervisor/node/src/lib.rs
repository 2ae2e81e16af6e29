#![doc = include_str!("../README.md")]
//!
//! # The modules
//!
//! | module | what it is | what it uses |
//! |---|---|---|
//! | [`daemon`] | follows a Bitcoin node: polls its tip, fetches and verifies blocks ahead | `transport` |
//! | [`feed`] | the interface to a source of blocks, and the feed from block files | [`daemon`] |
//! | `indexer` | the loop that takes blocks from a feed and pushes them into the pipeline | [`feed`], `node_state` |
//! | `node_state` | what the other threads may know: tip, daemon, times | [`daemon`] |
//! | [`rpc`] | the JSON-RPC server: parameters, errors, limits, CORS | a [`rpc::Backend`] |
//! | `node_backend` | the backend of this node: views on the pool, everything else from the store | [`rpc`], `node_state` |
//! | [`agreement`] | compares nodes ([`agreement::audit`]) and modules ([`agreement::diff`]) | `transport`, [`rpc::ChainDigest`] |
//! | `transport` | JSON-RPC over HTTP as a client | |

pub mod agreement;
pub mod daemon;
mod event;
pub mod feed;
mod indexer;
mod node_backend;
mod node_state;
pub mod rpc;
mod transport;

pub use indexer::{IndexError, Indexer, StopReason};
pub use node_backend::NodeBackend;
pub use node_state::{IndexingTimes, NodeState, ReadinessLimits, Tip};
