//! What can be wrong with a store, said so that an operator can act on it.

use std::io;
use std::path::PathBuf;

use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::state::{self, FORMAT, LayoutError};
use thiserror::Error;

use super::trouble::{Trouble, advice, advice_io};
#[cfg(feature = "tree")]
use crate::tree::TreeError;
use cofferdam_base::addresses;

/// Why a store could not be opened, written or read.
#[derive(Error)]
pub enum StoreError {
    /// The directory cannot be made, listed or locked.
    #[error("the store's directory {}: {doing}: {source}{}", path.display(), advice_io(source))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory holds something else.
    #[error("{} is no store of Cofferdam: {reason}; give an empty directory, or one that does not exist", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is nothing to read.
    #[error(
        "there is no store in {}: data.mdb is missing; name the --db-path of a `cofferdam run` or `cofferdam node`, or make a store \
         of a snapshot (`cofferdam snapshot restore`)",
        path.display()
    )]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A store that somebody writes is to be read where it is mounted read-only.
    #[error(
        "the store in {} is being written by another process, and is on a read-only file system here: readers must be able to \
         write its lock.mdb. Mount the directory for writing, or read a snapshot of the store",
        path.display()
    )]
    WrittenElsewhere {
        /// The directory.
        path: PathBuf,
    },
    /// A store is to be put where something is already.
    #[error("{} has {found} in it: give an empty directory, or one that does not exist", path.display())]
    NotVacant {
        /// The directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// Another writer has the store, in this process or another.
    #[error(
        "the store in {path} is being written by another process: stop that one (`fuser {path}/writer.lock` names it) \
         or give this one a directory of its own",
        path = path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store is of another format.
    #[error(
        "the store in {} has format {found}, this build writes format {FORMAT}: use the build that made it, or index into \
         a new directory",
        path.display()
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The store's results are of another profile.
    #[error(
        "the store in {} was made with another profile: {}. Results of two profiles must not be mixed: use the module and the \
         limits that the store was made with, or index into a new directory (the profile of the store is {stored}, this one is {wanted})",
        path.display(),
        differences(parts.as_deref())
    )]
    Profile {
        /// The directory.
        path: PathBuf,
        /// The profile of the stored results.
        stored: Hash,
        /// The profile asked for.
        wanted: Hash,
        /// What both consist of, if that is known: that of the stored results, and that asked for.
        parts: Option<Box<[Profile; 2]>>,
    },
    /// The store's blocks are of another network.
    #[error(
        "the store in {} holds blocks of the network {stored:?}, and the blocks now come from {wanted:?}: follow the same \
         network, or index into a new directory",
        path.display()
    )]
    Network {
        /// The directory.
        path: PathBuf,
        /// The network of the stored blocks.
        stored: String,
        /// The network asked for.
        wanted: String,
    },
    /// A block that is not above the tip.
    #[error("block {height} cannot be committed to {}: its tip is already block {tip}", path.display())]
    NotAboveTip {
        /// The directory.
        path: PathBuf,
        /// The block.
        height: u32,
        /// The newest block there.
        tip: u32,
    },
    /// A block could not be written; the store is as it was before.
    #[error(
        "block {height} was not written to {}: {source}; the store is as it was before{}",
        path.display(),
        advice(source)
    )]
    NotWritten {
        /// The directory.
        path: PathBuf,
        /// The block.
        height: u32,
        /// What LMDB said.
        source: heed::Error,
    },
    /// Blocks could not be taken back, or not all of them; the store is that of one of its blocks.
    #[error(
        "the blocks above {} were not all taken back in {}: {source}; the store holds whole blocks{}",
        base(*to),
        path.display(),
        advice(source)
    )]
    NotRolledBack {
        /// The directory.
        path: PathBuf,
        /// The height to return to; none for before the first block.
        to: Option<u32>,
        /// What LMDB said.
        source: heed::Error,
    },
    /// More blocks were to be taken back than may be; none was.
    #[error(
        "the store in {} has more than {at_most} blocks above {}: so many may be taken back, and none was. If the \
         reorganisation is real, raise --max-reorg-depth; else index into another --db-path",
        path.display(),
        base(*to)
    )]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// The height to return to; none for before the first block.
        to: Option<u32>,
        /// How many blocks may be taken back.
        at_most: u32,
    },
    /// There is no block at a height, though there are blocks below it.
    #[error(
        "the store in {} holds blocks from {first} to {tip} and none at height {height}: it was not made by following one \
         chain; index into a new directory",
        path.display()
    )]
    NoBlock {
        /// The directory.
        path: PathBuf,
        /// The height.
        height: u32,
        /// The lowest height there.
        first: u32,
        /// The newest height there.
        tip: u32,
    },
    /// The store's map is larger than the addresses that this process may reserve.
    #[error(
        "the store in {} cannot be opened: {}",
        path.display(),
        addresses::too_low("it", state::MAP_BYTES as u64, *limit)
    )]
    Addresses {
        /// The directory.
        path: PathBuf,
        /// Bytes of addresses that may be reserved.
        limit: u64,
    },
    /// LMDB failed otherwise.
    #[error("the store in {}: {doing}: {source}{}", path.display(), advice(source))]
    Lmdb {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What LMDB said.
        source: heed::Error,
    },
    /// A state tree was asked for, of blocks that were committed without one.
    #[error(
        "the store in {} has blocks up to {tip} and no state tree: a tree begins with the first block; index into a new \
         directory to have one",
        path.display()
    )]
    WithoutTree {
        /// The directory.
        path: PathBuf,
        /// The newest block.
        tip: u32,
    },
    /// The store has a state tree, and this build cannot keep it.
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
        /// The block.
        height: u32,
        /// What was wrong.
        source: TreeError,
    },
    /// Stored bytes do not decode.
    #[error("the store in {} is damaged: {source}; index into a new directory", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: LayoutError,
    },
}

cofferdam_protocol::debug_as_display!(StoreError);

impl StoreError {
    /// Whether what failed passes once somebody makes room, so that it can be tried again.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NotWritten { source, .. }
            | Self::NotRolledBack { source, .. }
            | Self::Lmdb { source, .. } => Trouble::of(source),
            #[cfg(feature = "tree")]
            Self::Tree { source: TreeError::Lmdb { source, .. }, .. } => Trouble::of(source),
            Self::Directory { source, .. } => Trouble::of_io(source),
            _ => Trouble::Lasting,
        }
    }
}

/// Which parts of two profiles differ, in words.
fn differences(parts: Option<&[Profile; 2]>) -> String {
    let parts = parts.map(|[stored, wanted]| wanted.differences(stored)).filter(|parts| !parts.is_empty());
    parts.map_or_else(|| "the module, a limit or the engine differs".to_owned(), |parts| parts.join("; "))
}

/// The block to return to, in words.
fn base(to: Option<u32>) -> String {
    to.map_or_else(|| "the place before the first block".to_owned(), |to| format!("block {to}"))
}

#[cfg(test)]
mod tests {
    use heed::MdbError;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let error = |source| StoreError::NotWritten { path: "/s".into(), height: 7, source };
        for code in [27, 28, 122] {
            let error = error(heed::Error::Io(io::Error::from_raw_os_error(code)));
            let text = error.to_string();
            assert!(text.contains("block 7") && text.contains("Make room"), "{text}");
            assert_eq!(error.trouble(), Trouble::NoRoom);
        }
        for code in [5, 30] {
            let error = error(heed::Error::Io(io::Error::from_raw_os_error(code)));
            let text = error.to_string();
            assert!(!text.contains("Make room") && text.contains("dmesg"), "{text}");
            assert_eq!(error.trouble(), Trouble::Lasting);
        }
        assert!(error(heed::Error::Mdb(MdbError::MapFull)).to_string().contains("new directory"));
        assert!(error(heed::Error::Mdb(MdbError::Corrupted)).to_string().contains("damaged"));
    }
}
