#![doc = include_str!("../README.md")]
//!
//! # How the crate is built
//!
//! Modules lower in this list use those above them, never the other way round:
//!
//! - what everything needs: `file_names` (the names of a store's files), `identity` ([`Identity`], [`Durability`]), `failure`
//!   ([`FailureKind`]: whether a failed write can be retried, and advice for the operator), `error` ([`StoreError`]),
//!   `content_hash` (the hash over all values);
//! - the directory and the files in it: `directory` (creation, the writer's lock, syncing), `read_access` ([`ReadAccess`]),
//!   `restore_target` ([`RestoreTarget`]), `data_file` (reads a finished copy of a store);
//! - the tree over the newest values, in `tree`, and `tree_feature`, which keeps the tree in step with the store (or
//!   `no_tree_feature`, which refuses stores that have a tree);
//! - `open` (the LMDB environment and its tables), `store_faults` (failures that tests inject), `store` ([`Store`]: opening and
//!   reading), `transaction` (committing blocks), `undo_list` and `rollback` (removing blocks), `tree_queries` (roots and
//!   proofs), `copy` ([`StoreCopy`]);
//! - [`snapshot`], on top of all of these.
//!
//! The bytes in the tables are described in [`cofferdam_protocol::state`]. Workers read the same files without a round trip
//! to this process (`cofferdam_worker::state`).

mod content_hash;
mod copy;
mod data_file;
mod directory;
mod error;
mod failure;
mod file_names;
mod identity;
mod open;
mod read_access;
mod restore_target;
mod rollback;
pub mod snapshot;
mod store;
mod store_faults;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod transaction;
#[cfg(feature = "tree")]
pub mod tree;
#[cfg(feature = "tree")]
mod tree_feature;
#[cfg(not(feature = "tree"))]
#[path = "no_tree_feature.rs"]
mod tree_feature;
#[cfg(feature = "tree")]
mod tree_queries;
mod undo_list;

pub use cofferdam_protocol::state::BlockRecord;

pub use copy::StoreCopy;
pub use data_file::{DataFileError, DataFileSummary, inspect_data_file, newest_block};
pub use error::StoreError;
pub use failure::FailureKind;
pub use identity::{Durability, Identity};
pub use read_access::ReadAccess;
pub use restore_target::RestoreTarget;
pub use store::Store;
#[doc(hidden)]
pub use store_faults::{StoreCall, StoreFaults};
pub use transaction::{Transaction, last_write_per_key};
#[cfg(feature = "tree")]
pub use tree_queries::ProvenValue;
