//! From an index of headers to a chain: of all branches the one with the most work, as a node would follow
//! it, read block by block from the files in which it is scattered.

use std::collections::HashMap;
use std::vec;

use bitcoin::{Block, BlockHash};

use super::bip34::Claim;
use super::branches::walk_back;
use super::framing::HEAD_BYTES;
use super::scan::{Entry, Index, Place};
use super::store::{BlkFile, Handle};
use super::verify::verify;
use super::{BlockError, Known, Origin, Unnumbered};

/// Blocks of a set of blk files that follow each other, in order, yet to be read.
#[derive(Debug)]
pub(super) struct Chain {
    files: Vec<BlkFile>,
    links: vec::IntoIter<Link>,
    /// Height of the next link.
    next: u64,
    /// Blocks passed over because they are known.
    passed_over: u64,
    /// The file of the block before, since the next is mostly in the same.
    open: Option<(u32, Handle)>,
    /// Where else blocks are, should the first copy not be whole.
    copies: HashMap<BlockHash, Vec<Place>>,
    limit: u64,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    hash: BlockHash,
    place: Place,
}

impl Chain {
    /// A chain without a block yet, of files in which blocks lie more than once, too.
    pub(super) fn new(files: Vec<BlkFile>, copies: HashMap<BlockHash, Vec<Place>>, limit: u64) -> Self {
        let links = Vec::new().into_iter();
        Self { files, links, next: 0, passed_over: 0, open: None, copies, limit }
    }

    /// Becomes the chain of an index that ends in the block `tip`. Its heights are to be set by [`Self::begin_at`].
    pub(super) fn follow(&mut self, index: &Index, tip: u32) {
        let mut links: Vec<_> = walk_back(index, tip).map(Entry::link).collect();
        links.reverse();
        self.links = links.into_iter();
    }

    /// Blocks that are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.links.len() as u64
    }

    /// How many blocks were passed over because they are known.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Where the first of them is, and its hash.
    pub(super) fn first(&self) -> Option<(Origin, BlockHash)> {
        self.links.as_slice().first().map(|link| (self.origin(link), link.hash))
    }

    /// What the first block says of its height. Reads it.
    pub(super) fn root_claim(&mut self) -> Result<Option<Claim>, BlockError> {
        let Some(link) = self.links.as_slice().first().copied() else { return Ok(None) };
        let (block, _, _) = self.read_whole(link)?;
        Ok(Some(Claim::of(&block)))
    }

    /// The height that a block of the scan names, and where it is. Reads it.
    pub(super) fn named_height(&mut self, entry: &Entry) -> Result<(Origin, Option<u32>), BlockError> {
        let (block, _, origin) = self.read_whole(entry.link())?;
        Ok((origin, Claim::of(&block).named()))
    }

    /// Gives the first block its height, and passes over those below `start`, and over those that are known but
    /// the last.
    ///
    /// # Errors
    ///
    /// If that leaves none, or if there are not enough heights.
    pub(super) fn begin_at(
        &mut self,
        height: u32,
        start: u32,
        known: Option<Known>,
    ) -> Result<(), BlockError> {
        let Some(origin) = self.links.as_slice().last().map(|link| self.origin(link)) else { return Ok(()) };
        self.next = u64::from(height);
        let Some((_, tip)) = self.heights() else { return Err(BlockError::HeightOverflow { origin }) };
        if start > tip {
            return Err(BlockError::StartAboveTip { origin, start, tip });
        }
        let first = start.max(known.map_or(0, |known| known.tip.saturating_sub(known.again)).min(tip));
        // Below what is known lies what is passed over and known to nobody.
        let counted = start.max(height).max(known.map_or(first, |known| known.first));
        self.passed_over = u64::from(first.saturating_sub(counted));
        let skip = first.saturating_sub(height);
        self.next += u64::from(skip);
        self.links.by_ref().take(skip as usize).for_each(drop);
        Ok(())
    }

    /// Heights of the first and the last block that are still to come, if they are heights.
    pub(super) fn heights(&self) -> Option<(u32, u32)> {
        let last = (self.next + self.remaining()).saturating_sub(1);
        u32::try_from(self.next).ok().zip(u32::try_from(last).ok())
    }

    /// The next block, checked; `None` at the end.
    pub(super) fn next_block(&mut self) -> Result<Option<Unnumbered>, BlockError> {
        let Some(link) = self.links.next() else { return Ok(None) };
        let Ok(height) = u32::try_from(self.next) else {
            return Err(BlockError::HeightOverflow { origin: self.origin(&link) });
        };
        self.next += 1;
        let (block, bytes, origin) = self.read_whole(link)?;
        let previous = Some(block.header.prev_blockhash);
        // Its links prove the height.
        Ok(Some(Unnumbered { height: Some(height), hash: link.hash, previous, claim: None, bytes, origin }))
    }

    /// A block and its bytes, from the first of its copies that is whole.
    fn read_whole(&mut self, link: Link) -> Result<(Block, Vec<u8>, Origin), BlockError> {
        let error = match self.read_checked(link.hash, link.place) {
            Ok((block, bytes)) => return Ok((block, bytes, self.origin_of(link.place))),
            Err(error) => error,
        };
        for place in self.copies.get(&link.hash).cloned().unwrap_or_default() {
            if let Ok((block, bytes)) = self.read_checked(link.hash, place) {
                let origin = self.origin_of(place);
                tracing::warn!(
                    "block {} is read from {origin}: another copy is not whole: {error}",
                    link.hash
                );
                return Ok((block, bytes, origin));
            }
        }
        Err(error)
    }

    /// One copy of a block.
    fn read_checked(&mut self, hash: BlockHash, place: Place) -> Result<(Block, Vec<u8>), BlockError> {
        let bytes = self.read(place)?;
        let origin = self.origin_of(place);
        let block =
            verify(&bytes).map_err(|defect| BlockError::Damaged { origin: origin.clone(), defect })?;
        let found = block.block_hash();
        // The scan knew the hash, so an equal one is also proof of the link to the block before.
        if found != hash {
            return Err(BlockError::Changed { origin, expected: hash, found });
        }
        Ok((block, bytes))
    }

    /// The bytes of one block. Its length was held against the limit and the file when it was scanned.
    fn read(&mut self, place: Place) -> Result<Vec<u8>, BlockError> {
        let file = &self.files[place.file as usize];
        let handle = match self.open.take() {
            Some((number, handle)) if number == place.file => handle,
            _ => file.store.open()?,
        };
        let length = u64::from(place.length).min(self.limit);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let offset = place.offset + HEAD_BYTES as u64;
        handle.read_exact_at(&mut bytes, offset).map_err(BlockError::io(file.store.name(), "read"))?;
        file.key.apply(&mut bytes, offset);
        self.open = Some((place.file, handle));
        Ok(bytes)
    }

    fn origin(&self, link: &Link) -> Origin {
        self.origin_of(link.place)
    }

    fn origin_of(&self, place: Place) -> Origin {
        self.files[place.file as usize].store.origin(place.offset)
    }
}

impl Entry {
    fn link(&self) -> Link {
        Link { hash: self.hash, place: self.place }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::Network;

    use super::*;
    use crate::blocks::Options;
    use crate::blocks::framing::XorKey;
    use crate::blocks::testing::{
        Files, bytes_of, drain, early_blocks, heights, input, mine, open, records, records_of, regtest,
        shared,
    };

    const KEY: [u8; 8] = [0xa5, 0, 3, 0x7f, 0x80, 1, 0xfe, 9];

    /// Bitcoind's directory: three files, the blocks shuffled over them.
    fn shuffled(key: Option<[u8; 8]>) -> Files {
        let files = Files::new();
        let mut parts = [const { Vec::new() }; 3];
        for (number, block) in early_blocks().into_iter().enumerate().rev() {
            parts[number * 7 % 3].push(block);
        }
        for (number, part) in parts.iter().enumerate() {
            let mut bytes = records(part);
            XorKey::from_bytes(key.unwrap_or_default()).apply(&mut bytes, 0);
            // As bitcoind leaves it: allocated ahead, and not obfuscated where it never wrote.
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
    fn scattered_blocks_come_in_order_obfuscated_or_not() {
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
    fn blocks_that_are_known_are_not_read_but_for_the_last() {
        let files = shuffled(None);
        for (tip, first) in [(0, 0), (430, 430), (438, 438), (10_000, 438)] {
            let options = Options { known: Some(Known { first: 0, tip, again: 0 }), ..Options::default() };
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
        // Of equal branches the one that was seen first, wherever their common part is.
        assert_eq!(follow(&blocks[..6])[4], blocks[4].block_hash());
        blocks.push(longer);
        blocks.reverse();
        assert_eq!(follow(&blocks).len(), 7);
        assert_eq!(follow(&blocks[1..])[..], main);
    }

    #[test]
    fn a_torn_record_is_told_after_all_that_can_be_read() {
        let files = Files::new();
        let bytes = records(&early_blocks()[..9]);
        let place = bytes.len() - early_blocks()[8].len() - 8;
        files.add("blk00000.dat", &bytes[..bytes.len() - 1]);
        files.add("blk00001.dat", records(&early_blocks()[9..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        // 9 to 19 hang in the air, though they are more.
        let torn = error.unwrap().to_string();
        assert_eq!(blocks.len(), 8, "{torn}");
        assert!(torn.contains(&format!("blk00000.dat at byte {place}: torn record: it needs")), "{torn}");

        // Nothing is missing where another file has it whole.
        files.add("blk00001.dat", records(&early_blocks()[8..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        assert!(error.is_none() && blocks.len() == 20, "{error:?}");
    }

    #[test]
    fn of_several_copies_the_one_that_is_whole_is_read() {
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
    fn what_is_passed_over_is_what_is_known() {
        let files = shuffled(None);
        for (first, counted) in [(0, 430), (400, 30), (430, 0)] {
            let known = Some(Known { first, tip: 430, again: 0 });
            let source = open(&[input(files.path())], &Options { known, ..Options::default() }).unwrap();
            assert_eq!((source.passed_over(), source.total()), (counted, Some(9)));
        }
    }

    #[test]
    fn a_damaged_block_ends_the_chain_when_its_turn_comes() {
        let mut bytes = records(&early_blocks()[..9]);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let files = Files::new();
        let path = files.add("x.blk", bytes);
        let (blocks, error) = drain(&[input(path)], &Options::default());
        let error = error.unwrap();
        assert_eq!(blocks.len(), 8);
        assert!(
            matches!(error, BlockError::Damaged { defect: crate::blocks::Defect::MerkleRoot { .. }, .. }),
            "{error}"
        );
    }

    #[test]
    fn files_that_change_behind_the_scan_are_seen() {
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
