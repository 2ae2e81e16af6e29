//! Opens inputs: finds their files, groups consecutive blk files to one chain, and makes a [`BlockSource`] of the parts.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::byte_source::BlkFile;
use super::discover::{InputFile, discover};
use super::error::BlockError;
use super::input::BlockInput;
use super::opener::PartOpener;
use super::options::Options;
use super::part::Part;
use super::progress::Progress;
use super::source::BlockSource;
use super::stream::Stream;

/// The file name of standard input in [`Origin::file`](super::Origin::file).
const STDIN_NAME: &str = "standard input";

type Input = Box<dyn Read + Send>;

/// Opens the inputs.
///
/// Errors that show before a block is indexed are returned here: missing files, directories without blocks, heights that do not
/// rise. Blk files are scanned, which reads 88 bytes of each block. During the scan, `progress` is called with the number of
/// bytes scanned and the total. Consecutive inputs of blk records form one chain.
///
/// # Errors
/// [`BlockError`]. A damaged record is an error here only if no block was found. Otherwise the iterator returns it after the last
/// block.
pub fn open(
    inputs: &[BlockInput],
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BlockSource, BlockError> {
    open_with(inputs, options, progress, Box::new(io::stdin()))
}

/// The same as [`open`], with `stdin` in place of standard input.
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
    let mut builder = SourceBuilder::new(options);
    let mut stdin = Some(stdin);
    for input in inputs {
        match input {
            BlockInput::Stdin { height } => {
                let input = stdin.take().ok_or(BlockError::StdinTwice)?;
                builder.add_stream(input, Path::new(STDIN_NAME), *height);
            }
            BlockInput::Path { path, height } => {
                for (number, file) in discover(path, options.opaque)?.into_iter().enumerate() {
                    builder.add(file, height.filter(|_| number == 0))?;
                }
            }
        }
    }
    builder.open(progress)
}

/// Collects the parts of a source.
pub(super) struct SourceBuilder<'a> {
    options: &'a Options,
    parts: Vec<PendingPart>,
}

/// A part that is to be opened.
enum PendingPart {
    Ready(Part),
    /// Blk files that are to be scanned.
    Blk {
        files: Vec<BlkFile>,
        height: Option<u32>,
    },
}

impl<'a> SourceBuilder<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, parts: Vec::new() }
    }

    /// Adds a file. A blk file without a height of its own joins the blk file before it.
    pub(super) fn add(&mut self, file: InputFile, height: Option<u32>) -> Result<(), BlockError> {
        match file {
            InputFile::Raw(source) => {
                source.check_size(source.len(), self.options.max_block_bytes)?;
                self.parts.push(PendingPart::Ready(Part::Raw { source, height }));
            }
            InputFile::Blk(file) => match self.parts.last_mut() {
                Some(PendingPart::Blk { files, .. }) if height.is_none() => files.push(file),
                _ => self.parts.push(PendingPart::Blk { files: vec![file], height }),
            },
            InputFile::Pipe(path) => {
                self.add_stream(Box::new(LazyPipe::Closed(path.clone())), &path, height);
            }
        }
        Ok(())
    }

    fn add_stream(&mut self, input: Input, name: &Path, height: Option<u32>) {
        let stream = Stream::new(input, name, self.options);
        self.parts.push(PendingPart::Ready(Part::Stream { stream, height }));
    }

    /// Scans the blk files, and determines all heights that can be known before the first block is delivered.
    pub(super) fn open(self, progress: &mut dyn FnMut(u64, u64)) -> Result<BlockSource, BlockError> {
        let bytes = self.parts.iter().map(PendingPart::bytes_to_scan).sum();
        let mut progress = Progress::new(bytes, progress);
        let mut opener = PartOpener::new(self.options);
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            let part = match part {
                PendingPart::Ready(part) => part,
                PendingPart::Blk { files, height } => {
                    Part::Chain(opener.open_chain(files, height, &mut progress)?)
                }
            };
            opener.check_heights(&part)?;
            parts.push(part);
        }
        let (network, missing) = opener.finish();
        Ok(BlockSource::new(parts, self.options, network, missing))
    }
}

impl PendingPart {
    fn bytes_to_scan(&self) -> u64 {
        match self {
            Self::Ready(_) => 0,
            Self::Blk { files, .. } => files.iter().map(|file| file.source.len()).sum(),
        }
    }
}

/// A named pipe that is opened at the first read, because opening a pipe waits for its writer.
enum LazyPipe {
    Closed(PathBuf),
    Open(File),
}

impl Read for LazyPipe {
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
    use bitcoin::Network;

    use super::*;
    use crate::blocks::testing::{
        Files, at, block_702861, drain, early_blocks, heights, input, open, records,
    };

    #[test]
    fn heights_continue_from_input_to_input() {
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
        // The block states its height itself.
        assert_eq!(heights(&drain(&[input(&chain), input(&raw), input(&late)], &gaps).0)[6], 702_861);
        // Without the option, the gap is an error before the first block.
        let error = open(&inputs, &Options::default()).unwrap_err().to_string();
        assert!(
            error.contains("block 702861") && error.contains("blocks 6 to 702860 are missing"),
            "{error}"
        );

        // A later chain that states no height continues the heights, too.
        let (blocks, error) = drain(&[at(Some(6), &raw), input(&rest)], &Options::default());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(heights(&blocks), [6, 7, 8]);
    }

    #[test]
    fn files_of_an_unknown_network_are_named() {
        let files = Files::new();
        for name in ["x.blk", "blk00000.dat"] {
            let path = files.add(name, b"\xaa\xbb\xcc\xdd and more");
            let error = open(&[input(path)], &Options::default()).unwrap_err().to_string();
            assert!(error.contains("at byte 0: aabbccdd is the magic of no known network"), "{error}");
        }
        // A damaged file among intact ones is skipped.
        std::fs::remove_file(files.path().join("x.blk")).unwrap();
        for (whole, damaged) in [("blk00000.dat", "blk00001.dat"), ("blk00001.dat", "blk00000.dat")] {
            files.add(whole, records(&early_blocks()[..3]));
            files.add(damaged, b"\xaa\xbb\xcc\xdd and more");
            let (blocks, error) = drain(&[input(files.path())], &Options::default());
            assert!(error.is_none() && blocks.len() == 3, "{error:?}");
        }
    }

    #[test]
    fn falling_heights_are_an_error_before_the_first_block() {
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
    fn inputs_that_cannot_be_read_are_refused_at_once() {
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
        let truncated = input(files.add("x.blk", &records(&early_blocks()[..1])[..99]));
        assert!(matches!(open(&[truncated], &default), Err(BlockError::DamagedRecord { .. })));
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
