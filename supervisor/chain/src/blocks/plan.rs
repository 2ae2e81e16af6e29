//! From arguments to the parts of a source: opens the inputs in their order, joins blk files that follow each
//! other to one chain, and settles heights as far as they can be known before the first block is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::branches::Branches;
use super::chain::Chain;
use super::discover::{Found, discover};
use super::numbering::Numbering;
use super::scan::{Progress, scan};
use super::source::{Part, join_network};
use super::store::BlkFile;
use super::stream::Stream;
use super::{BlockError, BlockHash, BlockInput, BlockSource, Network, Options, Origin};

/// What [`Origin::file`](super::Origin::file) says of standard input.
const STDIN_NAME: &str = "standard input";

type Input = Box<dyn Read + Send>;

/// Opens the inputs. Whatever can be seen without reading the blocks fails here: missing files, directories
/// without blocks, heights out of order. Blk files are scanned, which reads 88 bytes a block; `progress` is
/// called meanwhile with the bytes scanned and the bytes in all. Inputs of blk records that follow each other
/// form one chain.
///
/// # Errors
///
/// See [`BlockError`]. A torn record is no error here unless nothing else was found: the iterator gives it
/// last.
pub fn open(
    inputs: &[BlockInput],
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BlockSource, BlockError> {
    open_with(inputs, options, progress, Box::new(io::stdin()))
}

/// [`open`], with something in the place of standard input.
pub(super) fn open_with(
    inputs: &[BlockInput],
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
    stdin: Input,
) -> Result<BlockSource, BlockError> {
    if inputs.is_empty() {
        return Err(BlockError::NoInputs);
    }
    if options.opaque && options.check_chain {
        return Err(BlockError::OpaqueChain);
    }
    let mut plan = Plan::new(options);
    let mut stdin = Some(stdin);
    for input in inputs {
        match input {
            BlockInput::Stdin { height } => {
                let input = stdin.take().ok_or(BlockError::StdinTwice)?;
                plan.stream(input, Path::new(STDIN_NAME), *height);
            }
            BlockInput::Path { path, height } => {
                for (number, found) in discover(path, options.opaque)?.into_iter().enumerate() {
                    plan.add(found, height.filter(|_| number == 0))?;
                }
            }
        }
    }
    plan.open(progress)
}

/// What will be read, before the blk files were scanned.
pub(super) struct Plan<'a> {
    options: &'a Options,
    items: Vec<Planned>,
}

enum Planned {
    Ready(Part),
    Blk { files: Vec<BlkFile>, height: Option<u32> },
}

impl<'a> Plan<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, items: Vec::new() }
    }

    pub(super) fn add(&mut self, found: Found, height: Option<u32>) -> Result<(), BlockError> {
        match found {
            Found::Raw(store) => {
                store.check_size(store.len(), self.options.max_block_bytes)?;
                self.items.push(Planned::Ready(Part::Raw { store, height }));
            }
            Found::Blk(file) => match self.items.last_mut() {
                Some(Planned::Blk { files, .. }) if height.is_none() => files.push(file),
                _ => self.items.push(Planned::Blk { files: vec![file], height }),
            },
            Found::Pipe(path) => self.stream(Box::new(Lazy::Closed(path.clone())), &path, height),
        }
        Ok(())
    }

    fn stream(&mut self, input: Input, name: &Path, height: Option<u32>) {
        let stream = Stream::new(input, name, self.options);
        self.items.push(Planned::Ready(Part::Stream { stream, height }));
    }

    /// Scans the blk files and settles all heights that can be known before the first block is read.
    pub(super) fn open(self, progress: &mut dyn FnMut(u64, u64)) -> Result<BlockSource, BlockError> {
        let bytes = self.items.iter().map(Planned::bytes_to_scan).sum();
        let mut progress = Progress::new(bytes, progress);
        let mut opening = Opening::new(self.options);
        let mut parts = Vec::with_capacity(self.items.len());
        for item in self.items {
            let part = match item {
                Planned::Ready(part) => part,
                Planned::Blk { files, height } => Part::Chain(opening.chain(files, height, &mut progress)?),
            };
            opening.look_ahead(&part)?;
            parts.push(part);
        }
        Ok(BlockSource::new(parts, self.options, opening.network, opening.torn))
    }
}

impl Planned {
    fn bytes_to_scan(&self) -> u64 {
        match self {
            Self::Ready(_) => 0,
            Self::Blk { files, .. } => files.iter().map(|file| file.store.len()).sum(),
        }
    }
}

/// What is known of the parts so far, while they are opened one after the other.
struct Opening<'a> {
    options: &'a Options,
    /// Heights as they will be; `None` behind a stream, of which nobody knows how long it is.
    ahead: Option<Numbering>,
    network: Option<Network>,
    torn: Option<BlockError>,
}

impl<'a> Opening<'a> {
    fn new(options: &'a Options) -> Self {
        let ahead = Some(Numbering::new(options));
        Self { options, ahead, network: None, torn: None }
    }

    /// Counts a part's heights, so that wrong ones are told at once and not after a day of indexing.
    fn look_ahead(&mut self, part: &Part) -> Result<(), BlockError> {
        let Some(ahead) = &mut self.ahead else { return Ok(()) };
        match part {
            Part::Raw { store, height } => {
                ahead.assign(*height, &store.origin(0))?;
            }
            Part::Chain(chain) => {
                if let (Some((origin, _)), Some((first, last))) = (chain.first(), chain.heights()) {
                    ahead.assign(Some(first), &origin)?;
                    ahead.skip_to(last);
                }
            }
            Part::Stream { .. } => self.ahead = None,
        }
        Ok(())
    }

    fn chain(
        &mut self,
        files: Vec<BlkFile>,
        height: Option<u32>,
        progress: &mut Progress<'_>,
    ) -> Result<Chain, BlockError> {
        let first_file: PathBuf = files.first().map(|file| file.store.name().into()).unwrap_or_default();
        let count = files.len();
        let limit = self.options.max_block_bytes;
        let mut index = scan(&files, limit, progress)?;
        let (torn, copies) = (index.torn.take(), std::mem::take(&mut index.copies));
        let branches = Branches::of(&index);
        let Some(mut tip) = branches.best() else {
            return Err(torn.unwrap_or(BlockError::NoRecords { path: first_file, files: count }));
        };
        let mut chain = Chain::new(files, copies, limit);
        chain.follow(&index, tip);
        if let (Some(found), Some((origin, _))) = (index.network, chain.first()) {
            join_network(&mut self.network, found, &origin)?;
        }
        if let Err(error) = self.settle_height(&mut chain, height) {
            // The most work lies behind a hole, which leaves the part before it.
            let unrooted = matches!(error, BlockError::BeginsAbove { .. } | BlockError::HeightUnknown { .. });
            let from_genesis = branches.best_from_genesis().filter(|_| unrooted || error.is_incomplete());
            let Some(other) = from_genesis.filter(|other| *other != tip) else { return Err(error) };
            tip = other;
            chain.follow(&index, tip);
            self.settle_height(&mut chain, height)?;
        }
        let hole = match torn.is_none() {
            true => hole(&mut chain, &branches, tip)?,
            false => None,
        };
        self.torn = self.torn.take().or(torn).or(hole);
        Ok(chain)
    }

    /// Finds the height of the chain's first block. What the block says of itself decides, since a chain must not be indexed
    /// under heights that are not its own; where it says nothing that is certain, `HEIGHT=`, `--start-height` or the input
    /// before does.
    fn settle_height(&self, chain: &mut Chain, asked: Option<u32>) -> Result<(), BlockError> {
        let Some((origin, hash)) = chain.first() else { return Ok(()) };
        let Some(claim) = chain.root_claim()? else { return Ok(()) };
        let start = self.options.start_height;
        let certain = claim.certain(self.network);
        let root = match (certain, asked) {
            (Some(known), Some(asked)) if known != asked => {
                return Err(BlockError::HeightConflict { origin, hash, asked, known });
            }
            (Some(known), _) => known,
            (None, Some(asked)) => asked,
            (None, None) => match claim.named().or_else(|| self.following()) {
                Some(height) => height,
                None => return Err(BlockError::HeightUnknown { origin, hash }),
            },
        };
        if let Some(contradiction) = claim.contradiction(root, self.network) {
            return Err(BlockError::OtherHeight { origin, hash, height: root, contradiction });
        }
        self.check_begin(root, asked, origin, hash)?;
        chain.begin_at(root, start.unwrap_or(0), self.options.known)
    }

    /// The height that a chain follows on: of the first input only --start-height can tell; later ones count on.
    fn following(&self) -> Option<u32> {
        let told = |ahead: &&Numbering| self.options.start_height.is_some() || !ahead.is_fresh();
        self.ahead.as_ref().filter(told).and_then(Numbering::following)
    }

    /// Refuses a chain that leaves out blocks which are wanted: a file that is missing must not show in the state. Where the
    /// height of the first input was said, that is where to begin.
    fn check_begin(
        &self,
        first: u32,
        asked: Option<u32>,
        origin: Origin,
        hash: BlockHash,
    ) -> Result<(), BlockError> {
        let Some(ahead) = self.ahead.as_ref().filter(|ahead| !ahead.allows_gaps()) else { return Ok(()) };
        let wanted = ahead.wanted();
        if first <= wanted || (asked.is_some() && ahead.is_first()) {
            return Ok(());
        }
        Err(BlockError::BeginsAbove { origin, hash, first, wanted })
    }
}

/// The block behind a hole above the end of the chain, if there is one. Blocks that name a lower height are stale, or the node
/// has pruned what was before them.
fn hole(chain: &mut Chain, branches: &Branches<'_>, tip: u32) -> Result<Option<BlockError>, BlockError> {
    let Some((_, last)) = chain.heights() else { return Ok(None) };
    for entry in branches.other_roots(tip) {
        let (origin, height) = match chain.named_height(entry) {
            Ok(named) => named,
            // Nothing that is needed hangs on it as far as anybody knows.
            Err(error) if error.is_incomplete() => continue,
            Err(error) => return Err(error),
        };
        if height.is_none_or(|height| height > last) {
            let (hash, previous) = (entry.hash, entry.previous);
            return Ok(Some(BlockError::Hole { origin, hash, height, previous, tip: last }));
        }
    }
    Ok(None)
}

/// A pipe that is opened when its turn comes: opening one waits for the writer.
enum Lazy {
    Closed(PathBuf),
    Open(File),
}

impl Read for Lazy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Closed(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        match self {
            Self::Open(file) => file.read(buffer),
            Self::Closed(_) => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Known;
    use crate::blocks::testing::{
        Files, at, block_702861, bytes_of, drain, early_blocks, heights, input, mine, open, records,
        records_of, regtest,
    };

    fn from(start: u32) -> Options {
        Options { start_height: Some(start), ..Options::default() }
    }

    /// What is read from a blk file of these blocks, as heights or as an error.
    fn chain(blocks: &[Vec<u8>], height: Option<u32>, options: &Options) -> Result<Vec<u32>, String> {
        let files = Files::new();
        let path = files.add("x.blk", records_of(Network::Regtest, blocks));
        match drain(&[at(height, path)], options) {
            (blocks, None) => Ok(heights(&blocks)),
            (_, Some(error)) => Err(error.to_string()),
        }
    }

    fn after(tip: u32) -> Options {
        Options { known: Some(Known { first: 0, tip, again: 0 }), ..Options::default() }
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
        assert!(error.contains("height 7 was asked for, but the chain begins at height 18"), "{error}");
        let error = chain(&blocks, Some(5), &default).unwrap_err();
        assert!(error.contains("height 5 was asked for, but the chain begins at height 0"), "{error}");
    }

    #[test]
    fn a_chain_that_begins_above_what_is_wanted_is_refused() {
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
        // What was said of one input counts for what is new.
        assert!(chain(&blocks[17..], Some(17), &after(14)).is_err());
    }

    #[test]
    fn what_lies_before_a_hole_is_given_and_then_the_hole() {
        let blocks = bytes_of(&regtest(20));
        let with_hole = |at: u32| {
            let mut blocks = blocks.clone();
            blocks.remove(at as usize);
            blocks
        };
        // Before and behind the middle: whichever part has more work.
        for at in [5, 15] {
            let files = Files::new();
            let path = files.add("x.blk", records_of(Network::Regtest, &with_hole(at)));
            let (read, error) = drain(&[input(path)], &Options::default());
            assert_eq!(heights(&read), (0..at).collect::<Vec<_>>());
            let error = error.unwrap().to_string();
            let told = format!("(height {}) names", at + 1);
            assert!(error.contains(&told) && error.contains("no file given holds that one"), "{error}");
        }
        // Of what a store has already, nothing is missing.
        assert_eq!(chain(&with_hole(5), None, &after(12)), Ok((12..20).collect()));
    }

    #[test]
    fn a_chain_that_does_not_say_its_height_needs_one() {
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
        assert!(error.contains("names no height (BIP34); give --start-height"), "{error}");
        assert!(mainnet(Some(0), &default).unwrap_err().contains("it is no genesis block"));
        assert!(mainnet(Some(227_931), &default).unwrap_err().contains("its coinbase names no height"));
        let genesis = regtest(1);
        let one = mine(genesis.last(), 1, 1, 0);
        let two = mine(Some(&one), 2, 2, 0);
        assert!(chain(&bytes_of(std::slice::from_ref(&one)), None, &default).is_err());
        assert!(chain(&bytes_of(&[one]), Some(u32::MAX - 1), &default).is_ok());
        assert_eq!(chain(&bytes_of(&[two]), None, &from(2)), Ok(vec![2]));
    }

    #[test]
    fn heights_go_on_from_input_to_input() {
        let files = Files::new();
        let early = early_blocks();
        let chain = files.add("x.blk", records(&early[..5]));
        let rest = files.add("y.blk", records(&early[7..9]));
        let raw = files.add("5.bin", &early[5]);
        let late = files.add("late.bin", block_702861());
        let inputs = [input(&chain), input(&raw), at(Some(702_861), &late)];
        let gaps = Options { allow_gaps: true, ..Options::default() };
        let source = open(&inputs, &gaps).unwrap();
        assert_eq!(
            (source.total(), source.network(), source.links()),
            (Some(7), Some(Network::Bitcoin), false)
        );
        let (blocks, error) = drain(&inputs, &gaps);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [0, 1, 2, 3, 4, 5, 702_861]);
        // It says so itself.
        assert_eq!(heights(&drain(&[input(&chain), input(&raw), input(&late)], &gaps).0)[6], 702_861);
        // Without the option the gap is told before the first block.
        let error = open(&inputs, &Options::default()).unwrap_err().to_string();
        assert!(
            error.contains("block 702861") && error.contains("blocks 6 to 702860 are missing"),
            "{error}"
        );

        // A later chain without heights of its own counts on, too.
        let (blocks, error) = drain(&[at(Some(6), &raw), input(&rest)], &Options::default());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [6, 7, 8]);
    }

    #[test]
    fn files_of_no_known_network_are_named() {
        let files = Files::new();
        for name in ["x.blk", "blk00000.dat"] {
            let path = files.add(name, b"\xaa\xbb\xcc\xdd and more");
            let error = open(&[input(path)], &Options::default()).unwrap_err().to_string();
            assert!(error.contains("at byte 0: aabbccdd is the magic of no known network"), "{error}");
        }
        // One that is damaged among others is a gap like others.
        std::fs::remove_file(files.path().join("x.blk")).unwrap();
        for (whole, damaged) in [("blk00000.dat", "blk00001.dat"), ("blk00001.dat", "blk00000.dat")] {
            files.add(whole, records(&early_blocks()[..3]));
            files.add(damaged, b"\xaa\xbb\xcc\xdd and more");
            let (blocks, error) = drain(&[input(files.path())], &Options::default());
            assert!(error.is_none() && blocks.len() == 3, "{error:?}");
        }
    }

    #[test]
    fn heights_that_fall_are_seen_before_the_first_block() {
        let files = Files::new();
        let chain = files.add("x.blk", records(&early_blocks()[..5]));
        let raw = files.add("1.bin", &early_blocks()[1]);
        for (inputs, message) in [
            ([input(&chain), at(Some(4), &raw)], "height 4 follows height 4"),
            ([at(Some(1), &raw), input(&chain)], "height 0 follows height 1"),
            ([at(Some(9), &raw), at(Some(8), &raw)], "height 8 follows height 9"),
            ([at(Some(u32::MAX), &raw), input(&raw)], "above height 4294967295"),
        ] {
            let error = open(&inputs, &Options::default()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_at_once() {
        let files = Files::new();
        let default = Options::default();
        assert!(matches!(open(&[], &default), Err(BlockError::NoInputs)));
        let stdin = BlockInput::Stdin { height: None };
        assert!(matches!(open(&[stdin.clone(), stdin.clone()], &default), Err(BlockError::StdinTwice)));
        let both = Options { opaque: true, check_chain: true, ..Options::default() };
        assert!(matches!(open(&[stdin], &both), Err(BlockError::OpaqueChain)));
        let empty = input(files.add("empty.bin", ""));
        assert!(matches!(open(&[empty], &default), Err(BlockError::EmptyFile { .. })));
        let padding = input(files.add("blk00000.dat", [0; 99]));
        assert!(matches!(open(&[padding], &default), Err(BlockError::NoRecords { files: 1, .. })));
        let torn = input(files.add("x.blk", &records(&early_blocks()[..1])[..99]));
        assert!(matches!(open(&[torn], &default), Err(BlockError::Torn { .. })));
    }

    #[test]
    fn progress_ends_at_the_total() {
        let files = Files::new();
        let paths = ["x.blk", "y.blk"].map(|name| input(files.add(name, records(&early_blocks()[..5]))));
        let mut told = Vec::new();
        open_with(&paths, &Options::default(), &mut |at, of| told.push((at, of)), Box::new(io::empty()))
            .unwrap();
        let bytes = records(&early_blocks()[..5]).len() as u64;
        assert_eq!(told, [(bytes, 2 * bytes), (2 * bytes, 2 * bytes)]);
    }

    #[test]
    fn a_named_pipe_is_a_stream() {
        let files = Files::new();
        let path = files.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::write(path, early_blocks().concat()).unwrap())
        };
        let (blocks, error) = drain(&[input(path)], &Options::default());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(blocks.len(), 439);
        writer.join().unwrap();
    }
}
