//! Every way in which a source of blocks can fail. An operator reads these at three in the morning, so each
//! message says what was wrong, where (file, byte offset, height), and what can be done about it.

use std::io;
use std::path::PathBuf;

use bitcoin::{BlockHash, Network};

use super::bip34::Contradiction;
use super::framing::{Tear, network_name};
use super::verify::Defect;
use super::{Origin, framing::XOR_KEY_BYTES};

/// Why blocks could not be read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// A `--blocks` argument was empty.
    #[error(
        "--blocks: the argument is empty; give a file, a directory, HEIGHT=PATH, or - for standard input"
    )]
    EmptyInput,
    /// A `--blocks` argument of the form `HEIGHT=PATH` whose number is no height.
    #[error(
        "--blocks {input}: {number} is not a height, which is at most {}; for a file of that name write \
         ./{input}",
        u32::MAX
    )]
    InputHeight {
        /// The argument as given.
        input: String,
        /// What stood before the `=`.
        number: String,
    },
    /// No `--blocks` argument at all.
    #[error("no blocks: give --blocks a file, a directory, HEIGHT=PATH, or - for standard input")]
    NoInputs,
    /// Standard input was asked for more than once.
    #[error("--blocks - was given more than once; standard input can be read only once")]
    StdinTwice,
    /// `opaque` together with `check_chain`.
    #[error(
        "opaque bytes name no previous block, so the chain cannot be checked: give --opaque or --check-chain"
    )]
    OpaqueChain,
    /// The operating system refused something.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: `open`, `read`, `list`.
        action: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// A directory without a single file that looks like blocks.
    #[error(
        "{}: no block files in this directory ({skipped} other entries): expected blk*.dat, *.blk, *.dat, \
         *.bin or *.raw; bitcoind keeps its own in DATADIR/blocks",
        path.display()
    )]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
        /// How many entries of it were passed over.
        skipped: usize,
    },
    /// A file of no bytes.
    #[error("{}: the file is empty; remove it or give one that holds a block", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// Blk files in which no record was found.
    #[error(
        "{}: no block in {files} blk file(s), only padding; is this node's initial download still to come?",
        path.display()
    )]
    NoRecords {
        /// The first of the files.
        path: PathBuf,
        /// How many were searched.
        files: usize,
    },
    /// A stream that ended before its first byte.
    #[error("{}: not a single byte came; did the command that should write the blocks fail?", path.display())]
    EmptyStream {
        /// The stream.
        path: PathBuf,
    },
    /// More bytes than `max_block_bytes`.
    #[error(
        "{origin}: the block has {} bytes, more than the limit of {limit}; --max-block-bytes raises it",
        bytes.map_or("too many".to_owned(), |bytes| bytes.to_string())
    )]
    TooLarge {
        /// Where the block starts.
        origin: Origin,
        /// Its length in bytes; `None` if reading was given up at the limit.
        bytes: Option<u64>,
        /// The limit in bytes.
        limit: u64,
    },
    /// An `xor.dat` of another length than eight bytes.
    #[error(
        "{}: holds {bytes} bytes where bitcoind's obfuscation key has {XOR_KEY_BYTES}; copy the node's \
         xor.dat again",
        path.display()
    )]
    XorKeyLength {
        /// The file `xor.dat`.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// A blk file or stream that starts with the magic of no network.
    #[error(
        "{origin}: {} is the magic of no known network (mainnet, testnet3, testnet4, signet, regtest); \
         bitcoind 28.0 and later obfuscates its files, so their xor.dat must lie beside them",
        hex::encode(magic)
    )]
    UnknownMagic {
        /// Where.
        origin: Origin,
        /// The four bytes found, after de-obfuscation.
        magic: [u8; 4],
    },
    /// Records of two networks in one run.
    #[error(
        "{origin}: a record of {} among blocks of {}; give one network at a time",
        network_name(*found), network_name(*expected)
    )]
    MixedNetworks {
        /// Where the foreign record is.
        origin: Origin,
        /// The network so far.
        expected: Network,
        /// The network of the record.
        found: Network,
    },
    /// Bytes that are no block, where a file or stream of raw blocks was expected.
    #[error("{origin} is not a Bitcoin block ({defect}); give --opaque to feed the bytes as they are")]
    NotABlock {
        /// Where the bytes start.
        origin: Origin,
        /// What was wrong with them; byte offsets in it count from the start of the block.
        defect: Defect,
    },
    /// A block that decodes, but is damaged, or a record that does not decode.
    #[error("{origin}: the block is damaged: {defect}; replace the file with an intact copy")]
    Damaged {
        /// Where the block (in a blk file: its record) starts.
        origin: Origin,
        /// What was wrong with it; byte offsets in it count from the start of the block.
        defect: Defect,
    },
    /// A record of a blk file that could not be read to its end. Given last, after every block that could be
    /// had.
    #[error(
        "{origin}: torn record: {tear}; every block that could be read was delivered. Replace it with an \
         intact copy, or stop bitcoind while its files are read"
    )]
    Torn {
        /// Where the record starts.
        origin: Origin,
        /// What was wrong with it.
        tear: Tear,
    },
    /// A stream that ends inside a block.
    #[error(
        "{origin}: the input ends in the middle of a block that starts at byte {start}; {whole} whole \
         block(s) came before it"
    )]
    StreamCut {
        /// The stream and the offset of its end.
        origin: Origin,
        /// Offset of the block, or of its record.
        start: u64,
        /// How many blocks were whole.
        whole: u64,
    },
    /// An opaque stream without records.
    #[error(
        "{origin}: opaque blocks on standard input must come as records (network magic, length as u32 LE, \
         bytes), since nothing else says where one ends; it starts with {}",
        hex::encode(magic)
    )]
    OpaqueStream {
        /// Where.
        origin: Origin,
        /// The four bytes found.
        magic: [u8; 4],
    },
    /// A block that is not the one which was found there when the files were scanned.
    #[error(
        "{origin}: block {found} is where the scan had found {expected}; the file was changed meanwhile: \
         run again, with bitcoind stopped"
    )]
    Changed {
        /// Where.
        origin: Origin,
        /// Hash at the time of the scan.
        expected: BlockHash,
        /// Hash now.
        found: BlockHash,
    },
    /// A chain that begins with no genesis block, and whose first block does not say its height.
    #[error(
        "{origin}: the chain begins with block {hash}, which is no genesis block and whose coinbase names \
         no height (BIP34); give --start-height, or HEIGHT=PATH"
    )]
    HeightUnknown {
        /// The first block of the chain.
        origin: Origin,
        /// Its hash.
        hash: BlockHash,
    },
    /// `HEIGHT=PATH` or `--start-height` against what the first block of a chain says of itself.
    #[error(
        "{origin}: height {asked} was asked for, but the chain begins at height {known} with block {hash}; \
         leave the height away or give the blocks before"
    )]
    HeightConflict {
        /// The first block of the chain.
        origin: Origin,
        /// Its hash.
        hash: BlockHash,
        /// The height asked for.
        asked: u32,
        /// The height the chain begins at.
        known: u32,
    },
    /// `--start-height` above the end of the chain.
    #[error("{origin}: --start-height {start} is above the last block of the chain, height {tip}")]
    StartAboveTip {
        /// The last block of the chain.
        origin: Origin,
        /// The height asked for.
        start: u32,
        /// Height of the last block.
        tip: u32,
    },
    /// A height that is not above the one before.
    #[error(
        "{origin}: height {height} follows height {last}, but heights must rise; put the inputs in order of \
         height"
    )]
    HeightOrder {
        /// The block that is too low.
        origin: Origin,
        /// Its height.
        height: u32,
        /// The height before it.
        last: u32,
    },
    /// A block after the highest height there is.
    #[error(
        "{origin}: this block would be above height {}, the highest there is; give lower heights",
        u32::MAX
    )]
    HeightOverflow {
        /// The block without a height.
        origin: Origin,
    },
    /// With `check_chain`: a block that names another as the one before it.
    #[error(
        "{origin}: block {height} names {previous} as the block before it, but block {last_height} is \
         {last}; give the blocks of one chain in order, or leave --check-chain away"
    )]
    NotLinked {
        /// The block that does not fit.
        origin: Origin,
        /// Its height.
        height: u32,
        /// The block it names.
        previous: BlockHash,
        /// The block that came before it.
        last: BlockHash,
        /// The height of that block.
        last_height: u32,
    },
    /// Heights with a gap between them.
    #[error(
        "{origin}: this is block {height}, and the newest before it is block {last_height}: {}; give what is missing, \
         or --allow-gaps if it is meant so",
        missing(last_height.saturating_add(1), *height)
    )]
    Gap {
        /// The block after the gap.
        origin: Origin,
        /// Its height.
        height: u32,
        /// The height before the gap.
        last_height: u32,
    },
    /// A chain that begins above the height that is wanted.
    #[error(
        "{origin}: the chain in these files begins at height {first} with block {hash}, and the next block to index is \
         {wanted}: {}; give the files that hold them (was one not copied, or is a disk not mounted?), or begin at \
         height {first} in a new --db-path, with --start-height {first} (cofferdam node: --start-block {first})",
        missing(*wanted, *first)
    )]
    BeginsAbove {
        /// The first block of the chain.
        origin: Origin,
        /// Its hash.
        hash: BlockHash,
        /// Its height.
        first: u32,
        /// The height that would be indexed next.
        wanted: u32,
    },
    /// Blocks above the end of the chain, to which the ones between are missing. Given last.
    #[error(
        "{origin}: block {hash}{} names {previous} as the block before it, and no file given holds that one; every \
         block up to height {tip} was delivered. Give the missing file, or replace the damaged one with an intact copy",
        height.map_or_else(String::new, |height| format!(" (height {height})"))
    )]
    Hole {
        /// The block behind the hole.
        origin: Origin,
        /// Its hash.
        hash: BlockHash,
        /// The height that it names, if it does.
        height: Option<u32>,
        /// The hash of the block that is missing.
        previous: BlockHash,
        /// The end of the chain before the hole.
        tip: u32,
    },
    /// A block that cannot be at the height which it would be indexed at.
    #[error(
        "{origin}: block {hash} would be indexed at height {height}, but {contradiction}; {}",
        at_its_height(*contradiction)
    )]
    OtherHeight {
        /// Where the block is.
        origin: Origin,
        /// Its hash.
        hash: BlockHash,
        /// The height that it would be indexed at.
        height: u32,
        /// Why it cannot be there.
        contradiction: Contradiction,
    },
}

cofferdam_protocol::debug_as_display!(BlockError);

/// Which heights are missing: from `from` on, below `to`.
fn missing(from: u32, to: u32) -> String {
    match to.saturating_sub(1) {
        last if last <= from => format!("block {from} is missing"),
        last => format!("blocks {from} to {last} are missing"),
    }
}

/// What to do about a block that is not at its height.
fn at_its_height(contradiction: Contradiction) -> String {
    match contradiction {
        Contradiction::Named(height) => format!("write {height}=PATH, or give --start-height {height}"),
        Contradiction::Genesis => "leave the height away, and --start-height too".to_owned(),
        Contradiction::NotGenesis => "say its height: HEIGHT=PATH, or --start-height".to_owned(),
        Contradiction::Unnamed(_) => "say the height that it has: HEIGHT=PATH, or --start-height".to_owned(),
    }
}

impl BlockError {
    /// Whether blocks are missing or damaged while those given before are good: another source can go on from there.
    pub fn is_incomplete(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Torn { .. }
                | Self::StreamCut { .. }
                | Self::Changed { .. }
                | Self::Hole { .. }
        )
    }

    /// An [`BlockError::Io`], for `map_err`.
    pub(super) fn io(path: &std::path::Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
