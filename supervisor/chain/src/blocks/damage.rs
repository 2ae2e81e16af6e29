//! Property tests with random damage in records and between them: files and streams deliver the blocks that a simple model of
//! the reader of bitcoind finds in the same bytes.

use std::collections::HashSet;
use std::fs;

use bitcoin::{Block, BlockHash, Network};
use proptest::prelude::*;

use super::testing::{Files, bytes_of, drain, drain_stdin, input, records_of, regtest};
use super::verify::verify;
use super::xor::XorKey;
use super::{BlockError, Options, SourceBlock};

const BLOCKS: u32 = 12;

/// Bytes before a record.
#[derive(Clone, Debug)]
enum Junk {
    Nothing,
    Zeros(usize),
    Bytes(Vec<u8>),
    /// The first bytes of the record that follows.
    Part(usize),
    /// The record that follows, with a changed byte in its block.
    Damaged(usize),
    /// The previous record again.
    Repeated,
}

fn junk() -> impl Strategy<Value = Junk> {
    prop_oneof![
        6 => Just(Junk::Nothing),
        1 => (1usize..300).prop_map(Junk::Zeros),
        1 => proptest::collection::vec(any::<u8>(), 1..300).prop_map(Junk::Bytes),
        2 => (1usize..200).prop_map(Junk::Part),
        1 => any::<usize>().prop_map(Junk::Damaged),
        1 => Just(Junk::Repeated),
    ]
}

/// A changed byte in a record, which destroys its block. The block header stays as it is: on regtest half of all headers are valid,
/// so a changed header would make another block.
fn loss() -> impl Strategy<Value = Option<(usize, u8)>> {
    proptest::option::weighted(0.05, (any::<usize>(), 1u8..))
}

fn record(block: &[u8]) -> Vec<u8> {
    records_of(Network::Regtest, &[block.to_vec()])
}

/// The records, each with the bytes before it.
fn pieces(blocks: &[Vec<u8>], junks: &[Junk], losses: &[Option<(usize, u8)>]) -> Vec<Vec<u8>> {
    let mut before = Vec::new();
    let mut pieces = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        let whole = record(block);
        let mut piece = match &junks[number] {
            // The first bytes of an input tell its kind, so they stay intact.
            _ if number == 0 => Vec::new(),
            Junk::Nothing => Vec::new(),
            Junk::Zeros(count) => vec![0; *count],
            Junk::Bytes(bytes) => bytes.clone(),
            Junk::Part(length) => whole[..*length.min(&(whole.len() - 1))].to_vec(),
            Junk::Damaged(at) => {
                let mut damaged = whole.clone();
                damaged[88 + at % (whole.len() - 88)] ^= 1;
                damaged
            }
            Junk::Repeated => before,
        };
        before = whole.clone();
        let mut last = whole;
        if let Some((at, mask)) = losses[number].filter(|_| number > 0) {
            let at = at % (last.len() - 80);
            last[if at < 8 { at } else { at + 80 }] ^= mask;
        }
        piece.extend(last);
        pieces.push(piece);
    }
    pieces
}

/// The blocks that the reader of bitcoind finds (`LoadExternalBlockFile`). It expects a magic, a length, and an intact block. If one
/// of these is wrong, it continues one byte behind the start of the magic.
fn model(bytes: &[u8]) -> HashSet<BlockHash> {
    let mut found = HashSet::new();
    let mut at = 0;
    while at + 8 <= bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let is_head = bytes[at..at + 4] == Network::Regtest.magic().to_bytes();
        let block = bytes.get(at + 8..at + 8 + length).filter(|_| is_head && length > 80);
        match block.map(verify) {
            Some(Ok(block)) => {
                found.insert(block.block_hash());
                at += 8 + length;
            }
            _ => at += 1,
        }
    }
    found
}

/// Compares the blocks that were read with the blocks in the input. The chain must be read up to the first missing block, and there
/// must be an error if the input holds blocks above that one.
fn check(
    chain: &[Block],
    found: &HashSet<BlockHash>,
    (read, error): (Vec<SourceBlock>, Option<BlockError>),
) -> Result<(), TestCaseError> {
    let hashes: Vec<BlockHash> = chain.iter().map(Block::block_hash).collect();
    let expected: Vec<BlockHash> = hashes.iter().copied().take_while(|hash| found.contains(hash)).collect();
    let read: Vec<BlockHash> = read.iter().map(|block| block.hash).collect();
    prop_assert_eq!(&read, &expected, "{:?}", error);
    let lacks = hashes[expected.len()..].iter().any(|hash| found.contains(hash));
    prop_assert!(error.is_some() || !lacks, "a block is missing without an error");
    prop_assert!(error.is_none() || expected.len() < chain.len(), "nothing is missing: {error:?}");
    Ok(())
}

proptest! {
    #[test]
    fn files_are_read_as_bitcoind_reads_them(
        junks in proptest::collection::vec(junk(), BLOCKS as usize),
        losses in proptest::collection::vec(loss(), BLOCKS as usize),
        end in junk(),
        cut in 0..BLOCKS as usize,
        key: Option<[u8; 8]>,
    ) {
        let chain = regtest(BLOCKS);
        let pieces = pieces(&bytes_of(&chain), &junks, &losses);
        let files = Files::new();
        files.add("xor.dat", key.unwrap_or_default());
        let mut found = HashSet::new();
        let end = match end { Junk::Bytes(bytes) => bytes, Junk::Zeros(count) => vec![0; count], _ => Vec::new() };
        for (number, part) in [[&pieces[..cut], &[end]].concat(), pieces[cut..].to_vec()].iter().enumerate() {
            let mut bytes = part.concat();
            found.extend(model(&bytes));
            XorKey::from_bytes(key.unwrap_or_default()).apply(&mut bytes, 0);
            fs::write(files.path().join(format!("blk{number:05}.dat")), bytes).unwrap();
        }
        check(&chain, &found, drain(&[input(files.path())], &Options::default()))?;
    }

    #[test]
    fn streams_are_read_as_bitcoind_reads_files(
        junks in proptest::collection::vec(junk(), BLOCKS as usize),
        losses in proptest::collection::vec(loss(), BLOCKS as usize),
    ) {
        let chain = regtest(BLOCKS);
        let bytes = pieces(&bytes_of(&chain), &junks, &losses).concat();
        check(&chain, &model(&bytes), drain_stdin(&bytes, &Options::default()))?;
    }
}
