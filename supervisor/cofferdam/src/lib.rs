//! Cofferdam: a process-isolated pool of committed-memory WebAssembly workers.
//!
//! This crate re-exports the parts of Cofferdam and contains the command `cofferdam`. Each part is a separate crate. A part
//! uses only parts that come before it in this list:
//!
//! - [`pool`]: worker processes, their memory, deaths and replacement. [`pool::host`] says what this machine grants.
//! - [`store`]: the state, with [`snapshot`]s and a [`tree`] for proofs.
//! - [`chain`]: checked blocks from files, and the pipeline that runs and commits them.
//! - [`http`]: the pool as a service.
//! - [`node`]: an indexer that follows a Bitcoin node.
//! - [`harness`]: tests of modules and runtimes.
//!
//! | feature | what it adds |
//! |---|---|
//! | `harness` | [`harness`] and [`enable_test_support!`] |
//! | `http` | [`http`] |
//! | `node` | [`chain`], [`store`] and [`node`], with `http` |
//! | `cli` | the command, with everything above |
//!
//! All features are on by default.
//!
//! An embedding program calls [`init`] first in its `main`, because workers are this same executable started again.
//! A test binary has no `main` of its own: it uses [`enable_test_support!`].

#[cfg(feature = "cli")]
pub mod cli;

pub use cofferdam_base::{Bytes, Secret};
pub use cofferdam_pool as pool;
pub use cofferdam_pool::host;
pub use cofferdam_protocol::{digest, exit, fault, profile, status, verdict, writes};
pub use cofferdam_worker::{InitError, init, init_with};

#[cfg(feature = "node")]
pub use cofferdam_chain as chain;
#[cfg(feature = "node")]
pub use cofferdam_chain::blocks;
#[cfg(feature = "cli")]
pub use cofferdam_chain::sample;
#[cfg(feature = "harness")]
pub use cofferdam_harness as harness;
#[cfg(feature = "harness")]
pub use cofferdam_harness::enable_test_support;
#[cfg(feature = "http")]
pub use cofferdam_http as http;
#[cfg(feature = "node")]
pub use cofferdam_node as node;
#[cfg(feature = "node")]
pub use cofferdam_node::agreement;
#[cfg(feature = "node")]
pub use cofferdam_store as store;
#[cfg(feature = "node")]
pub use cofferdam_store::{snapshot, tree};

/// Runs the examples of the repository's README.
#[cfg(all(doctest, feature = "harness"))]
#[doc = include_str!("../../../README.md")]
#[derive(Debug)]
pub struct Readme;
