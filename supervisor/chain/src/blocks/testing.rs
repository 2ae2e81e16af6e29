//! Helpers for the tests of this module: real blocks, which are cut out of the bundled files without the code under test, and files
//! that are made of blocks.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use bitcoin::block::Version;
use bitcoin::consensus::serialize;
use bitcoin::constants::genesis_block;
use bitcoin::script::Builder;
use bitcoin::{Block, Network};
use cofferdam_test_skips::skip;

use super::open::open_with;
use super::{BlockError, BlockInput, BlockSource, Options, SourceBlock};

/// Blocks 0 to 438 of mainnet.
const EARLY: &[u8] = include_bytes!("../../bundled/mainnet-0-438.blk");

/// Blocks 0 to 438 of mainnet, one by one.
pub(super) fn early_blocks() -> Vec<Vec<u8>> {
    let mut rest = EARLY;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        blocks.push(rest[8..8 + length].to_vec());
        rest = &rest[8 + length..];
    }
    assert_eq!(blocks.len(), 439);
    blocks
}

/// Block 702861 of mainnet.
pub(super) fn block_702861() -> &'static [u8] {
    bitcoin_test_data::blocks::mainnet_702861()
}

/// Blk records of these blocks, for mainnet.
pub(super) fn records(blocks: &[Vec<u8>]) -> Vec<u8> {
    records_of(Network::Bitcoin, blocks)
}

/// Blk records of these blocks.
pub(super) fn records_of(network: Network, blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in blocks {
        bytes.extend(network.magic().to_bytes());
        bytes.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        bytes.extend(block);
    }
    bytes
}

/// Makes a regtest block on top of another one, or returns the genesis block if there is none. Blocks that differ only in `branch`
/// are siblings. From version 2 on, the coinbase states the height.
pub(super) fn mine(previous: Option<&Block>, version: i32, height: u32, branch: u32) -> Block {
    let mut block = genesis_block(Network::Regtest);
    let Some(previous) = previous else { return block };
    block.header.version = Version::from_consensus(version);
    block.header.prev_blockhash = previous.block_hash();
    block.header.time = branch;
    if version >= 2 {
        let script = Builder::new().push_int(height.into()).push_int(0).into_script();
        block.txdata[0].input[0].script_sig = script;
    }
    block.header.merkle_root = block.compute_merkle_root().unwrap();
    // Every second hash meets the target of regtest.
    while !block.header.target().is_met_by(block.block_hash()) {
        block.header.nonce += 1;
    }
    block
}

/// A regtest chain of `length` blocks, which begins with the genesis block.
pub(super) fn regtest(length: u32) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for height in 0..length {
        blocks.push(mine(blocks.last(), 4, height, 0));
    }
    blocks
}

/// The serialised blocks.
pub(super) fn bytes_of(blocks: &[Block]) -> Vec<Vec<u8>> {
    blocks.iter().map(serialize).collect()
}

/// A temporary directory of files.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn add(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// An input without a height.
pub(super) fn input(path: impl AsRef<Path>) -> BlockInput {
    at(None, path)
}

/// An input with a height.
pub(super) fn at(height: Option<u32>, path: impl AsRef<Path>) -> BlockInput {
    BlockInput::Path { path: path.as_ref().to_owned(), height }
}

/// Opens inputs, with nothing on standard input.
pub(super) fn open(inputs: &[BlockInput], options: &Options) -> Result<BlockSource, BlockError> {
    open_with(inputs, options, &mut |_, _| {}, Box::new(std::io::empty()))
}

/// Reads all blocks of the inputs. Returns the blocks, and the error after them.
pub(super) fn drain(inputs: &[BlockInput], options: &Options) -> (Vec<SourceBlock>, Option<BlockError>) {
    match open(inputs, options) {
        Ok(source) => collect(source),
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// The same for standard input.
pub(super) fn drain_stdin(bytes: &[u8], options: &Options) -> (Vec<SourceBlock>, Option<BlockError>) {
    let stdin = Box::new(Dribble(Cursor::new(bytes.to_vec())));
    let inputs = [BlockInput::Stdin { height: None }];
    collect(open_with(&inputs, options, &mut |_, _| {}, stdin).unwrap())
}

fn collect(source: BlockSource) -> (Vec<SourceBlock>, Option<BlockError>) {
    let mut blocks = Vec::new();
    for item in source {
        match item {
            Ok(block) => blocks.push(block),
            Err(error) => return (blocks, Some(error)),
        }
    }
    (blocks, None)
}

/// A file among the real blocks that `COFFERDAM_SHARED` names. Without that variable, the test is skipped and says so.
pub(super) fn shared(name: &str) -> Option<PathBuf> {
    match std::env::var_os("COFFERDAM_SHARED") {
        Some(directory) => Some(PathBuf::from(directory).join("blocks").join(name)),
        None => {
            skip(format_args!("COFFERDAM_SHARED is not set to a directory with blocks/{name} in it"));
            None
        }
    }
}

/// The heights of blocks.
pub(super) fn heights(blocks: &[SourceBlock]) -> Vec<u32> {
    blocks.iter().map(|block| block.height).collect()
}

/// Delivers its bytes in small pieces, as a pipe may.
struct Dribble(Cursor<Vec<u8>>);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1021);
        self.0.read(&mut buffer[..length])
    }
}
