//! From arguments to the parts of a source: opens the inputs in their order, joins blk files that follow each
//! other to one chain, and settles heights as far as they can be known before the first block is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::chain::{Chain, RootHeight};
use super::discover::{Found, discover};
use super::numbering::Numbering;
use super::scan::{Progress, scan};
use super::source::{Part, join_network};
use super::store::BlkFile;
use super::stream::Stream;
use super::{BlockError, BlockInput, BlockSource, Network, Options};

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
        let ahead = Some(Numbering::new(options.start_height.unwrap_or(0)));
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
        let mut index = scan(&files, self.options.max_block_bytes, progress)?;
        let torn = index.torn.take();
        let Some(mut chain) = Chain::select(files, &index, self.options.max_block_bytes) else {
            return Err(torn.unwrap_or(BlockError::NoRecords { path: first_file, files: count }));
        };
        if let (Some(found), Some((origin, _))) = (index.network, chain.first()) {
            join_network(&mut self.network, found, &origin)?;
        }
        self.torn = self.torn.take().or(torn);
        self.settle_height(&mut chain, height)?;
        Ok(chain)
    }

    /// Finds the height of the chain's first block. `HEIGHT=` decides unless it is a genesis block. Otherwise
    /// what the block says of itself does, since a chain must not be indexed under heights that are not its
    /// own; only where it says nothing, `--start-height` or the input before does.
    fn settle_height(&self, chain: &mut Chain, asked: Option<u32>) -> Result<(), BlockError> {
        let Some((origin, hash)) = chain.first() else { return Ok(()) };
        let start = self.options.start_height;
        let root = match (chain.root_height()?, asked) {
            (RootHeight::Genesis, Some(asked @ 1..)) => {
                return Err(BlockError::HeightConflict { origin, hash, asked, known: 0 });
            }
            (RootHeight::Genesis, _) => 0,
            (_, Some(asked)) => asked,
            (RootHeight::Named(known), None) => match start.filter(|start| *start < known) {
                Some(asked) => return Err(BlockError::HeightConflict { origin, hash, asked, known }),
                None => known,
            },
            (RootHeight::Unknown, None) => {
                // Of the first input only --start-height can tell; later ones count on.
                let following = self.ahead.as_ref().filter(|ahead| start.is_some() || !ahead.is_fresh());
                match following.and_then(Numbering::following) {
                    Some(height) => height,
                    None => return Err(BlockError::HeightUnknown { origin, hash }),
                }
            }
        };
        chain.begin_at(root, start.unwrap_or(0), self.options.known_below)
    }
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

    #[test]
    fn a_chain_without_genesis_takes_its_height_from_the_coinbase() {
        let blocks = bytes_of(&regtest(20));
        let default = Options::default();
        assert_eq!(chain(&blocks[17..], None, &default), Ok(vec![17, 18, 19]));
        assert_eq!(chain(&blocks[16..], None, &default), Ok(vec![16, 17, 18, 19]));
        assert_eq!(chain(&blocks[17..], None, &from(18)), Ok(vec![18, 19]));
        assert_eq!(chain(&blocks[18..], Some(7), &default), Ok(vec![7, 8]));
        let error = chain(&blocks[17..], None, &from(5)).unwrap_err();
        assert!(error.contains("height 5 was asked for, but the chain begins at height 17"), "{error}");
        let error = chain(&blocks, Some(5), &default).unwrap_err();
        assert!(error.contains("height 5 was asked for, but the chain begins at height 0"), "{error}");
    }

    #[test]
    fn a_chain_that_does_not_say_its_height_needs_one() {
        let early = early_blocks();
        let default = Options::default();
        assert_eq!(chain(&early[7..9], None, &from(7)), Ok(vec![7, 8]));
        assert_eq!(chain(&early[7..9], Some(7), &default), Ok(vec![7, 8]));
        let error = chain(&early[7..9], None, &default).unwrap_err();
        assert!(error.contains("names no height (BIP34); give --start-height"), "{error}");
        assert!(chain(&early[7..9], Some(u32::MAX), &default).unwrap_err().contains("highest there is"));
        let genesis = regtest(1);
        let one = mine(genesis.last(), 1, 1, 0);
        let two = mine(Some(&one), 2, 2, 0);
        assert!(chain(&bytes_of(&[one]), None, &default).is_err());
        assert_eq!(chain(&bytes_of(&[two]), None, &default), Ok(vec![2]));
    }

    #[test]
    fn heights_go_on_from_input_to_input() {
        let files = Files::new();
        let early = early_blocks();
        let chain = files.add("x.blk", records(&early[..5]));
        let rest = files.add("y.blk", records(&early[7..9]));
        let raw = files.add("5.bin", &early[5]);
        let late = files.add("late.bin", block_702861());
        let inputs = [input(&chain), input(&raw), at(Some(702_861), &late), input(&raw)];
        let source = open(&inputs, &Options::default()).unwrap();
        assert_eq!(
            (source.total(), source.network(), source.links()),
            (Some(8), Some(Network::Bitcoin), false)
        );
        let (blocks, error) = drain(&inputs, &Options::default());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [0, 1, 2, 3, 4, 5, 702_861, 702_862]);

        // A later chain without heights of its own counts on, too.
        let (blocks, error) = drain(&[at(Some(6), &raw), input(&rest)], &Options::default());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [6, 7, 8]);
    }

    #[test]
    fn heights_that_fall_are_seen_before_the_first_block() {
        let files = Files::new();
        let chain = files.add("x.blk", records(&early_blocks()[..5]));
        let raw = files.add("1.bin", &early_blocks()[1]);
        for (inputs, message) in [
            ([input(&chain), at(Some(4), &raw)], "height 4 follows height 4"),
            ([input(&raw), input(&chain)], "height 0 follows height 0"),
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
