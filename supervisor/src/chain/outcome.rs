//! A block before it runs, and what came of it.

use cofferdam_protocol::profile::Hash;

use crate::blocks::{BlockHash, SourceBlock};
use crate::pool::JobResult;

/// A block with the hash that the digest needs. The thread that reads blocks computes the hash, so that no other thread waits
/// for it.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The block.
    pub block: SourceBlock,
    /// SHA-256 of the block's bytes.
    pub sha256: Hash,
}

impl From<SourceBlock> for Hashed {
    fn from(block: SourceBlock) -> Self {
        let sha256 = Hash::of(&block.bytes);
        Self { block, sha256 }
    }
}

/// What came of one block.
#[derive(Debug)]
pub struct Outcome {
    /// The block's height.
    pub height: u32,
    /// The block's hash.
    pub hash: BlockHash,
    /// The block's size in bytes.
    pub block_bytes: u64,
    /// The result of the pool.
    pub result: JobResult,
    /// SHA-256 of the writes.
    pub writes_sha256: Hash,
    /// The chain's digest with this block. None after a host verdict, which is no property of the block.
    pub digest: Option<Hash>,
    /// Whether the store has the block.
    pub committed: bool,
}

/// The bytes of a hash, as the store keeps them.
pub(super) fn hash_bytes(hash: BlockHash) -> [u8; 32] {
    use bitcoin::hashes::Hash as _;
    hash.to_byte_array()
}

/// The hash that the store keeps as these bytes.
pub(crate) fn hash_of(bytes: [u8; 32]) -> BlockHash {
    use bitcoin::hashes::Hash as _;
    BlockHash::from_byte_array(bytes)
}
