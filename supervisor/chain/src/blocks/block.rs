//! A block, where it was read, and its hash: the types that all other files share.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bitcoin::{Block, BlockHash};
use cofferdam_protocol::profile::Hash;

use super::bip34::HeightClaim;
use super::verify::opaque_hash;

/// A block that is ready to be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceBlock {
    /// The height of the block. The genesis block has height 0. The heights of one source strictly rise.
    pub height: u32,
    /// The hash of the block. For opaque bytes: the double SHA-256 of all bytes. It is displayed in reverse byte order, as
    /// is usual for Bitcoin.
    pub hash: BlockHash,
    /// The hash of the previous block. `None` for opaque bytes, which name no previous block.
    pub previous: Option<BlockHash>,
    /// The serialised block as it was stored, after the obfuscation of bitcoind was removed.
    pub bytes: Vec<u8>,
    /// Where the block was read, for error messages.
    pub origin: Origin,
}

impl SourceBlock {
    /// Makes a block of bytes that are not interpreted.
    pub fn opaque(height: u32, bytes: Vec<u8>, origin: Origin) -> Self {
        Self { height, hash: opaque_hash(&bytes), previous: None, bytes, origin }
    }
}

/// A block and the SHA-256 of its bytes, which the digest of the chain needs.
///
/// The hash is computed when the block is converted, so a thread that reads ahead can compute it.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The block.
    pub block: SourceBlock,
    /// The SHA-256 of the bytes of the block.
    pub sha256: Hash,
}

impl From<SourceBlock> for Hashed {
    fn from(block: SourceBlock) -> Self {
        let sha256 = Hash::of(&block.bytes);
        Self { block, sha256 }
    }
}

/// Where bytes were read: a file and an offset in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The path of the file as the user gave it, `standard input`, or `bundled:NAME`.
    pub file: Arc<Path>,
    /// The offset in bytes from the start of the file. In a blk file: the offset of the magic of the record. Elsewhere: the
    /// offset of the block.
    pub offset: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file.display(), self.offset)
    }
}

/// A block that was read, and has no final height yet.
#[derive(Debug)]
pub(super) struct ReadBlock {
    /// The height, if the part of the source knows it. `None`: the block follows the block before it.
    pub(super) height: Option<u32>,
    pub(super) hash: BlockHash,
    pub(super) previous: Option<BlockHash>,
    /// What the block says about its height, if that has not been checked yet.
    pub(super) claim: Option<HeightClaim>,
    pub(super) bytes: Vec<u8>,
    pub(super) origin: Origin,
}

impl ReadBlock {
    /// A decoded block, without a height.
    pub(super) fn decoded(block: &Block, bytes: Vec<u8>, origin: Origin) -> Self {
        let (previous, claim) = (Some(block.header.prev_blockhash), Some(HeightClaim::of(block)));
        Self { height: None, hash: block.block_hash(), previous, claim, bytes, origin }
    }

    /// Bytes that are not interpreted, without a height.
    pub(super) fn opaque(bytes: Vec<u8>, origin: Origin) -> Self {
        Self { height: None, hash: opaque_hash(&bytes), previous: None, claim: None, bytes, origin }
    }
}
