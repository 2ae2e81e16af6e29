//! Snapshots: the whole state after one block, in a directory that can be kept, carried elsewhere and gone on from.
//!
//! A snapshot is `snapshot-HEIGHT-DIGEST/` with two files: `data.mdb`, the store itself, and `manifest.json`
//! ([`Manifest`]), which says what that is. It is written under another name, synced and then renamed, so one that has its
//! name is whole. Heights are written with leading zeros: names sort as heights do.
//!
//! [`take`] makes one of a store that may be in use, [`verify`] holds one against its manifest, [`restore`] makes a new
//! store of one, and [`Snapshots`] takes them while a chain is being indexed.
//!
//! # What can be trusted
//! Hash and manifest tell a damaged snapshot from a whole one. They do not tell who made it: whoever forges the data forges
//! the manifest with it, and the chain's digest is part of the data. Against that there are the data file's SHA-256, if it
//! comes from whom one trusts, and the content hash, which any node that has indexed the same chain can say.

mod background;
mod directory;
mod error;
mod hexadecimal;
mod inside;
mod manifest;
mod restore;
mod take;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;

use std::ops::ControlFlow;

pub use background::{Schedule, Snapshots, Status};
pub use error::SnapshotError;
pub use inside::{Inside, Look, look_here};
pub use manifest::{FORMAT, Manifest};
pub use restore::{Restored, Wanted, restore};
pub use take::{Taken, Taking, take};
pub use verify::{Verified, verify};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The data is being copied, or read, and hashed.
    Data {
        /// Bytes so far.
        done: u64,
        /// Bytes in all, as far as is known.
        total: u64,
    },
    /// The data is all there; what it says of itself is being looked up.
    Looking,
    /// All is there and synced to disk; it is about to get its name.
    Naming,
    /// It has its name. Older ones, if any, are about to be removed.
    Done,
}

/// Is told each step, and can give up; what was written until then is then removed.
pub type Watch<'w> = &'w mut dyn FnMut(Step) -> ControlFlow<()>;

/// Tells a step. After [`Step::Done`] it is too late to give up.
fn tell(watch: Watch<'_>, step: Step) -> Result<(), SnapshotError> {
    match watch(step) {
        ControlFlow::Break(()) if step != Step::Done => Err(SnapshotError::GivenUp),
        _ => Ok(()),
    }
}
