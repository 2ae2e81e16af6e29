//! A chain of blocks that are scattered over blk files: the branch with the most work, read block by block.

use std::collections::HashMap;
use std::vec;

use bitcoin::{Block, BlockHash};

use super::bip34::HeightClaim;
use super::block::{Origin, ReadBlock};
use super::branches::walk_back;
use super::byte_source::{BlkFile, ByteReader};
use super::error::BlockError;
use super::framing::HEAD_BYTES;
use super::options::IndexedRange;
use super::scan::{Entry, Index, Place};
use super::verify::verify;

/// A chain of blocks in a set of blk files, of which some or all blocks are still to be read.
#[derive(Debug)]
pub(super) struct BestChain {
    files: Vec<BlkFile>,
    links: vec::IntoIter<Link>,
    /// The height of the next block.
    next: u64,
    /// How many blocks are skipped because they are indexed already.
    already_indexed: u64,
    /// The file of the previous block. The next block is mostly in the same file.
    open: Option<(u32, ByteReader)>,
    /// The other places of blocks, in case that the first copy of a block is damaged.
    copies: HashMap<BlockHash, Vec<Place>>,
    limit: u64,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    hash: BlockHash,
    place: Place,
}

impl From<&Entry> for Link {
    fn from(entry: &Entry) -> Self {
        Self { hash: entry.hash, place: entry.place }
    }
}

impl BestChain {
    /// A chain without blocks. `copies` are the other places of blocks, and `limit` is the most bytes of a block.
    pub(super) fn new(files: Vec<BlkFile>, copies: HashMap<BlockHash, Vec<Place>>, limit: u64) -> Self {
        let links = Vec::new().into_iter();
        Self { files, links, next: 0, already_indexed: 0, open: None, copies, limit }
    }

    /// Selects the branch that ends with the block `tip` of the index. [`Self::start_at`] sets its heights.
    pub(super) fn select(&mut self, index: &Index, tip: u32) {
        let mut links: Vec<_> = walk_back(index, tip).map(Link::from).collect();
        links.reverse();
        self.links = links.into_iter();
    }

    /// How many blocks are still to be read.
    pub(super) fn remaining(&self) -> u64 {
        self.links.len() as u64
    }

    /// How many blocks are skipped because they are indexed already.
    pub(super) fn already_indexed(&self) -> u64 {
        self.already_indexed
    }

    /// The place and the hash of the next block.
    pub(super) fn first(&self) -> Option<(Origin, BlockHash)> {
        self.links.as_slice().first().map(|link| (self.origin(link.place), link.hash))
    }

    /// What the next block says about its height. Reads the block.
    pub(super) fn root_claim(&mut self) -> Result<Option<HeightClaim>, BlockError> {
        let Some(link) = self.links.as_slice().first().copied() else { return Ok(None) };
        let (block, _, _) = self.read_intact(link)?;
        Ok(Some(HeightClaim::of(&block)))
    }

    /// The place of the block of `entry`, and the height that the block states. `entry` may be any block of the scan. Reads the
    /// block.
    pub(super) fn stated_height(&mut self, entry: &Entry) -> Result<(Origin, Option<u32>), BlockError> {
        let (block, _, origin) = self.read_intact(entry.into())?;
        Ok((origin, HeightClaim::of(&block).stated()))
    }

    /// Gives the first block its height. Then skips the blocks below `start`, and the indexed blocks that need not be delivered
    /// again.
    ///
    /// # Errors
    /// [`BlockError::StartAboveTip`] if all blocks are below `start`; [`BlockError::HeightOverflow`] if heights run out.
    pub(super) fn start_at(
        &mut self,
        height: u32,
        start: u32,
        indexed: Option<IndexedRange>,
    ) -> Result<(), BlockError> {
        let Some(origin) = self.links.as_slice().last().map(|link| self.origin(link.place)) else {
            return Ok(());
        };
        self.next = u64::from(height);
        let Some((_, tip)) = self.heights() else { return Err(BlockError::HeightOverflow { origin }) };
        if start > tip {
            return Err(BlockError::StartAboveTip { origin, start, tip });
        }
        let again = indexed.map_or(0, |indexed| indexed.tip.saturating_sub(indexed.overlap));
        let first = start.max(again.min(tip));
        // Skipped blocks below the indexed range are not indexed, so they do not count.
        let counted_from = start.max(height).max(indexed.map_or(first, |indexed| indexed.first));
        self.already_indexed = u64::from(first.saturating_sub(counted_from));
        let skip = first.saturating_sub(height);
        self.next += u64::from(skip);
        self.links.by_ref().take(skip as usize).for_each(drop);
        Ok(())
    }

    /// The heights of the first and the last block that are still to be read. `None` if they exceed the range of heights.
    pub(super) fn heights(&self) -> Option<(u32, u32)> {
        let last = (self.next + self.remaining()).saturating_sub(1);
        u32::try_from(self.next).ok().zip(u32::try_from(last).ok())
    }

    /// Reads and checks the next block. `None` at the end.
    pub(super) fn next_block(&mut self) -> Result<Option<ReadBlock>, BlockError> {
        let Some(link) = self.links.next() else { return Ok(None) };
        let Ok(height) = u32::try_from(self.next) else {
            return Err(BlockError::HeightOverflow { origin: self.origin(link.place) });
        };
        self.next += 1;
        let (block, bytes, origin) = self.read_intact(link)?;
        let previous = Some(block.header.prev_blockhash);
        // The hashes in the headers prove the height, so the height in the coinbase need not be checked.
        Ok(Some(ReadBlock { height: Some(height), hash: link.hash, previous, claim: None, bytes, origin }))
    }

    /// Reads the first copy of a block that is intact. If no copy is intact, the error is about the first copy.
    fn read_intact(&mut self, link: Link) -> Result<(Block, Vec<u8>, Origin), BlockError> {
        let error = match self.read_copy(link.hash, link.place) {
            Ok((block, bytes)) => return Ok((block, bytes, self.origin(link.place))),
            Err(error) => error,
        };
        for place in self.copies.get(&link.hash).cloned().unwrap_or_default() {
            if let Ok((block, bytes)) = self.read_copy(link.hash, place) {
                let origin = self.origin(place);
                tracing::warn!(
                    "block {} is read from {origin}, because another copy is damaged: {error}",
                    link.hash
                );
                return Ok((block, bytes, origin));
            }
        }
        Err(error)
    }

    /// Reads and checks one copy of a block.
    fn read_copy(&mut self, hash: BlockHash, place: Place) -> Result<(Block, Vec<u8>), BlockError> {
        let bytes = self.read(place)?;
        let origin = self.origin(place);
        let block =
            verify(&bytes).map_err(|defect| BlockError::DamagedBlock { origin: origin.clone(), defect })?;
        let found = block.block_hash();
        // The scan has seen this hash in a chain, so an equal hash also proves that the block follows the previous block.
        if found != hash {
            return Err(BlockError::Changed { origin, expected: hash, found });
        }
        Ok((block, bytes))
    }

    /// Reads the bytes of one block. The scan has checked its length against the limit and the file.
    fn read(&mut self, place: Place) -> Result<Vec<u8>, BlockError> {
        let file = &self.files[place.file as usize];
        let reader = match self.open.take() {
            Some((number, reader)) if number == place.file => reader,
            _ => file.source.open()?,
        };
        let length = u64::from(place.length).min(self.limit);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let offset = place.offset + HEAD_BYTES as u64;
        reader.read_exact_at(&mut bytes, offset).map_err(BlockError::io(file.source.name(), "read"))?;
        file.key.apply(&mut bytes, offset);
        self.open = Some((place.file, reader));
        Ok(bytes)
    }

    fn origin(&self, place: Place) -> Origin {
        self.files[place.file as usize].source.origin(place.offset)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;

    use super::*;
    use crate::blocks::Options;
    use crate::blocks::testing::{
        Files, bytes_of, drain, early_blocks, heights, input, mine, open, records, records_of, regtest,
        shared,
    };
    use crate::blocks::xor::XorKey;

    const KEY: [u8; 8] = [0xa5, 0, 3, 0x7f, 0x80, 1, 0xfe, 9];

    /// A directory like bitcoind's: three files, with the blocks shuffled over them.
    fn shuffled(key: Option<[u8; 8]>) -> Files {
        let files = Files::new();
        let mut parts = [const { Vec::new() }; 3];
        for (number, block) in early_blocks().into_iter().enumerate().rev() {
            parts[number * 7 % 3].push(block);
        }
        for (number, part) in parts.iter().enumerate() {
            let mut bytes = records(part);
            XorKey::from_bytes(key.unwrap_or_default()).apply(&mut bytes, 0);
            // Bitcoind allocates files in advance, and does not obfuscate the bytes that it never wrote.
            bytes.resize(bytes.len() + 1000 * number, 0);
            files.add(&format!("blk{number:05}.dat"), bytes);
        }
        files.add("rev00000.dat", "undo data");
        files.add("blk00003.dat", [0; 4096]);
        if let Some(key) = key {
            files.add("xor.dat", key);
        }
        files
    }

    #[test]
    fn scattered_blocks_are_read_in_order_obfuscated_or_not() {
        for key in [None, Some([0; 8]), Some(KEY)] {
            let files = shuffled(key);
            let (blocks, error) = drain(&[input(files.path())], &Options::default());
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&blocks), (0..439).collect::<Vec<_>>());
            assert!(blocks.iter().zip(early_blocks()).all(|(block, bytes)| block.bytes == bytes));
        }
    }

    #[test]
    fn one_obfuscated_file_finds_the_key_beside_it() {
        let files = shuffled(Some(KEY));
        let paths = [0, 1, 2].map(|number| input(files.path().join(format!("blk0000{number}.dat"))));
        assert_eq!(drain(&paths, &Options::default()).0.len(), 439);
        std::fs::remove_file(files.path().join("xor.dat")).unwrap();
        let error = drain(&paths, &Options::default()).1.unwrap().to_string();
        assert!(error.contains("xor.dat"), "{error}");
    }

    #[test]
    fn blocks_below_the_start_height_are_skipped() {
        let files = shuffled(None);
        let from = |start| Options { start_height: Some(start), ..Options::default() };
        let (blocks, error) = drain(&[input(files.path())], &from(430));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), (430..439).collect::<Vec<_>>());
        let error = drain(&[input(files.path())], &from(439)).1.unwrap();
        assert!(matches!(error, BlockError::StartAboveTip { start: 439, tip: 438, .. }), "{error}");
    }

    #[test]
    fn of_the_indexed_blocks_only_the_last_is_read() {
        let files = shuffled(None);
        for (tip, first) in [(0, 0), (430, 430), (438, 438), (10_000, 438)] {
            let options =
                Options { indexed: Some(IndexedRange { first: 0, tip, overlap: 0 }), ..Options::default() };
            let (blocks, error) = drain(&[input(files.path())], &options);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&blocks), (first..439).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_branch_with_the_most_work_is_followed() {
        let mut blocks = regtest(6);
        let stale = mine(Some(&blocks[3]), 4, 4, 1);
        let longer = mine(Some(&blocks[5]), 4, 6, 1);
        blocks.insert(4, stale);
        let follow = |blocks: &[_]| {
            let files = Files::new();
            let path = files.add("x.blk", records_of(Network::Regtest, &bytes_of(blocks)));
            let (blocks, error) = drain(&[input(path)], &Options::default());
            assert!(error.is_none(), "{error:?}");
            blocks.iter().map(|block| block.hash).collect::<Vec<_>>()
        };
        let main: Vec<_> = [0, 1, 2, 3, 5, 6].map(|number| blocks[number].block_hash()).into();
        assert_eq!(follow(&blocks), main);
        // Of branches with the same work, the branch that was found first is followed, wherever the common part is.
        assert_eq!(follow(&blocks[..6])[4], blocks[4].block_hash());
        blocks.push(longer);
        blocks.reverse();
        assert_eq!(follow(&blocks).len(), 7);
        assert_eq!(follow(&blocks[1..])[..], main);
    }

    #[test]
    fn a_damaged_record_is_an_error_after_all_readable_blocks() {
        let files = Files::new();
        let bytes = records(&early_blocks()[..9]);
        let place = bytes.len() - early_blocks()[8].len() - 8;
        files.add("blk00000.dat", &bytes[..bytes.len() - 1]);
        files.add("blk00001.dat", records(&early_blocks()[9..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        // Blocks 9 to 19 have no ancestors, though they have more work.
        let message = error.unwrap().to_string();
        assert_eq!(blocks.len(), 8, "{message}");
        assert!(
            message.contains(&format!("blk00000.dat at byte {place}: the record is damaged: it needs")),
            "{message}"
        );

        // Nothing is missing if another file holds an intact copy.
        files.add("blk00001.dat", records(&early_blocks()[8..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        assert!(error.is_none() && blocks.len() == 20, "{error:?}");
    }

    #[test]
    fn of_several_copies_an_intact_one_is_read() {
        let early = early_blocks();
        let (good, mut bad) = (records(&early[4..5]), records(&early[4..5]));
        *bad.last_mut().unwrap() ^= 1;
        for key in [[0; 8], KEY] {
            let files = Files::new();
            files.add("xor.dat", key);
            let parts = [records(&early[..4]), bad.clone(), bad.clone(), good.clone(), records(&early[5..9])];
            for (number, mut bytes) in parts.into_iter().enumerate() {
                XorKey::from_bytes(key).apply(&mut bytes, 0);
                files.add(&format!("blk{number:05}.dat"), bytes);
            }
            let (blocks, error) = drain(&[input(files.path())], &Options::default());
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&blocks), (0..9).collect::<Vec<_>>());
            assert!(blocks[4].origin.to_string().contains("blk00003.dat"), "{}", blocks[4].origin);
        }
    }

    #[test]
    fn skipped_blocks_count_only_if_they_are_indexed() {
        let files = shuffled(None);
        for (first, counted) in [(0, 430), (400, 30), (430, 0)] {
            let indexed = Some(IndexedRange { first, tip: 430, overlap: 0 });
            let source = open(&[input(files.path())], &Options { indexed, ..Options::default() }).unwrap();
            assert_eq!((source.already_indexed(), source.total()), (counted, Some(9)));
        }
    }

    #[test]
    fn a_damaged_block_ends_the_chain_when_it_is_read() {
        let mut bytes = records(&early_blocks()[..9]);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let files = Files::new();
        let path = files.add("x.blk", bytes);
        let (blocks, error) = drain(&[input(path)], &Options::default());
        let error = error.unwrap();
        assert_eq!(blocks.len(), 8);
        assert!(
            matches!(
                error,
                BlockError::DamagedBlock { defect: crate::blocks::BlockDefect::MerkleRoot { .. }, .. }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_changes_after_the_scan_is_noticed() {
        let mut early = early_blocks();
        let files = Files::new();
        let path = files.add("x.blk", records(&early[..4]));
        let mut source = open(&[input(path)], &Options::default()).unwrap();
        assert_eq!(early[1].len(), early[2].len());
        early.swap(1, 2);
        files.add("x.blk", records(&early[..4]));
        assert!(matches!(source.next(), Some(Ok(_))));
        assert!(matches!(source.next(), Some(Err(BlockError::Changed { .. }))));
        assert!(source.next().is_none());
    }

    #[test]
    fn real_reorganisations_and_networks() {
        let (Some(a), Some(b)) = (shared("regtest-branch-a.blk"), shared("regtest-branch-b.blk")) else {
            return;
        };
        let options = Options::default();
        let (alone, error) = drain(&[input(&b)], &options);
        assert!(error.is_none() && alone.len() == 203, "{error:?}");
        let hashes =
            |blocks: &[crate::blocks::SourceBlock]| blocks.iter().map(|b| b.hash).collect::<Vec<_>>();
        for inputs in [[input(&a), input(&b)], [input(&b), input(&a)]] {
            let (both, error) = drain(&inputs, &options);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(hashes(&both), hashes(&alone));
        }
        let testnet = input(shared("testnet3-chain.blk").unwrap());
        assert_eq!(drain(std::slice::from_ref(&testnet), &options).0.len(), 401);
        let error = drain(&[testnet, input(&a)], &options).1.unwrap();
        assert!(matches!(error, BlockError::MixedNetworks { .. }), "{error}");
    }
}
