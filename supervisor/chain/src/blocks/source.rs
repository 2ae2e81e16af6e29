//! The iterator over all inputs of a run: reads them one after the other, gives every block its height, and
//! keeps the promise that heights rise and, where asked for, that blocks link.

use std::collections::VecDeque;
use std::io::Read;

use super::bip34::Claim;
use super::chain::Chain;
use super::numbering::Numbering;
use super::store::Store;
use super::stream::Stream;
use super::verify::{Defect, opaque_hash, verify};
use super::{BlockError, BlockHash, Network, Options, Origin, SourceBlock, Unnumbered};

/// All blocks of a run, in order. After an error it ends.
#[derive(Debug)]
pub struct BlockSource {
    parts: VecDeque<Part>,
    options: Options,
    numbering: Numbering,
    /// Height and hash of the block before.
    last: Option<(u32, BlockHash)>,
    /// A torn record among the blk files: told after all that could be read.
    torn: Option<BlockError>,
    network: Option<Network>,
    total: Option<u64>,
    passed_over: u64,
    links: bool,
    ended: bool,
}

/// What is read as one.
pub(super) enum Part {
    /// A file that is one block.
    Raw { store: Store, height: Option<u32> },
    /// Blk files.
    Chain(Chain),
    /// Standard input, or another pipe.
    Stream { stream: Stream<Box<dyn Read + Send>>, height: Option<u32> },
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Raw { store, .. } => f.debug_tuple("Raw").field(store).finish(),
            Self::Chain(chain) => f.debug_tuple("Chain").field(chain).finish(),
            Self::Stream { .. } => f.debug_tuple("Stream").finish_non_exhaustive(),
        }
    }
}

impl Part {
    /// How many blocks it has, if that is known.
    pub(super) fn blocks(&self) -> Option<u64> {
        match self {
            Self::Raw { .. } => Some(1),
            Self::Chain(chain) => Some(chain.remaining()),
            Self::Stream { .. } => None,
        }
    }

    fn passed_over(&self) -> u64 {
        match self {
            Self::Chain(chain) => chain.passed_over(),
            Self::Raw { .. } | Self::Stream { .. } => 0,
        }
    }

    fn next_block(&mut self, options: &Options) -> Result<Option<Unnumbered>, BlockError> {
        match self {
            Self::Raw { store, height } => read_raw(store, *height, options).map(Some),
            Self::Chain(chain) => chain.next_block(),
            Self::Stream { stream, height } => {
                let block = stream.next_block()?;
                // Only the first has the height of the argument.
                Ok(block.map(|block| Unnumbered { height: height.take(), ..block }))
            }
        }
    }

    /// Whether there is nothing after the block that was just read.
    fn is_single(&self) -> bool {
        matches!(self, Self::Raw { .. })
    }
}

/// A file that is one block.
fn read_raw(store: &Store, height: Option<u32>, options: &Options) -> Result<Unnumbered, BlockError> {
    let bytes = store.read_whole(options.max_block_bytes)?;
    let origin = store.origin(0);
    if options.opaque {
        let hash = opaque_hash(&bytes);
        return Ok(Unnumbered { height, hash, previous: None, claim: None, bytes, origin });
    }
    match verify(&bytes) {
        Ok(block) => {
            let (previous, claim) = (Some(block.header.prev_blockhash), Some(Claim::of(&block)));
            Ok(Unnumbered { height, hash: block.block_hash(), previous, claim, bytes, origin })
        }
        Err(defect @ (Defect::Undecodable { .. } | Defect::TrailingBytes { .. })) => {
            Err(BlockError::NotABlock { origin, defect })
        }
        Err(defect) => Err(BlockError::Damaged { origin, defect }),
    }
}

impl BlockSource {
    /// Of parts in the order in which they are to be read; `torn` is told last.
    pub(super) fn new(
        parts: Vec<Part>,
        options: &Options,
        network: Option<Network>,
        torn: Option<BlockError>,
    ) -> Self {
        Self {
            total: parts.iter().map(Part::blocks).sum(),
            passed_over: parts.iter().map(Part::passed_over).sum(),
            links: options.check_chain || matches!(parts[..], [Part::Chain(_)]),
            numbering: Numbering::new(options),
            parts: parts.into(),
            options: options.clone(),
            last: None,
            torn,
            network,
            ended: false,
        }
    }

    /// How many blocks there are in all; `None` if that shows only at the end of a stream.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// How many blocks will not be given because they are known; see [`Options::known`].
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The network that the blk records name: of files at once, of a stream after its first block. Raw blocks
    /// do not say theirs.
    pub fn network(&self) -> Option<Network> {
        self.network
    }

    /// Whether every block is promised to follow the one before, in height and by its hash: a chain from blk
    /// files alone, or `check_chain`.
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
        self.torn.take().map_or(Ok(None), Err)
    }

    /// Numbers a block, and holds it against what it says of its height and against the one before.
    fn admit(&mut self, block: Unnumbered) -> Result<SourceBlock, BlockError> {
        let own = block.height.or_else(|| self.height_after_gap(&block));
        let height = self.numbering.assign(own, &block.origin)?;
        let Unnumbered { hash, previous, claim, bytes, origin, .. } = block;
        if let Some(contradiction) = claim.and_then(|claim| claim.contradiction(height, self.network)) {
            return Err(BlockError::OtherHeight { origin, hash, height, contradiction });
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

    /// The height of a block that may leave some out, if it says its own.
    fn height_after_gap(&self, block: &Unnumbered) -> Option<u32> {
        let certain = block.claim?.certain(self.network)?;
        let follows = self.numbering.following().is_some_and(|next| next <= certain);
        (self.numbering.allows_gaps() && follows).then_some(certain)
    }
}

/// Holds a network against that of the blocks so far, if any.
pub(super) fn join_network(
    network: &mut Option<Network>,
    found: Network,
    origin: &Origin,
) -> Result<(), BlockError> {
    let expected = *network.get_or_insert(found);
    if found == expected {
        return Ok(());
    }
    Err(BlockError::MixedNetworks { origin: origin.clone(), expected, found })
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
    use crate::blocks::Known;
    use crate::blocks::testing::{
        Files, at, block_702861, drain, early_blocks, heights, input, open, records, shared,
    };

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
    fn files_that_are_no_block_are_named_with_the_byte() {
        let files = Files::new();
        let block = &early_blocks()[170];
        let longer = [block.as_slice(), b"x"].concat();
        let length = block.len();
        let cases = [
            (block[..300].to_vec(), "unexpected end at byte 300".to_owned()),
            (longer, format!("1 byte(s) too many at byte {length}")),
            (b"hello, world".to_vec(), "unexpected end at byte 12".to_owned()),
        ];
        for (bytes, reason) in cases {
            let path = files.add("x.bin", &bytes);
            let error = drain(&[input(&path)], &Options::default()).1.unwrap().to_string();
            let hint = "; give --opaque to feed the bytes as they are";
            assert_eq!(
                error,
                format!("{} at byte 0 is not a Bitcoin block ({}){hint}", path.display(), {
                    if reason.contains("too many") {
                        format!("{reason}, where the block ends")
                    } else {
                        reason
                    }
                })
            );
        }
    }

    #[test]
    fn a_flipped_byte_is_damage_and_ends_the_source() {
        let files = Files::new();
        let mut bytes = early_blocks()[170].clone();
        bytes[200] ^= 1;
        let inputs =
            [at(Some(170), files.add("x.bin", bytes)), input(files.add("y.bin", &early_blocks()[1]))];
        let mut source = open(&inputs, &Options::default()).unwrap();
        assert!(matches!(source.next(), Some(Err(BlockError::Damaged { .. }))));
        assert!(source.next().is_none());
    }

    #[test]
    fn opaque_bytes_are_fed_as_they_are() {
        let files = Files::new();
        let options = Options { opaque: true, max_block_bytes: 1000, ..Options::default() };
        let text = files.add("x.bin", "hello");
        // Even records of blocks are just bytes then.
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
    fn check_chain_wants_links_without_gaps() {
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

        // Whatever else is allowed.
        let options = Options { allow_gaps: true, ..options };
        let error = drain(&[at(Some(7), block(7)), at(Some(9), block(8))], &options).1.unwrap();
        assert!(matches!(error, BlockError::Gap { height: 9, last_height: 7, .. }), "{error}");
    }

    #[test]
    fn a_block_is_only_indexed_at_the_height_that_it_names() {
        let files = Files::new();
        let late = files.add("late.bin", block_702861());
        let early = files.add("early.bin", &early_blocks()[7]);
        let genesis = files.add("genesis.bin", &early_blocks()[0]);
        let default = Options::default();
        for (input, told) in [
            (
                at(Some(5), &late),
                "at height 5, but its coinbase names height 702861 (BIP34); write 702861=PATH",
            ),
            (input(&late), "at height 0, but it is no genesis block"),
            (input(&early), "at height 0, but it is no genesis block"),
            (at(Some(0), &early), "at height 0, but it is no genesis block"),
            (at(Some(800_000), &early), "which every block from height 227931 on does"),
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
        // As bytes of which nothing is known it is anything.
        let opaque = Options { opaque: true, ..Options::default() };
        assert_eq!(heights(&drain(&[at(Some(5), &late)], &opaque).0), [5]);
    }

    #[test]
    fn blocks_that_a_store_lacks_are_not_left_out() {
        let files = Files::new();
        let block = |number: usize| {
            at(u32::try_from(number).ok(), files.add(&format!("{number}.bin"), &early_blocks()[number]))
        };
        let after = |tip| Options { known: Some(Known { first: 0, tip, again: 0 }), ..Options::default() };
        assert_eq!(heights(&drain(&[block(3), block(9), block(10)], &after(9)).0), [3, 9, 10]);
        let error = open(&[block(3), block(11)], &after(9)).unwrap_err();
        assert!(matches!(error, BlockError::Gap { height: 11, last_height: 9, .. }), "{error}");
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
