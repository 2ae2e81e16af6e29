//! Stored bytes that do not decode.

use thiserror::Error;

use super::layout::{HEIGHT_BYTES, RECORD_VERSION};

/// Stored bytes that this module never wrote: the store is damaged, or another program has written to it.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A record of a version that this build does not know.
    #[error("the record of block {height} has version {version}; this build knows version {RECORD_VERSION}")]
    RecordVersion {
        /// The block.
        height: u32,
        /// The version found.
        version: u8,
    },
    /// A record that ends too early.
    #[error("the record of block {height} is cut short at {length} bytes")]
    RecordLength {
        /// The block.
        height: u32,
        /// Bytes found.
        length: usize,
    },
    /// A record whose verdict has no known name.
    #[error(
        "the record of block {height} has the verdict {verdict:?}, which is not the name of a guest verdict"
    )]
    RecordVerdict {
        /// The block.
        height: u32,
        /// The name found.
        verdict: String,
    },
    /// An entry in the table of blocks whose key is not a height.
    #[error("the table of blocks has a key of {length} bytes; a height has {HEIGHT_BYTES}")]
    BlockKey {
        /// Bytes found.
        length: usize,
    },
    /// The value of a long key does not begin with that key.
    #[error("the value stored for a key of {key} bytes ({length} bytes) does not begin with that key")]
    LongValue {
        /// Bytes of the key.
        key: usize,
        /// Bytes stored.
        length: usize,
    },
}

crate::debug_as_display!(LayoutError);
