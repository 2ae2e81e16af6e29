//! Every way in which a source of blocks can fail.
//!
//! Operators read these messages. So each message says what is wrong, where (file, byte offset, height), and what to do.

use std::io;
use std::path::{Path, PathBuf};

use bitcoin::{BlockHash, Network};

use super::bip34::HeightMismatch;
use super::block::Origin;
use super::framing::{RecordDefect, XOR_KEY_BYTES, network_name};
use super::verify::BlockDefect;

/// Why blocks could not be read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A `--blocks` argument is empty.
    #[error(
        "--blocks: the argument is empty; give a file, a directory, HEIGHT=PATH, or - for standard input"
    )]
    EmptyInput,
    /// In a `--blocks` argument of the form `HEIGHT=PATH`, the number is not a height.
    #[error(
        "--blocks {input}: {number} is not a height, because heights end at {}; for a file of that name write ./{input}",
        u32::MAX
    )]
    InputHeight {
        /// The argument.
        input: String,
        /// The number before the `=`.
        number: String,
    },
    /// There is no `--blocks` argument.
    #[error(
        "there are no blocks to read: give --blocks a file, a directory, HEIGHT=PATH, or - for standard input"
    )]
    NoInputs,
    /// Standard input was given more than once.
    #[error("--blocks - was given more than once, but standard input can be read only once")]
    StdinTwice,
    /// `opaque` was combined with `check_chain`.
    #[error(
        "--opaque and --check-chain exclude each other, because opaque bytes name no previous block; give one of them"
    )]
    OpaqueChain,
    /// The operating system returned an error.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted: `open`, `read`, `list`.
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No file in a directory has the name of a block file.
    #[error(
        "{}: this directory has no block files, but {skipped} other entries; block files are named blk*.dat, *.blk, *.dat, \
         *.bin or *.raw, and the block files of bitcoind are in DATADIR/blocks",
        path.display()
    )]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
        /// How many other entries the directory has.
        skipped: usize,
    },
    /// A file is empty.
    #[error("{}: the file is empty; remove it, or give a file that holds a block", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// Blk files hold no record.
    #[error(
        "{}: {files} blk file(s) hold no block, only padding; has the initial block download of this node begun?",
        path.display()
    )]
    NoRecords {
        /// The first of the files.
        path: PathBuf,
        /// How many files were searched.
        files: usize,
    },
    /// A stream ended before its first byte.
    #[error("{}: no bytes arrived; did the command that writes the blocks fail?", path.display())]
    EmptyStream {
        /// The stream.
        path: PathBuf,
    },
    /// A block has more bytes than `max_block_bytes`.
    #[error(
        "{origin}: the block has {} bytes, more than the limit of {limit}; --max-block-bytes raises the limit",
        bytes.map_or("too many".to_owned(), |bytes| bytes.to_string())
    )]
    TooLarge {
        /// Where the block starts.
        origin: Origin,
        /// The length of the block in bytes. `None` if reading stopped at the limit.
        bytes: Option<u64>,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file `xor.dat` does not have eight bytes.
    #[error(
        "{}: the file holds {bytes} bytes, but the obfuscation key of bitcoind has {XOR_KEY_BYTES}; copy xor.dat from the node \
         again",
        path.display()
    )]
    XorKeyLength {
        /// The file `xor.dat`.
        path: PathBuf,
        /// The length of the file in bytes.
        bytes: u64,
    },
    /// A blk file or a stream starts with the magic of no network.
    #[error(
        "{origin}: {} is the magic of no known network (mainnet, testnet3, testnet4, signet, regtest); bitcoind 28.0 and later \
         obfuscates its files, so their xor.dat must lie beside them",
        hex::encode(magic)
    )]
    UnknownMagic {
        /// Where the magic was expected.
        origin: Origin,
        /// The four bytes found, after the obfuscation was removed.
        magic: [u8; 4],
    },
    /// The inputs hold records of two networks.
    #[error(
        "{origin}: this record belongs to {}, but the blocks before it belong to {}; give the blocks of one network",
        network_name(*found), network_name(*expected)
    )]
    MixedNetworks {
        /// Where the record of the other network is.
        origin: Origin,
        /// The network of the blocks before.
        expected: Network,
        /// The network of the record.
        found: Network,
    },
    /// A file or stream of raw blocks holds bytes that are not a block.
    #[error("{origin} is not a Bitcoin block ({defect}); to feed the bytes as they are, give --opaque")]
    NotABlock {
        /// Where the bytes start.
        origin: Origin,
        /// Why the bytes are not a block. Byte offsets in it count from the start of the block.
        defect: BlockDefect,
    },
    /// A block decodes and fails a check, or the block of a record does not decode.
    #[error("{origin}: the block is damaged: {defect}; replace the file with an intact copy")]
    DamagedBlock {
        /// Where the block starts. In a blk file: where its record starts.
        origin: Origin,
        /// Which check failed. Byte offsets in it count from the start of the block.
        defect: BlockDefect,
    },
    /// A record of a blk file cannot be read to its end. The iterator returns this after all blocks that can be read.
    #[error(
        "{origin}: the record is damaged: {defect}; every block that can be read was delivered. Replace the file with an intact \
         copy, or stop bitcoind while its files are read"
    )]
    DamagedRecord {
        /// Where the record starts.
        origin: Origin,
        /// What is wrong with the record.
        defect: RecordDefect,
    },
    /// A stream ends inside a block.
    #[error(
        "{origin}: the input ends inside the block that starts at byte {start}, after {intact} intact block(s); did the command \
         that writes the blocks fail?"
    )]
    StreamTruncated {
        /// The stream and the offset of its end.
        origin: Origin,
        /// The offset of the block, or of its record.
        start: u64,
        /// How many intact blocks came before.
        intact: u64,
    },
    /// An opaque stream does not consist of records.
    #[error(
        "{origin}: the input starts with {}, but opaque blocks on standard input must be records (network magic, length as u32 \
         LE, bytes), because nothing else tells where a block ends",
        hex::encode(magic)
    )]
    OpaqueStream {
        /// Where the magic was expected.
        origin: Origin,
        /// The four bytes found.
        magic: [u8; 4],
    },
    /// The scan found a block at a place, and now there is another block at this place.
    #[error(
        "{origin}: the scan found block {expected} here, and now this is block {found}, so the file has changed; stop bitcoind \
         and run again"
    )]
    Changed {
        /// Where the block is.
        origin: Origin,
        /// The hash during the scan.
        expected: BlockHash,
        /// The hash now.
        found: BlockHash,
    },
    /// A chain does not begin with a genesis block, and its first block states no height.
    #[error(
        "{origin}: the chain begins with block {hash}, which is not a genesis block and whose coinbase states no height (BIP34); \
         give --start-height, or HEIGHT=PATH"
    )]
    HeightUnknown {
        /// The first block of the chain.
        origin: Origin,
        /// The hash of that block.
        hash: BlockHash,
    },
    /// The height in `HEIGHT=PATH` contradicts the height that the first block of a chain states.
    #[error(
        "{origin}: the argument says height {asked}, but the chain begins at height {known} with block {hash}; leave out the \
         height, or also give the blocks before"
    )]
    HeightConflict {
        /// The first block of the chain.
        origin: Origin,
        /// The hash of that block.
        hash: BlockHash,
        /// The height in the argument.
        asked: u32,
        /// The height that the chain begins at.
        known: u32,
    },
    /// `--start-height` is above the end of the chain.
    #[error("{origin}: --start-height {start} is above the last block of the chain, which has height {tip}")]
    StartAboveTip {
        /// The last block of the chain.
        origin: Origin,
        /// The value of `--start-height`.
        start: u32,
        /// The height of the last block.
        tip: u32,
    },
    /// A height is not above the previous one.
    #[error(
        "{origin}: height {height} follows height {last}, but heights must rise; give the inputs in the order of their heights"
    )]
    HeightOrder {
        /// The block with the lower height.
        origin: Origin,
        /// The height of the block.
        height: u32,
        /// The height of the previous block.
        last: u32,
    },
    /// A block follows the highest possible height.
    #[error(
        "{origin}: this block would be above height {}, the highest possible height; give lower heights",
        u32::MAX
    )]
    HeightOverflow {
        /// The block without a height.
        origin: Origin,
    },
    /// With `check_chain`: a block names another block as its parent.
    #[error(
        "{origin}: block {height} names {previous} as the block before it, but block {last_height} is {last}; give the blocks of \
         one chain in order, or leave out --check-chain"
    )]
    NotLinked {
        /// The block that does not follow.
        origin: Origin,
        /// The height of the block.
        height: u32,
        /// The parent that the block names.
        previous: BlockHash,
        /// The hash of the previous block.
        last: BlockHash,
        /// The height of the previous block.
        last_height: u32,
    },
    /// Heights are missing between two blocks.
    #[error(
        "{origin}: this is block {height}, and the last block before it is block {last_height}: {}; give the missing blocks, or \
         allow gaps with --allow-gaps",
        missing(last_height.saturating_add(1), *height)
    )]
    HeightGap {
        /// The block above the gap.
        origin: Origin,
        /// The height of the block.
        height: u32,
        /// The height below the gap.
        last_height: u32,
    },
    /// A chain begins above the next height to index.
    #[error(
        "{origin}: the chain in these files begins at height {first} with block {hash}, and the next block to index is \
         {wanted}: {}; give the files with the missing blocks (was a file not copied, or is a disk not mounted?), or begin at \
         height {first} in a new --db-path, with --start-height {first} (cofferdam node: --start-block {first})",
        missing(*wanted, *first)
    )]
    ChainStartsTooHigh {
        /// The first block of the chain.
        origin: Origin,
        /// The hash of that block.
        hash: BlockHash,
        /// The height of that block.
        first: u32,
        /// The next height to index.
        wanted: u32,
    },
    /// A block above the end of the chain has a parent that no file holds. The iterator returns this after all blocks.
    #[error(
        "{origin}: block {hash}{} names {previous} as the block before it, and no file given holds that block; every block up to \
         height {tip} was delivered. Give the missing file, or replace the damaged file with an intact copy",
        height.map_or_else(String::new, |height| format!(" (height {height})"))
    )]
    MissingAncestor {
        /// The block above the missing one.
        origin: Origin,
        /// The hash of the block.
        hash: BlockHash,
        /// The height that the block states, if it states one.
        height: Option<u32>,
        /// The hash of the missing block.
        previous: BlockHash,
        /// The height of the last block that can be read.
        tip: u32,
    },
    /// A block cannot have the height that it would be indexed at.
    #[error(
        "{origin}: block {hash} would be indexed at height {height}, but {mismatch}; {}",
        advice(*mismatch)
    )]
    WrongHeight {
        /// Where the block is.
        origin: Origin,
        /// The hash of the block.
        hash: BlockHash,
        /// The height that the block would be indexed at.
        height: u32,
        /// Why the block cannot have that height.
        mismatch: HeightMismatch,
    },
}

cofferdam_protocol::debug_as_display!(BlockError);

/// Says which heights are missing, from `from` to below `to`.
fn missing(from: u32, to: u32) -> String {
    match to.saturating_sub(1) {
        last if last <= from => format!("block {from} is missing"),
        last => format!("blocks {from} to {last} are missing"),
    }
}

/// Says what to do about a block with a wrong height.
fn advice(mismatch: HeightMismatch) -> String {
    match mismatch {
        HeightMismatch::Stated(height) => format!("write {height}=PATH, or give --start-height {height}"),
        HeightMismatch::Genesis => "leave out the height and --start-height".to_owned(),
        HeightMismatch::NotGenesis => {
            "give the height of the block: HEIGHT=PATH, or --start-height".to_owned()
        }
        HeightMismatch::NotStated(_) => {
            "give the right height of the block: HEIGHT=PATH, or --start-height".to_owned()
        }
    }
}

impl BlockError {
    /// Whether blocks are missing or damaged, and all blocks that were delivered before are good. Another source can then
    /// continue from there.
    pub fn is_incomplete(&self) -> bool {
        matches!(
            self,
            Self::DamagedBlock { .. }
                | Self::DamagedRecord { .. }
                | Self::StreamTruncated { .. }
                | Self::Changed { .. }
                | Self::MissingAncestor { .. }
        )
    }

    /// Makes [`BlockError::Io`], for `map_err`.
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
