//! The iterator over all inputs. It reads the inputs one after the other, assigns the heights, and checks that heights rise. With
//! [`Options::check_chain`], it also checks that each block follows the previous one.

use std::collections::VecDeque;

use bitcoin::{BlockHash, Network};

use super::block::{ReadBlock, SourceBlock};
use super::error::BlockError;
use super::heights::HeightAssigner;
use super::options::Options;
use super::part::{Part, join_network};

/// All blocks of the inputs, in order. The iterator ends after an error.
#[derive(Debug)]
pub struct BlockSource {
    parts: VecDeque<Part>,
    options: Options,
    heights: HeightAssigner,
    /// The height and the hash of the previous block.
    last: Option<(u32, BlockHash)>,
    /// An error about blocks that are missing in blk files. It comes after all blocks.
    missing: Option<BlockError>,
    network: Option<Network>,
    total: Option<u64>,
    already_indexed: u64,
    links: bool,
    ended: bool,
}

impl BlockSource {
    /// A source of these parts, which are read in this order. The error `missing` comes last.
    pub(super) fn new(
        parts: Vec<Part>,
        options: &Options,
        network: Option<Network>,
        missing: Option<BlockError>,
    ) -> Self {
        Self {
            total: parts.iter().map(Part::blocks).sum(),
            already_indexed: parts.iter().map(Part::already_indexed).sum(),
            links: options.check_chain || matches!(parts[..], [Part::Chain(_)]),
            heights: HeightAssigner::new(options),
            parts: parts.into(),
            options: options.clone(),
            last: None,
            missing,
            network,
            ended: false,
        }
    }

    /// The number of blocks. `None` if a part is a stream, because the number of its blocks is known only at its end.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// How many blocks are not delivered because they are indexed already; see [`Options::indexed`].
    pub fn already_indexed(&self) -> u64 {
        self.already_indexed
    }

    /// The network that the records name. The network of files is known at once, the network of a stream after its first block.
    /// Raw blocks do not name their network.
    pub fn network(&self) -> Option<Network> {
        self.network
    }

    /// Whether each block is guaranteed to follow the previous one, by its height and by the hash in its header. This holds for
    /// a single chain from blk files, and with [`Options::check_chain`].
    pub fn links(&self) -> bool {
        self.links
    }

    fn advance(&mut self) -> Result<Option<SourceBlock>, BlockError> {
        while let Some(mut part) = self.parts.pop_front() {
            let Some(block) = part.next_block(&self.options)? else { continue };
            if let Part::Stream { stream, .. } = &part
                && let Some(network) = stream.network()
            {
                join_network(&mut self.network, network, &block.origin)?;
            }
            if !part.is_single() {
                self.parts.push_front(part);
            }
            return self.admit(block).map(Some);
        }
        self.missing.take().map_or(Ok(None), Err)
    }

    /// Assigns a height to a block. Then compares the height with the height that the block states, and checks with
    /// [`Options::check_chain`] that the block follows the previous one.
    fn admit(&mut self, block: ReadBlock) -> Result<SourceBlock, BlockError> {
        let own = block.height.or_else(|| self.height_after_gap(&block));
        let height = self.heights.assign(own, &block.origin)?;
        let ReadBlock { hash, previous, claim, bytes, origin, .. } = block;
        if let Some(mismatch) = claim.and_then(|claim| claim.mismatch(height, self.network)) {
            return Err(BlockError::WrongHeight { origin, hash, height, mismatch });
        }
        if self.options.check_chain
            && let (Some((last_height, last)), Some(previous)) = (self.last, previous)
            && previous != last
        {
            return Err(BlockError::NotLinked { origin, height, previous, last, last_height });
        }
        self.last = Some((height, hash));
        Ok(SourceBlock { height, hash, previous, bytes, origin })
    }

    /// The height that a block states, if heights may be missing before it.
    fn height_after_gap(&self, block: &ReadBlock) -> Option<u32> {
        let reliable = block.claim?.reliable(self.network)?;
        let follows = self.heights.next_height().is_some_and(|next| next <= reliable);
        (self.heights.allows_gaps() && follows).then_some(reliable)
    }
}

impl Iterator for BlockSource {
    type Item = Result<SourceBlock, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.advance().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::options::IndexedRange;
    use crate::blocks::testing::{
        Files, at, block_702861, drain, early_blocks, heights, input, open, records, shared,
    };
    use crate::blocks::verify::verify;

    #[test]
    fn a_source_can_go_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<BlockSource>();
    }

    #[test]
    fn a_directory_of_raw_files_is_read_in_natural_order() {
        let files = Files::new();
        for number in [10, 9, 100, 2] {
            files.add(&format!("block-{number}.bin"), &early_blocks()[number]);
        }
        files.add("README.md", "not a block");
        let options = Options { start_height: Some(5), ..Options::default() };
        let source = open(&[input(files.path())], &options).unwrap();
        assert_eq!((source.total(), source.network(), source.links()), (Some(4), None, false));
        let (blocks, error) = drain(&[input(files.path())], &options);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [5, 6, 7, 8]);
        let order = [2, 9, 10, 100].map(|number: usize| early_blocks()[number].clone());
        assert!(blocks.iter().zip(order).all(|(block, bytes)| block.bytes == bytes));
    }

    #[test]
    fn a_file_that_is_not_a_block_is_named_with_the_byte() {
        let files = Files::new();
        let block = &early_blocks()[170];
        let longer = [block.as_slice(), b"x"].concat();
        let length = block.len();
        let cases = [
            (block[..300].to_vec(), "unexpected end at byte 300".to_owned()),
            (longer, format!("the block ends at byte {length}, and 1 more byte(s) follow it")),
            (b"hello, world".to_vec(), "unexpected end at byte 12".to_owned()),
        ];
        for (bytes, reason) in cases {
            let path = files.add("x.bin", &bytes);
            let error = drain(&[input(&path)], &Options::default()).1.unwrap().to_string();
            let hint = "; to feed the bytes as they are, give --opaque";
            assert_eq!(
                error,
                format!("{} at byte 0 is not a Bitcoin block ({reason}){hint}", path.display())
            );
        }
    }

    #[test]
    fn a_damaged_block_ends_the_source() {
        let files = Files::new();
        let mut bytes = early_blocks()[170].clone();
        bytes[200] ^= 1;
        let inputs =
            [at(Some(170), files.add("x.bin", bytes)), input(files.add("y.bin", &early_blocks()[1]))];
        let mut source = open(&inputs, &Options::default()).unwrap();
        assert!(matches!(source.next(), Some(Err(BlockError::DamagedBlock { .. }))));
        assert!(source.next().is_none());
    }

    #[test]
    fn opaque_bytes_are_not_interpreted() {
        let files = Files::new();
        let options = Options { opaque: true, max_block_bytes: 1000, ..Options::default() };
        let text = files.add("x.bin", "hello");
        // Even records are not interpreted.
        let blk = files.add("y.blk", records(&early_blocks()[..1]));
        let (blocks, error) = drain(&[at(Some(3), &text), input(&blk)], &options);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [3, 4]);
        assert_eq!((blocks[0].bytes.as_slice(), blocks[0].previous), (&b"hello"[..], None));
        // echo -n hello | openssl sha256 -binary | openssl sha256, reversed.
        let hash = "503d8319a48348cdc610a582f7bf754b5833df65038606eb48510790dfc99595";
        assert_eq!(blocks[0].hash.to_string(), hash);
        let error = open(&[input(files.add("z.bin", [1; 1001]))], &options).unwrap_err().to_string();
        assert!(error.contains("has 1001 bytes, more than the limit of 1000"), "{error}");
    }

    #[test]
    fn check_chain_requires_linked_blocks_without_gaps() {
        let files = Files::new();
        let block = |number: usize| files.add(&format!("{number}.bin"), &early_blocks()[number]);
        let options = Options { check_chain: true, ..Options::default() };
        let linked = [at(Some(7), block(7)), input(block(8)), input(block(9))];
        assert!(open(&linked, &options).unwrap().links());
        assert_eq!(heights(&drain(&linked, &options).0), [7, 8, 9]);

        let (blocks, error) = drain(&[at(Some(7), block(7)), input(block(9))], &options);
        let error = error.unwrap().to_string();
        assert_eq!(blocks.len(), 1);
        let [names, before] = [8, 7].map(|number| hash(&early_blocks()[number]));
        assert!(
            error.contains(&format!("block 8 names {names} as the block before it, but block 7 is {before}")),
            "{error}"
        );

        // Even if gaps are allowed.
        let options = Options { allow_gaps: true, ..options };
        let error = drain(&[at(Some(7), block(7)), at(Some(9), block(8))], &options).1.unwrap();
        assert!(matches!(error, BlockError::HeightGap { height: 9, last_height: 7, .. }), "{error}");
    }

    #[test]
    fn a_block_is_indexed_only_at_the_height_that_it_states() {
        let files = Files::new();
        let late = files.add("late.bin", block_702861());
        let early = files.add("early.bin", &early_blocks()[7]);
        let genesis = files.add("genesis.bin", &early_blocks()[0]);
        let default = Options::default();
        for (input, told) in [
            (
                at(Some(5), &late),
                "at height 5, but its coinbase states height 702861 (BIP34); write 702861=PATH",
            ),
            (input(&late), "at height 0, but it is not a genesis block"),
            (input(&early), "at height 0, but it is not a genesis block"),
            (at(Some(0), &early), "at height 0, but it is not a genesis block"),
            (at(Some(800_000), &early), "and each block from height 227931 on does"),
            (at(Some(7), &genesis), "at height 7, but it is a genesis block"),
        ] {
            let (blocks, error) = drain(std::slice::from_ref(&input), &default);
            let error = error.unwrap().to_string();
            assert!(blocks.is_empty() && error.contains(told), "{input:?}: {error}");
        }
        let from = |start| Options { start_height: Some(start), ..Options::default() };
        assert_eq!(heights(&drain(&[input(&late)], &from(702_861)).0), [702_861]);
        assert_eq!(heights(&drain(&[at(Some(7), &early)], &default).0), [7]);
        assert_eq!(heights(&drain(&[input(&genesis)], &default).0), [0]);
        // Opaque bytes can have any height.
        let opaque = Options { opaque: true, ..Options::default() };
        assert_eq!(heights(&drain(&[at(Some(5), &late)], &opaque).0), [5]);
    }

    #[test]
    fn blocks_between_the_indexed_tip_and_the_first_new_block_must_not_be_missing() {
        let files = Files::new();
        let block = |number: usize| {
            at(u32::try_from(number).ok(), files.add(&format!("{number}.bin"), &early_blocks()[number]))
        };
        let after =
            |tip| Options { indexed: Some(IndexedRange { first: 0, tip, overlap: 0 }), ..Options::default() };
        assert_eq!(heights(&drain(&[block(3), block(9), block(10)], &after(9)).0), [3, 9, 10]);
        let error = open(&[block(3), block(11)], &after(9)).unwrap_err();
        assert!(matches!(error, BlockError::HeightGap { height: 11, last_height: 9, .. }), "{error}");
    }

    fn hash(bytes: &[u8]) -> BlockHash {
        verify(bytes).unwrap().block_hash()
    }

    #[test]
    fn real_raw_blocks_pass() {
        let names = ["83636", "413567", "840243", "892614"];
        let Some(inputs) = names
            .map(|height| shared(&format!("mainnet-{height}.bin")).map(|path| at(height.parse().ok(), path)))
            .into_iter()
            .collect::<Option<Vec<_>>>()
        else {
            return;
        };
        let (blocks, error) = drain(&inputs, &Options { allow_gaps: true, ..Options::default() });
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [83_636, 413_567, 840_243, 892_614]);
    }
}
