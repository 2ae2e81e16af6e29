//! Why the tree could not be written or read.

use thiserror::Error;

/// Why the tree could not be written or read. The write transaction that saw one must be dropped, not committed.
#[derive(Error)]
pub enum TreeError {
    /// A version that does not come after all others.
    #[error(
        "the state tree cannot take block {height}: its newest version is already {newest}; roll it back first"
    )]
    NotAbove {
        /// The block.
        height: u32,
        /// The newest version.
        newest: u32,
    },
    /// Nothing was applied at or below the height.
    #[error(
        "the state tree has no version at or below block {height}: ask for a height that was indexed with it"
    )]
    NoVersion {
        /// The height asked for.
        height: u32,
    },
    /// A stored node is not what was written.
    #[error(
        "the state tree is damaged: its node {path:?} of block {height} {reason}; index into a new directory"
    )]
    Damaged {
        /// The block that wrote the node.
        height: u32,
        /// The node's place: the first hexadecimal digits of the key hashes below it.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key in the table of nodes that is none of a node.
    #[error(
        "the state tree is damaged: a key of {length} bytes stands in its table; index into a new directory"
    )]
    Key {
        /// Bytes of the key.
        length: usize,
    },
    /// The tree's library refused an update.
    #[error("the state tree cannot take block {height}: {source}; index into a new directory")]
    Refused {
        /// The block.
        height: u32,
        /// What the library said.
        source: anyhow::Error,
    },
    /// LMDB failed.
    #[error("the state tree: {doing}: {source}")]
    Lmdb {
        /// What was tried.
        doing: &'static str,
        /// What LMDB said.
        source: heed::Error,
    },
}

cofferdam_protocol::debug_as_display!(TreeError);
