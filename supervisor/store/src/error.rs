//! What can be wrong with a store. Every text names the store, the cause and what the operator can do.

use std::io;
use std::path::PathBuf;

use cofferdam_base::address_limit;
use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::state::{self, FORMAT, LayoutError};
use thiserror::Error;

use crate::failure::{FailureKind, advice, advice_io};
#[cfg(feature = "tree")]
use crate::tree::TreeError;

/// Why a store could not be opened, written or read.
#[derive(Error)]
pub enum StoreError {
    /// The directory cannot be created, listed, locked or synced, or a file in it cannot be opened.
    #[error("the store's directory {}: {problem}: {source}{}", path.display(), advice_io(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory holds something else than a store.
    #[error("{} is not a Cofferdam store: {reason}; name an empty directory, or one that does not exist", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is no store to read.
    #[error(
        "there is no store in {}: data.mdb is missing; name the --db-path of a `cofferdam run` or `cofferdam node`, or restore \
         a snapshot into a new directory (`cofferdam snapshot restore`)",
        path.display()
    )]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// Another process writes the store, and this process sees the store on a read-only file system.
    #[error(
        "the store in {} is being written by another process, and its file system is mounted read-only here, so this process \
         cannot register as a reader in lock.mdb. Mount the directory for writing, or read a snapshot of the store",
        path.display()
    )]
    WrittenElsewhere {
        /// The directory.
        path: PathBuf,
    },
    /// The directory for a restored store is not empty.
    #[error("{} is not empty, it contains {found}: give an empty directory, or one that does not exist", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Name of a file that is in it.
        found: String,
    },
    /// Another writer has the store open, in this process or in another one.
    #[error(
        "the store in {path} is being written by another process: stop that process (`fuser {path}/writer.lock` names it), \
         or use another directory",
        path = path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store has another format.
    #[error(
        "the store in {} has format {found}, but this build writes format {FORMAT}: use the build that made the store, or \
         index into a new directory",
        path.display()
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format that was found.
        found: u32,
    },
    /// The results in the store belong to another profile.
    #[error(
        "the store in {} was made with another profile: {}. Results of two profiles must not be mixed: use the module and the \
         limits that the store was made with, or index into a new directory (the profile of the store is {stored}, this one \
         is {wanted})",
        path.display(),
        differences(parts.as_deref())
    )]
    Profile {
        /// The directory.
        path: PathBuf,
        /// The profile of the stored results.
        stored: Hash,
        /// The profile that was asked for.
        wanted: Hash,
        /// The parts of both profiles, if they are known: those of the stored results, and those that were asked for.
        parts: Option<Box<[Profile; 2]>>,
    },
    /// The blocks in the store belong to another network.
    #[error(
        "the store in {} holds blocks of the network {stored:?}, but the new blocks are of {wanted:?}: follow the stored \
         network, or index into a new directory",
        path.display()
    )]
    Network {
        /// The directory.
        path: PathBuf,
        /// The network of the stored blocks.
        stored: String,
        /// The network that was asked for.
        wanted: String,
    },
    /// The block is not above the tip.
    #[error("block {height} cannot be committed to {}: the tip is already block {tip}", path.display())]
    NotAboveTip {
        /// The directory.
        path: PathBuf,
        /// Height of the block.
        height: u32,
        /// Height of the newest committed block.
        tip: u32,
    },
    /// A block could not be written. The store is unchanged.
    #[error(
        "block {height} was not written to {}: {source}; the store is unchanged{}",
        path.display(),
        advice(source)
    )]
    NotWritten {
        /// The directory.
        path: PathBuf,
        /// Height of the block.
        height: u32,
        /// The error of LMDB.
        source: heed::Error,
    },
    /// Some blocks could not be rolled back. The store is in the state after one of its blocks.
    #[error(
        "not all blocks above {} were rolled back in {}: {source}; the store holds only whole blocks{}",
        target(*to),
        path.display(),
        advice(source)
    )]
    NotRolledBack {
        /// The directory.
        path: PathBuf,
        /// The height to return to; none for the state before the first block.
        to: Option<u32>,
        /// The error of LMDB.
        source: heed::Error,
    },
    /// The rollback would remove more blocks than the caller allows. No block was rolled back.
    #[error(
        "the store in {} has more than {at_most} blocks above {}, and at most {at_most} may be rolled back: no block was \
         rolled back. If the reorganisation is real, raise --max-reorg-depth; otherwise index into another --db-path",
        path.display(),
        target(*to)
    )]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// The height to return to; none for the state before the first block.
        to: Option<u32>,
        /// How many blocks may be rolled back.
        at_most: u32,
    },
    /// There is no block at a height, though there are blocks below it.
    #[error(
        "the store in {} holds blocks from {first} to {tip}, but none at height {height}: the store was not made by following \
         one chain; index into a new directory",
        path.display()
    )]
    NoBlock {
        /// The directory.
        path: PathBuf,
        /// The height.
        height: u32,
        /// The lowest height in the store.
        first: u32,
        /// The highest height in the store.
        tip: u32,
    },
    /// The store maps more addresses than this process may reserve.
    #[error(
        "the store in {} cannot be opened: {}",
        path.display(),
        address_limit::too_low("it", state::MAP_BYTES as u64, *limit)
    )]
    Addresses {
        /// The directory.
        path: PathBuf,
        /// Bytes of addresses that this process may reserve.
        limit: u64,
    },
    /// LMDB failed in another way.
    #[error("the store in {}: {operation} failed: {source}{}", path.display(), advice(source))]
    Lmdb {
        /// The directory.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The error of LMDB.
        source: heed::Error,
    },
    /// A state tree was asked for, but the store has blocks that were committed without one.
    #[error(
        "the store in {} has blocks up to {tip} and no state tree: a tree must begin with the first block; index into a new \
         directory to have one",
        path.display()
    )]
    WithoutTree {
        /// The directory.
        path: PathBuf,
        /// Height of the newest block.
        tip: u32,
    },
    /// The store has a state tree, and this build cannot update the tree.
    #[cfg(not(feature = "tree"))]
    #[error(
        "the store in {} has a state tree, and this program was built without state trees: build it with the feature \
         `tree` of cofferdam-store, or use another directory",
        path.display()
    )]
    TreeNotBuilt {
        /// The directory.
        path: PathBuf,
    },
    /// The state tree failed.
    #[cfg(feature = "tree")]
    #[error("the state tree in {} at height {height}: {source}", path.display())]
    Tree {
        /// The directory.
        path: PathBuf,
        /// Height of the block.
        height: u32,
        /// What is wrong.
        source: TreeError,
    },
    /// Stored bytes cannot be decoded.
    #[error("the store in {} is damaged: {source}; index into a new directory", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: LayoutError,
    },
}

cofferdam_protocol::debug_as_display!(StoreError);

/// Which parts of two profiles differ, in words.
fn differences(parts: Option<&[Profile; 2]>) -> String {
    let parts = parts.map(|[stored, wanted]| wanted.differences(stored)).filter(|parts| !parts.is_empty());
    parts.map_or_else(|| "the module, a limit or the engine differs".to_owned(), |parts| parts.join("; "))
}

impl StoreError {
    /// Whether the failed call can succeed when it is tried again.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotWritten { source, .. }
            | Self::NotRolledBack { source, .. }
            | Self::Lmdb { source, .. } => FailureKind::of(source),
            #[cfg(feature = "tree")]
            Self::Tree { source: TreeError::Lmdb { source, .. }, .. } => FailureKind::of(source),
            Self::Directory { source, .. } => FailureKind::of_io(source),
            _ => FailureKind::Permanent,
        }
    }
}

/// The height that a rollback returns to, in words.
fn target(to: Option<u32>) -> String {
    to.map_or_else(|| "the state before the first block".to_owned(), |to| format!("block {to}"))
}

#[cfg(test)]
mod tests {
    use heed::MdbError;

    use super::*;

    #[test]
    fn a_full_disk_is_distinguished_from_other_failures() {
        let error = |source| StoreError::NotWritten { path: "/s".into(), height: 7, source };
        for code in [27, 28, 122] {
            let error = error(heed::Error::Io(io::Error::from_raw_os_error(code)));
            let text = error.to_string();
            assert!(text.contains("block 7") && text.contains("Make room"), "{text}");
            assert_eq!(error.kind(), FailureKind::NoSpace);
        }
        for code in [5, 30] {
            let error = error(heed::Error::Io(io::Error::from_raw_os_error(code)));
            let text = error.to_string();
            assert!(!text.contains("Make room") && text.contains("dmesg"), "{text}");
            assert_eq!(error.kind(), FailureKind::Permanent);
        }
        assert!(error(heed::Error::Mdb(MdbError::MapFull)).to_string().contains("new directory"));
        assert!(error(heed::Error::Mdb(MdbError::Corrupted)).to_string().contains("damaged"));
    }
}
