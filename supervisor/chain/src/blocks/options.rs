//! How blocks are read.

/// The length of the longest serialised block that the consensus rules of Bitcoin allow, in bytes: a block has at most
/// 4,000,000 weight units, and a byte is at least one weight unit (BIP141).
pub const MAX_BLOCK_BYTES: u64 = 4_000_000;

/// How blocks are read. The default is what `cofferdam run` uses without options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The first height.
    ///
    /// A block that does not state its height is numbered from here, or from 0 if this is `None`. The height of a chain is
    /// known if the chain begins with a genesis block, or if its first coinbase states a height. Of such a chain, the blocks
    /// below the first height are skipped.
    pub start_height: Option<u32>,
    /// The blocks that the caller has already, if any. The first new block must follow the newest of them.
    ///
    /// From blk files, the first delivered block is [`IndexedRange::overlap`] blocks below the newest indexed block. The blocks
    /// before the first delivered block are not read, because the hashes in the headers prove them. If the chain ends before the
    /// first block to deliver, only the last block of the chain is delivered. Other sources deliver all their blocks.
    pub indexed: Option<IndexedRange>,
    /// Whether each block must name the block before it as its parent, and have the next height. Chains from blk files always
    /// satisfy this.
    pub check_chain: bool,
    /// Whether heights may be missing between two blocks, and between the indexed blocks and the first new block.
    pub allow_gaps: bool,
    /// Whether bytes are delivered without interpretation: a file is one block, standard input is read as records, and
    /// nothing is checked.
    pub opaque: bool,
    /// The length of the longest block that is accepted, in bytes. Nothing longer is ever held in memory.
    pub max_block_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start_height: None,
            indexed: None,
            check_chain: false,
            allow_gaps: false,
            opaque: false,
            max_block_bytes: MAX_BLOCK_BYTES,
        }
    }
}

/// The blocks that the caller has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedRange {
    /// The lowest height.
    pub first: u32,
    /// The highest height.
    pub tip: u32,
    /// How many blocks below `tip` are delivered again, so that the caller can compare them.
    pub overlap: u32,
}
