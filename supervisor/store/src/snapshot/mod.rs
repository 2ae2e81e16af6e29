//! Snapshots: the whole state after one block, in a directory that can be kept, copied to another machine and restored into a
//! store.
//!
//! A snapshot is a directory `snapshot-HEIGHT-DIGEST/` with two files: `data.mdb`, the data of the store, and `manifest.json`
//! ([`Manifest`]), which describes the data. A snapshot is written under another name, synced and then renamed, so a snapshot
//! that has its final name is complete. Heights have leading zeros, so the names sort in the order of the heights.
//!
//! [`take`] makes a snapshot of a store that may be in use, [`verify`] compares a snapshot with its manifest, [`restore`] makes a
//! new store from a snapshot, and [`Snapshots`] takes snapshots while a chain is being indexed.
//!
//! # What can be trusted
//! The manifest and its hash detect a damaged snapshot. They do not show who made the snapshot. An attacker who forges the data
//! can forge the manifest, too. The attacker can also forge the digest of the chain, because the digest is read from the same
//! data. Two values protect against a forgery: the SHA-256 of the data file, if it comes from a trusted party, and the content
//! hash, which every node that has indexed the same chain can compute.

mod background;
mod error;
mod format;
mod hex_hash;
mod inspection;
mod manifest;
mod progress;
mod repository;
mod restore;
mod take;
#[cfg(test)]
mod tests;
mod transfer;
mod verification;

pub use background::{Schedule, Snapshots, Status};
pub use error::SnapshotError;
pub use format::FORMAT;
pub use inspection::{Inspection, Inspector, inspect_in_process};
pub use manifest::Manifest;
pub use progress::{Observer, Step};
pub use restore::{Expected, RestoredStore, restore};
pub use take::{TakeOptions, TakenSnapshot, take};
pub use verification::{VerifiedSnapshot, verify};
