//! From an index of headers to a chain: of all branches the one with the most work, as a node would follow
//! it, read block by block from the files in which it is scattered.

use std::vec;

use bitcoin::constants::genesis_block;
use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, CompactTarget, Network, Target};

use super::framing::HEAD_BYTES;
use super::scan::{Entry, Index, Place};
use super::store::{BlkFile, Handle};
use super::verify::{decode, named_height, verify};
use super::{BlockError, Origin, Unnumbered};

/// What the first block of a chain says of its height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RootHeight {
    /// It is a genesis block, of height 0.
    Genesis,
    /// Its coinbase names this height (BIP34).
    Named(u32),
    /// Nothing.
    Unknown,
}

/// The blocks with the most work of a set of blk files, in order, yet to be read.
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
    limit: u64,
}

#[derive(Debug)]
struct Link {
    hash: BlockHash,
    place: Place,
}

impl Chain {
    /// The best chain of an index; `None` if that is empty. Its heights are to be set by [`Self::begin_at`].
    pub(super) fn select(files: Vec<BlkFile>, index: &Index, limit: u64) -> Option<Self> {
        let tip = best_tip(index)?;
        let mut links: Vec<_> = walk_back(index, tip).map(|entry| entry.link()).collect();
        links.reverse();
        Some(Self { files, links: links.into_iter(), next: 0, passed_over: 0, open: None, limit })
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
    pub(super) fn root_height(&mut self) -> Result<RootHeight, BlockError> {
        let Some(Link { hash, place }) = self.links.as_slice().first() else {
            return Ok(RootHeight::Unknown);
        };
        if is_genesis(*hash) {
            return Ok(RootHeight::Genesis);
        }
        let place = *place;
        let bytes = self.read(place)?;
        let block = decode(&bytes).map_err(|defect| self.damaged(place, defect))?;
        // A private network's genesis block is known by having none before it.
        if block.header.prev_blockhash == BlockHash::all_zeros() {
            return Ok(RootHeight::Genesis);
        }
        Ok(named_height(&block).map_or(RootHeight::Unknown, RootHeight::Named))
    }

    /// Gives the first block its height, and passes over those below `start`, and over those below `known` but
    /// the last.
    ///
    /// # Errors
    ///
    /// If that leaves none, or if there are not enough heights.
    pub(super) fn begin_at(&mut self, height: u32, start: u32, known: u32) -> Result<(), BlockError> {
        let Some(origin) = self.links.as_slice().last().map(|link| self.origin(link)) else { return Ok(()) };
        self.next = u64::from(height);
        let Some((_, tip)) = self.heights() else { return Err(BlockError::HeightOverflow { origin }) };
        if start > tip {
            return Err(BlockError::StartAboveTip { origin, start, tip });
        }
        let first = start.max(known.min(tip));
        self.passed_over = u64::from(first - start.max(height).min(first));
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
        let origin = self.origin(&link);
        let Ok(height) = u32::try_from(self.next) else { return Err(BlockError::HeightOverflow { origin }) };
        self.next += 1;
        let bytes = self.read(link.place)?;
        let block = verify(&bytes).map_err(|defect| self.damaged(link.place, defect))?;
        let found = block.block_hash();
        // The scan knew the hash, so an equal one is also proof of the link to the block before.
        if found != link.hash {
            return Err(BlockError::Changed { origin, expected: link.hash, found });
        }
        let previous = Some(block.header.prev_blockhash);
        Ok(Some(Unnumbered { height: Some(height), hash: found, previous, bytes, origin }))
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
        self.files[link.place.file as usize].store.origin(link.place.offset)
    }

    fn damaged(&self, place: Place, defect: super::Defect) -> BlockError {
        BlockError::Damaged { origin: self.files[place.file as usize].store.origin(place.offset), defect }
    }
}

impl Entry {
    fn link(&self) -> Link {
        Link { hash: self.hash, place: self.place }
    }
}

fn is_genesis(hash: BlockHash) -> bool {
    [Network::Bitcoin, Network::Testnet, Network::Testnet4, Network::Signet, Network::Regtest]
        .iter()
        .any(|network| genesis_block(network).block_hash() == hash)
}

/// From a block to the root of its branch. It ends, as no block can name one that names it: that would be a
/// cycle of SHA-256.
fn walk_back(index: &Index, from: u32) -> impl Iterator<Item = &Entry> {
    std::iter::successors(entry(index, from), move |block| entry(index, *index.by_hash.get(&block.previous)?))
}

fn entry(index: &Index, number: u32) -> Option<&Entry> {
    index.entries.get(number as usize)
}

/// The block with the most work behind it; of several, the one found first, as a node prefers the one it saw
/// first.
fn best_tip(index: &Index) -> Option<u32> {
    // Zero is "not summed up yet": every block has some work.
    let mut total = vec![0u128; index.entries.len()];
    let mut best = (0, None);
    let mut branch = Vec::new();
    for start in 0..u32::try_from(total.len()).unwrap_or(u32::MAX) {
        // Back to a block whose sum is known, or to a root; then forth again. Each block is summed up once,
        // and nothing recurses, however long the chain.
        let mut sum = 0;
        let mut at = Some(start);
        while let Some(number) = at {
            sum = total[number as usize];
            if sum > 0 {
                break;
            }
            branch.push(number);
            at = index.by_hash.get(&index.entries[number as usize].previous).copied();
        }
        while let Some(number) = branch.pop() {
            sum = work(index.entries[number as usize].bits).saturating_add(sum);
            total[number as usize] = sum;
        }
        if sum > best.0 {
            best = (sum, Some(start));
        }
    }
    best.1
}

/// Expected number of hashes for a target. 128 bits are plenty: all of mainnet is below 2^97, and the scan
/// only lets pass headers whose work was really done.
fn work(bits: CompactTarget) -> u128 {
    let [high, low] = halves(Target::from_compact(bits).to_work().to_be_bytes());
    if high == 0 { low.max(1) } else { u128::MAX }
}

/// A 256-bit number as two of 128 bits, the higher first.
fn halves(bytes: [u8; 32]) -> [u128; 2] {
    let mut halves = [0; 2];
    for (half, chunk) in halves.iter_mut().zip(bytes.chunks_exact(16)) {
        *half = chunk.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    }
    halves
}

#[cfg(test)]
mod tests {
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
        for (known, first) in [(0, 0), (430, 430), (438, 438), (10_000, 438)] {
            let options = Options { known_below: known, ..Options::default() };
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
        files.add("blk00000.dat", &bytes[..bytes.len() - 1]);
        files.add("blk00001.dat", records(&early_blocks()[9..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        // 9 to 19 hang in the air, and are more; they are not of known height, though.
        let error = error.unwrap();
        assert!(blocks.is_empty() && matches!(error, BlockError::HeightUnknown { .. }), "{error}");

        files.add("blk00001.dat", records(&early_blocks()[8..20]));
        let (blocks, error) = drain(&[input(files.path())], &Options::default());
        let place = bytes.len() - early_blocks()[8].len() - 8;
        assert_eq!(blocks.len(), 20);
        let error = error.unwrap().to_string();
        assert!(error.contains(&format!("blk00000.dat at byte {place}: torn record: it needs")), "{error}");
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
