//! Where blocks come from: every source that `cofferdam run --blocks PATH…|-` takes, behind one iterator.
//!
//! An indexer's state is only as good as the bytes it was fed, so nothing leaves this module that was not
//! checked: a block decodes to its last byte, its merkle root and witness commitment are those of its
//! transactions, its hash meets its own target. Bitcoind writes blocks in the order of their arrival, stale
//! branches among them; the chain with the most work is picked here, so that the rest of the program sees
//! heights that only rise.
//!
//! The parts, from the outside in: [`BlockInput`] (one argument), `discover` (which files that means), `plan`
//! (what is read, under which heights), [`BlockSource`] (the iterator), `scan`, `records`, `branches` and `chain`
//! (blk files to a chain), `stream` and `window` (standard input), `verify` and `bip34` (one block), `gaps` (what
//! lies between blocks), `store` and `framing` (bytes, records, obfuscation).
//!
//! Beside this stands the chain of a running node, which has no end and takes blocks back: [`Feed`] is the interface,
//! [`daemon`] the source.
//!
//! Sources are read lazily: memory holds one block, and of a chain from blk files some 170 bytes a block
//! while its headers are sorted, 56 afterwards.

mod bip34;
mod branches;
#[cfg(feature = "bundled")]
mod bundled;
mod chain;
#[cfg(test)]
mod damage;
mod discover;
mod error;
mod framing;
mod gaps;
mod input;
mod numbering;
mod plan;
mod recorder;
mod records;
mod scan;
mod source;
mod store;
mod stream;
#[cfg(test)]
mod testing;
mod verify;
mod window;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use bitcoin::{BlockHash, Network};
use cofferdam_protocol::profile::Hash;

pub use bip34::Contradiction;
#[cfg(feature = "bundled")]
pub use bundled::bundled;
pub use error::BlockError;
pub use framing::Tear;
pub use input::BlockInput;
pub use plan::open;
pub use source::BlockSource;
pub use verify::{Defect, verify};

/// The largest serialised block that Bitcoin's consensus allows, in bytes: 4,000,000 weight units, each of
/// which is at most one byte (BIP141).
pub const MAX_BLOCK_BYTES: u64 = 4_000_000;

/// One block, ready to be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceBlock {
    /// Its height: 0 is the genesis block. Heights of one source strictly rise.
    pub height: u32,
    /// Its hash; for opaque bytes the double SHA-256 of all of them. Displayed reversed, as usual.
    pub hash: BlockHash,
    /// The hash of the block before it; `None` for opaque bytes, which name none.
    pub previous: Option<BlockHash>,
    /// The serialised block, exactly as it was stored (after removal of bitcoind's obfuscation).
    pub bytes: Vec<u8>,
    /// Where it was read, for error messages.
    pub origin: Origin,
}

impl SourceBlock {
    /// Bytes of which nothing is known, from `origin`, as a block at `height`.
    pub fn opaque(height: u32, bytes: Vec<u8>, origin: Origin) -> Self {
        Self { height, hash: verify::opaque_hash(&bytes), previous: None, bytes, origin }
    }
}

/// A block with the hash that the digest needs, computed where there is time for it.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The block.
    pub block: SourceBlock,
    /// SHA-256 of its bytes.
    pub sha256: Hash,
}

impl From<SourceBlock> for Hashed {
    fn from(block: SourceBlock) -> Self {
        let sha256 = Hash::of(&block.bytes);
        Self { block, sha256 }
    }
}

/// Where bytes came from: a file (or `standard input`) and an offset in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file as it was named, `standard input`, or `bundled:NAME`.
    pub file: Arc<Path>,
    /// Offset in bytes from the start of the file; that of the record's magic in a blk file, that of the
    /// block itself elsewhere.
    pub offset: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file.display(), self.offset)
    }
}

/// How sources are read. The default is that of `cofferdam run` without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The first height. Blocks that do not say where they belong are numbered from it (else from 0); of a
    /// chain whose heights are known (it begins with a genesis block, or its first coinbase names its height)
    /// the blocks below it are skipped.
    pub start_height: Option<u32>,
    /// What whoever asks has already, if anything. The first new block is to follow it. A chain from blk files begins with
    /// the newest block that is known, without reading what is before, or with its last block if it does not reach so far;
    /// its links have proved the rest. Other sources give all their blocks.
    pub known: Option<Known>,
    /// Whether every block must name the one before it and be one higher. Chains from blk files always are
    /// so.
    pub check_chain: bool,
    /// Whether heights may be left out: between blocks, and between those that are known and those that are new.
    pub allow_gaps: bool,
    /// Whether the bytes are fed as they are: files whole, standard input in blk records, nothing checked.
    pub opaque: bool,
    /// Longest block that is accepted, in bytes. Nothing longer is ever held in memory.
    pub max_block_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start_height: None,
            known: None,
            check_chain: false,
            allow_gaps: false,
            opaque: false,
            max_block_bytes: MAX_BLOCK_BYTES,
        }
    }
}

/// The blocks that whoever asks has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The lowest height.
    pub first: u32,
    /// The newest height.
    pub tip: u32,
    /// How many blocks below the newest are given again, to be compared.
    pub again: u32,
}

/// A block as a part of a source delivers it, before it has its final height.
#[derive(Debug)]
struct Unnumbered {
    /// The height that the part knows; `None` lets it follow the block before.
    height: Option<u32>,
    hash: BlockHash,
    previous: Option<BlockHash>,
    /// What it says of its height, where that is not proved yet.
    claim: Option<bip34::Claim>,
    bytes: Vec<u8>,
    origin: Origin,
}
