//! Blocks and guests that tests give to a command.

use std::path::PathBuf;

use cofferdam_test_skips::skip;

use super::binary::repository;

/// A file of the data that is shared between the projects' machines. Without it a test passes, but says so.
pub fn shared_blocks(name: &str) -> Option<PathBuf> {
    let beside = repository().join("../shared");
    let directory = std::env::var_os("COFFERDAM_SHARED").map_or(beside, PathBuf::from);
    let path = directory.join("blocks").join(name);
    if path.is_file() {
        return Some(path);
    }
    skip(format_args!("{name} is not there: set COFFERDAM_SHARED to the directory of shared data"));
    None
}

/// Mainnet's blocks 0 to 438, as bitcoind keeps them.
pub const EARLY_RECORDS: &[u8] = include_bytes!("../../../supervisor/chain/bundled/mainnet-0-438.blk");

/// The raw blocks in blk records, cut apart by hand.
pub fn cut_records(mut records: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    while let Some((head, rest)) = records.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (block, rest) = rest.split_at(length);
        blocks.push(block.to_vec());
        records = rest;
    }
    blocks
}

/// One blk record of mainnet.
pub fn record(block: &[u8]) -> Vec<u8> {
    let length = u32::try_from(block.len()).expect("a block is short");
    [&[0xf9, 0xbe, 0xb4, 0xd9], length.to_le_bytes().as_slice(), block].concat()
}

/// Blocks for the guest `cli_sums.wat`: `count` of them, all different, with so many rounds of work each.
pub fn sums_blocks(count: u32, rounds: u32) -> Vec<Vec<u8>> {
    let block = |number: u32| [rounds.to_le_bytes(), number.to_le_bytes()].concat();
    (0..count).map(block).collect()
}

/// A path below `tests/guests`.
pub fn guest(name: &str) -> PathBuf {
    repository().join("tests/guests").join(name)
}
