//! The errors of the state tree.

use thiserror::Error;

/// Why the tree could not be written or read. A write transaction in which this error occurred must be dropped, not committed.
#[derive(Error)]
pub enum TreeError {
    /// There is a version at or above the height of the block.
    #[error(
        "block {height} cannot be added to the state tree: the newest version is already {newest}; roll the tree back first"
    )]
    NotAbove {
        /// Height of the block.
        height: u32,
        /// Height of the newest version.
        newest: u32,
    },
    /// No block was applied at or below the height.
    #[error(
        "the state tree has no version at or below block {height}: ask for a height that was indexed with a tree"
    )]
    NoVersion {
        /// The height that was asked for.
        height: u32,
    },
    /// A stored node is missing, or its bytes are not what was written.
    #[error(
        "the state tree is damaged: its node {path:?} of block {height} {reason}; index into a new directory"
    )]
    Damaged {
        /// Height of the block that wrote the node.
        height: u32,
        /// The path of the node: the hexadecimal digits that all key hashes below the node begin with.
        path: String,
        /// What is wrong with the node.
        reason: &'static str,
    },
    /// The table of nodes has a key that is not the key of a node.
    #[error(
        "the state tree is damaged: its table has an invalid key of {length} bytes; index into a new directory"
    )]
    Key {
        /// Length of the key in bytes.
        length: usize,
    },
    /// The `jmt` library refused an update.
    #[error("block {height} cannot be added to the state tree: {source}; index into a new directory")]
    Refused {
        /// Height of the block.
        height: u32,
        /// The error of the library.
        source: anyhow::Error,
    },
    /// LMDB failed.
    #[error("the state tree: {operation} failed: {source}")]
    Lmdb {
        /// What was being done.
        operation: &'static str,
        /// The error of LMDB.
        source: heed::Error,
    },
}

cofferdam_protocol::debug_as_display!(TreeError);
