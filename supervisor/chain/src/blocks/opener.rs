//! Opens the parts of a source one after the other: chooses the chain in a set of blk files, determines its height, and checks
//! the heights of all parts before the first block is delivered.

use std::path::PathBuf;

use bitcoin::{BlockHash, Network};

use super::best_chain::BestChain;
use super::block::Origin;
use super::branches::Branches;
use super::byte_source::BlkFile;
use super::error::BlockError;
use super::heights::HeightAssigner;
use super::options::Options;
use super::part::{Part, join_network};
use super::progress::Progress;
use super::scan::scan;

/// What is known about the parts that were opened so far.
pub(super) struct PartOpener<'a> {
    options: &'a Options,
    /// Assigns the heights that the source will assign. `None` after a stream, because the length of a stream is not known.
    heights: Option<HeightAssigner>,
    network: Option<Network>,
    /// An error about blocks that are missing in blk files. It is returned after all blocks.
    missing: Option<BlockError>,
}

impl<'a> PartOpener<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        let heights = Some(HeightAssigner::new(options));
        Self { options, heights, network: None, missing: None }
    }

    /// The network of all parts, and the error that the source returns after the last block.
    pub(super) fn finish(self) -> (Option<Network>, Option<BlockError>) {
        (self.network, self.missing)
    }

    /// Assigns the heights of a part, so that a wrong height is an error now and not after a day of indexing.
    pub(super) fn check_heights(&mut self, part: &Part) -> Result<(), BlockError> {
        let Some(heights) = &mut self.heights else { return Ok(()) };
        match part {
            Part::Raw { source, height } => {
                heights.assign(*height, &source.origin(0))?;
            }
            Part::Chain(chain) => {
                if let (Some((origin, _)), Some((first, last))) = (chain.first(), chain.heights()) {
                    heights.assign(Some(first), &origin)?;
                    heights.advance_to(last);
                }
            }
            Part::Stream { .. } => self.heights = None,
        }
        Ok(())
    }

    /// Scans blk files, and opens the chain with the most work.
    pub(super) fn open_chain(
        &mut self,
        files: Vec<BlkFile>,
        height: Option<u32>,
        progress: &mut Progress<'_>,
    ) -> Result<BestChain, BlockError> {
        let first_file: PathBuf = files.first().map(|file| file.source.name().into()).unwrap_or_default();
        let count = files.len();
        let limit = self.options.max_block_bytes;
        let mut index = scan(&files, limit, progress)?;
        let (lost, copies) = (index.lost.take(), std::mem::take(&mut index.copies));
        let branches = Branches::of(&index);
        let Some(mut tip) = branches.best() else {
            return Err(lost.unwrap_or(BlockError::NoRecords { path: first_file, files: count }));
        };
        let mut chain = BestChain::new(files, copies, limit);
        chain.select(&index, tip);
        if let (Some(found), Some((origin, _))) = (index.network, chain.first()) {
            join_network(&mut self.network, found, &origin)?;
        }
        if let Err(error) = self.set_height(&mut chain, height) {
            // The branch with the most work may lie above a missing block. The branch below that block can still be read.
            let unrooted =
                matches!(error, BlockError::ChainStartsTooHigh { .. } | BlockError::HeightUnknown { .. });
            let from_genesis = branches.best_from_genesis().filter(|_| unrooted || error.is_incomplete());
            let Some(other) = from_genesis.filter(|other| *other != tip) else { return Err(error) };
            tip = other;
            chain.select(&index, tip);
            self.set_height(&mut chain, height)?;
        }
        let ancestor = match lost.is_none() {
            true => missing_ancestor(&mut chain, &branches, tip)?,
            false => None,
        };
        self.missing = self.missing.take().or(lost).or(ancestor);
        Ok(chain)
    }

    /// Determines the height of the first block of a chain.
    ///
    /// A reliable height in the block itself decides, because a chain must not be indexed at wrong heights. If the block states
    /// no reliable height, these decide, in this order: the height in the argument, the height that the block states, and
    /// `--start-height` or the heights of the previous input.
    fn set_height(&self, chain: &mut BestChain, asked: Option<u32>) -> Result<(), BlockError> {
        let Some((origin, hash)) = chain.first() else { return Ok(()) };
        let Some(claim) = chain.root_claim()? else { return Ok(()) };
        let first = match (claim.reliable(self.network), asked) {
            (Some(known), Some(asked)) if known != asked => {
                return Err(BlockError::HeightConflict { origin, hash, asked, known });
            }
            (Some(known), _) => known,
            (None, Some(asked)) => asked,
            (None, None) => match claim.stated().or_else(|| self.next_height()) {
                Some(height) => height,
                None => return Err(BlockError::HeightUnknown { origin, hash }),
            },
        };
        if let Some(mismatch) = claim.mismatch(first, self.network) {
            return Err(BlockError::WrongHeight { origin, hash, height: first, mismatch });
        }
        self.check_start(first, asked, origin, hash)?;
        chain.start_at(first, self.options.start_height.unwrap_or(0), self.options.indexed)
    }

    /// The height of a chain that states no height. For the first input, only `--start-height` gives the height. A later input
    /// continues the heights of the previous input.
    fn next_height(&self) -> Option<u32> {
        let is_told = |heights: &&HeightAssigner| self.options.start_height.is_some() || !heights.is_unused();
        self.heights.as_ref().filter(is_told).and_then(HeightAssigner::next_height)
    }

    /// Refuses a chain that begins above the next height to index. Without this check, a missing file would change the state
    /// without an error. If the argument gives the height of the first input, indexing begins at that height.
    fn check_start(
        &self,
        first: u32,
        asked: Option<u32>,
        origin: Origin,
        hash: BlockHash,
    ) -> Result<(), BlockError> {
        let Some(heights) = self.heights.as_ref().filter(|heights| !heights.allows_gaps()) else {
            return Ok(());
        };
        let wanted = heights.next_required();
        if first <= wanted || (asked.is_some() && heights.is_first()) {
            return Ok(());
        }
        Err(BlockError::ChainStartsTooHigh { origin, hash, first, wanted })
    }
}

/// Finds a block above the end of the chain whose ancestors are missing. Blocks that state a lower height are stale, or the node
/// has pruned their ancestors.
fn missing_ancestor(
    chain: &mut BestChain,
    branches: &Branches<'_>,
    tip: u32,
) -> Result<Option<BlockError>, BlockError> {
    let Some((_, last)) = chain.heights() else { return Ok(None) };
    for entry in branches.other_roots(tip) {
        let (origin, height) = match chain.stated_height(entry) {
            Ok(stated) => stated,
            // The height of a damaged block is not known, so nothing shows that the block belongs above the chain.
            Err(error) if error.is_incomplete() => continue,
            Err(error) => return Err(error),
        };
        if height.is_none_or(|height| height > last) {
            let (hash, previous) = (entry.hash, entry.previous);
            return Ok(Some(BlockError::MissingAncestor { origin, hash, height, previous, tip: last }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::options::IndexedRange;
    use crate::blocks::testing::{
        Files, at, bytes_of, drain, early_blocks, heights, input, mine, records, records_of, regtest,
    };

    fn from(start: u32) -> Options {
        Options { start_height: Some(start), ..Options::default() }
    }

    /// Reads a blk file of these blocks. Returns the heights, or the error.
    fn chain(blocks: &[Vec<u8>], height: Option<u32>, options: &Options) -> Result<Vec<u32>, String> {
        let files = Files::new();
        let path = files.add("x.blk", records_of(Network::Regtest, blocks));
        match drain(&[at(height, path)], options) {
            (blocks, None) => Ok(heights(&blocks)),
            (_, Some(error)) => Err(error.to_string()),
        }
    }

    fn after(tip: u32) -> Options {
        Options { indexed: Some(IndexedRange { first: 0, tip, overlap: 0 }), ..Options::default() }
    }

    #[test]
    fn a_chain_without_genesis_takes_its_height_from_the_coinbase() {
        let blocks = bytes_of(&regtest(20));
        let default = Options::default();
        assert_eq!(chain(&blocks[17..], None, &from(17)), Ok(vec![17, 18, 19]));
        assert_eq!(chain(&blocks[17..], None, &from(18)), Ok(vec![18, 19]));
        assert_eq!(chain(&blocks[17..], Some(17), &default), Ok(vec![17, 18, 19]));
        assert_eq!(chain(&blocks[17..], None, &after(16)), Ok(vec![17, 18, 19]));
        assert_eq!(chain(&blocks[16..], None, &after(18)), Ok(vec![18, 19]));
        let error = chain(&blocks[18..], Some(7), &default).unwrap_err();
        assert!(error.contains("the argument says height 7, but the chain begins at height 18"), "{error}");
        let error = chain(&blocks, Some(5), &default).unwrap_err();
        assert!(error.contains("the argument says height 5, but the chain begins at height 0"), "{error}");
    }

    #[test]
    fn a_chain_that_begins_above_the_next_height_is_refused() {
        let blocks = bytes_of(&regtest(20));
        for (options, missing) in [
            (Options::default(), "the next block to index is 0: blocks 0 to 16 are missing"),
            (from(0), "the next block to index is 0: blocks 0 to 16 are missing"),
            (from(16), "the next block to index is 16: block 16 is missing"),
            (after(14), "the next block to index is 15: blocks 15 to 16 are missing"),
        ] {
            let error = chain(&blocks[17..], None, &options).unwrap_err();
            assert!(
                error.contains("x.blk at byte 0: the chain in these files begins at height 17"),
                "{error}"
            );
            assert!(error.contains(missing) && error.contains("--start-height 17"), "{error}");
            let allowed = Options { allow_gaps: true, ..options };
            assert_eq!(chain(&blocks[17..], None, &allowed), Ok(vec![17, 18, 19]));
        }
        // The height in the argument does not excuse missing blocks behind the indexed ones.
        assert!(chain(&blocks[17..], Some(17), &after(14)).is_err());
    }

    #[test]
    fn the_blocks_below_a_missing_block_are_delivered_before_the_error() {
        let blocks = bytes_of(&regtest(20));
        let without_block = |at: u32| {
            let mut blocks = blocks.clone();
            blocks.remove(at as usize);
            blocks
        };
        // Below and above the middle: either part may have more work.
        for at in [5, 15] {
            let files = Files::new();
            let path = files.add("x.blk", records_of(Network::Regtest, &without_block(at)));
            let (read, error) = drain(&[input(path)], &Options::default());
            assert_eq!(heights(&read), (0..at).collect::<Vec<_>>());
            let error = error.unwrap().to_string();
            let told = format!("(height {}) names", at + 1);
            assert!(error.contains(&told) && error.contains("no file given holds that block"), "{error}");
        }
        // A missing block below the indexed tip does not matter.
        assert_eq!(chain(&without_block(5), None, &after(12)), Ok((12..20).collect()));
    }

    #[test]
    fn a_chain_that_states_no_height_needs_one_from_the_user() {
        let early = early_blocks();
        let default = Options::default();
        let mainnet = |height, options: &Options| {
            let files = Files::new();
            let path = files.add("x.blk", records(&early[7..9]));
            let (blocks, error) = drain(&[at(height, path)], options);
            error.map_or_else(|| Ok(heights(&blocks)), |error| Err(error.to_string()))
        };
        assert_eq!(mainnet(None, &from(7)), Ok(vec![7, 8]));
        assert_eq!(mainnet(Some(7), &default), Ok(vec![7, 8]));
        let error = mainnet(None, &default).unwrap_err();
        assert!(error.contains("states no height (BIP34); give --start-height"), "{error}");
        assert!(mainnet(Some(0), &default).unwrap_err().contains("it is not a genesis block"));
        assert!(mainnet(Some(227_931), &default).unwrap_err().contains("its coinbase states no height"));
        let genesis = regtest(1);
        let one = mine(genesis.last(), 1, 1, 0);
        let two = mine(Some(&one), 2, 2, 0);
        assert!(chain(&bytes_of(std::slice::from_ref(&one)), None, &default).is_err());
        assert!(chain(&bytes_of(&[one]), Some(u32::MAX - 1), &default).is_ok());
        assert_eq!(chain(&bytes_of(&[two]), None, &from(2)), Ok(vec![2]));
    }
}
