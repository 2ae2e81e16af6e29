//! The result of a block that ran, and whether the block was committed.

use cofferdam_protocol::profile::Hash;

use crate::blocks::BlockHash;
use cofferdam_pool::JobResult;

/// The result of one block, and whether the block was committed.
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
    /// The digest of the chain up to and including this block. None after a host verdict, because a host verdict is not a
    /// property of the block.
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
pub fn hash_of(bytes: [u8; 32]) -> BlockHash {
    use bitcoin::hashes::Hash as _;
    BlockHash::from_byte_array(bytes)
}
