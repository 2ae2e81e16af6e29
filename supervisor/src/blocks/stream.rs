//! Blocks from a pipe, above all standard input: `some-exporter | cofferdam run --blocks -`. Nothing can be
//! read twice or in another order, so blocks are taken as they come, either as blk records or raw, one after
//! the other.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bitcoin::block::Header;
use bitcoin::consensus::Decodable;
use bitcoin::{Block, Network};

use super::framing::{HEAD_BYTES, MIN_BLOCK_BYTES, Tear, network_of};
use super::recorder::{Counted, Recorder, Stop};
use super::verify::{Defect, check, opaque_hash, undecodable, verify, verify_header};
use super::{BlockError, Options, Origin, Unnumbered};

/// Most that is allocated, in bytes, because of a length field alone; the rest follows as bytes really come.
const FIRST_ALLOCATION: u64 = 1 << 20;
const MAGIC_BYTES: usize = HEAD_BYTES / 2;

/// A stream of blocks.
#[derive(Debug)]
pub(super) struct Stream<R: Read> {
    input: Counted<R>,
    name: Arc<Path>,
    opaque: bool,
    limit: u64,
    /// Told by the first four bytes.
    framing: Option<Framing>,
    whole: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Records(Network),
    Raw,
}

impl<R: Read> Stream<R> {
    /// Reads from `input`, once asked to; the name is for messages.
    pub(super) fn new(input: R, name: &Path, options: &Options) -> Self {
        Self {
            input: Counted::new(input),
            name: name.into(),
            opaque: options.opaque,
            limit: options.max_block_bytes,
            framing: None,
            whole: 0,
        }
    }

    /// The network, once a record was read that names it.
    pub(super) fn network(&self) -> Option<Network> {
        match self.framing {
            Some(Framing::Records(network)) => Some(network),
            _ => None,
        }
    }

    /// The next block, checked unless opaque; `None` at the end of the stream.
    pub(super) fn next_block(&mut self) -> Result<Option<Unnumbered>, BlockError> {
        let mut head = [0; MAGIC_BYTES];
        let mut got = self.fill(&mut head)?;
        if matches!(self.framing, Some(Framing::Records(_))) {
            got = self.skip_padding(&mut head, got)?;
        }
        let start = self.input.position() - got as u64;
        match got {
            0 if self.input.position() == 0 => {
                return Err(BlockError::EmptyStream { path: self.name.to_path_buf() });
            }
            0 => return Ok(None),
            MAGIC_BYTES => {}
            _ => return Err(self.cut(start)),
        }
        let block = match self.framing_of(head, start)? {
            Framing::Records(_) => self.record(start)?,
            Framing::Raw => self.raw(head, start)?,
        };
        self.whole += 1;
        Ok(Some(block))
    }

    /// Steps over zeros before a record: `cat blk*.dat` has them wherever bitcoind allocated ahead. Returns
    /// how many bytes of the head were read behind them.
    fn skip_padding(&mut self, head: &mut [u8; MAGIC_BYTES], mut got: usize) -> Result<usize, BlockError> {
        loop {
            let zeros = head[..got].iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                return Ok(got);
            }
            head.copy_within(zeros..got, 0);
            got -= zeros;
            got += self.fill(&mut head[got..])?;
        }
    }

    fn framing_of(&mut self, head: [u8; MAGIC_BYTES], start: u64) -> Result<Framing, BlockError> {
        let found = network_of(head);
        let framing = match (self.framing, found) {
            (None, Some(network)) => Framing::Records(network),
            (None, None) if self.opaque => {
                return Err(BlockError::OpaqueStream { origin: self.origin(start), magic: head });
            }
            (None | Some(Framing::Raw), _) => Framing::Raw,
            (Some(Framing::Records(expected)), Some(found)) if expected != found && !self.opaque => {
                return Err(BlockError::MixedNetworks { origin: self.origin(start), expected, found });
            }
            (Some(framing), Some(_)) => framing,
            (Some(_), None) => return Err(self.torn(start, Tear::Magic { magic: head })),
        };
        self.framing = Some(framing);
        Ok(framing)
    }

    /// The rest of a record whose magic was read.
    fn record(&mut self, start: u64) -> Result<Unnumbered, BlockError> {
        let mut length = [0; HEAD_BYTES - MAGIC_BYTES];
        if self.fill(&mut length)? < length.len() {
            return Err(self.cut(start));
        }
        let length = u32::from_le_bytes(length);
        let least = if self.opaque { 1 } else { MIN_BLOCK_BYTES };
        if u64::from(length) > self.limit || u64::from(length) < least {
            return Err(self.torn(start, Tear::Length { length, limit: self.limit }));
        }
        let bytes = self.take(u64::from(length))?;
        if (bytes.len() as u64) < u64::from(length) {
            return Err(self.cut(start));
        }
        let origin = self.origin(start);
        if self.opaque {
            return Ok(Unnumbered { height: None, hash: opaque_hash(&bytes), previous: None, bytes, origin });
        }
        match verify(&bytes) {
            Ok(block) => Ok(unnumbered(&block, bytes, origin)),
            Err(defect) => Err(BlockError::Damaged { origin, defect }),
        }
    }

    /// Up to `length` bytes, fewer at the end of the stream.
    fn take(&mut self, length: u64) -> Result<Vec<u8>, BlockError> {
        let capacity = usize::try_from(length.min(FIRST_ALLOCATION)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(capacity);
        let read = (&mut self.input).take(length).read_to_end(&mut bytes);
        read.map_err(BlockError::io(&self.name, "read"))?;
        Ok(bytes)
    }

    /// A block whose first bytes are `magic`, which is none; it ends where its last transaction does.
    fn raw(&mut self, magic: [u8; MAGIC_BYTES], start: u64) -> Result<Unnumbered, BlockError> {
        let mut head = [0; Header::SIZE];
        head[..MAGIC_BYTES].copy_from_slice(&magic);
        if self.fill(&mut head[MAGIC_BYTES..])? < Header::SIZE - MAGIC_BYTES {
            return Err(self.cut(start));
        }
        // Looked at first, since almost anything reads as the start of a block, and the decoder would look
        // for its end until the stream is over.
        verify_header(&head).map_err(|defect| self.not_a_block(self.origin(start), defect))?;
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut recorder = Recorder::new(&head, &mut self.input, limit);
        let decoded = Block::consensus_decode_from_finite_reader(&mut recorder);
        let (bytes, stop) = recorder.finish();
        let origin = self.origin(start);
        let defect = match (decoded, stop) {
            (Ok(block), _) => match check(&block) {
                Ok(()) => return Ok(unnumbered(&block, bytes, origin)),
                Err(defect) => return Err(BlockError::Damaged { origin, defect }),
            },
            (Err(_), Some(Stop::Failed(error))) => return Err(BlockError::io(&self.name, "read")(error)),
            (Err(_), Some(Stop::Limit)) => {
                return Err(BlockError::TooLarge { origin, bytes: None, limit: self.limit });
            }
            (Err(_), Some(Stop::End)) => return Err(self.cut(start)),
            (Err(error), None) => undecodable(&error, bytes.len() as u64),
        };
        Err(self.not_a_block(origin, defect))
    }

    /// Bytes that are no block: at the start of the stream the user gave the wrong thing, later it is
    /// damaged.
    fn not_a_block(&self, origin: Origin, defect: Defect) -> BlockError {
        if self.whole == 0 {
            BlockError::NotABlock { origin, defect }
        } else {
            BlockError::Damaged { origin, defect }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, BlockError> {
        self.input.fill(buffer).map_err(BlockError::io(&self.name, "read"))
    }

    fn origin(&self, offset: u64) -> Origin {
        Origin { file: Arc::clone(&self.name), offset }
    }

    fn cut(&self, start: u64) -> BlockError {
        BlockError::StreamCut { origin: self.origin(self.input.position()), start, whole: self.whole }
    }

    fn torn(&self, start: u64, tear: Tear) -> BlockError {
        BlockError::Torn { origin: self.origin(start), tear }
    }
}

fn unnumbered(block: &Block, bytes: Vec<u8>, origin: Origin) -> Unnumbered {
    let previous = Some(block.header.prev_blockhash);
    Unnumbered { height: None, hash: block.block_hash(), previous, bytes, origin }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::testing::{block_702861, drain_stdin, early_blocks, heights, records, records_of};

    fn error_of(bytes: &[u8], options: &Options) -> (usize, String) {
        let (blocks, error) = drain_stdin(bytes, options);
        (blocks.len(), error.map(|error| error.to_string()).unwrap_or_default())
    }

    #[test]
    fn records_and_raw_blocks_are_told_apart() {
        let mut blocks = early_blocks();
        blocks.push(block_702861().to_vec());
        for stream in [records(&blocks), blocks.concat()] {
            let options = Options { start_height: Some(3), ..Options::default() };
            let (read, error) = drain_stdin(&stream, &options);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&read), (3..443).collect::<Vec<_>>());
            assert!(read.iter().zip(&blocks).all(|(read, bytes)| read.bytes == *bytes));
        }
    }

    #[test]
    fn the_place_of_a_block_is_known() {
        let (blocks, _) = drain_stdin(&early_blocks().concat(), &Options::default());
        assert_eq!(blocks[1].origin.to_string(), "standard input at byte 285");
        let (blocks, _) = drain_stdin(&records(&early_blocks()), &Options::default());
        assert_eq!(blocks[1].origin.to_string(), "standard input at byte 293");
    }

    #[test]
    fn padding_between_records_is_stepped_over() {
        for zeros in [1, 2, 3, 4, 5, 999] {
            let padding = vec![0; zeros];
            let early = early_blocks();
            let stream = [records(&early[..2]), padding.clone(), records(&early[2..4]), padding].concat();
            assert_eq!(error_of(&stream, &Options::default()), (4, String::new()), "{zeros} zeros");
        }
    }

    #[test]
    fn a_stream_that_ends_inside_a_block_says_where() {
        let blocks = &early_blocks()[..3];
        for (stream, head) in [(records(blocks), 8), (blocks.concat(), 0)] {
            let last = head + blocks[2].len();
            let start = stream.len() - last;
            for cut in [1, 3, 80, last - 1] {
                let end = start + cut;
                let (whole, error) = error_of(&stream[..end], &Options::default());
                assert_eq!(whole, 2, "{error}");
                let place = format!(
                    "at byte {end}: the input ends in the middle of a block that starts at byte {start}; 2 whole"
                );
                assert!(error.contains(&place), "{error}");
            }
        }
        assert!(error_of(&[], &Options::default()).1.contains("not a single byte"));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let default = Options::default();
        let (_, error) = error_of(&[0xff; 500], &default);
        assert!(error.contains("is not a Bitcoin block ("), "{error}");
        let (whole, error) = error_of(&[records(&early_blocks()[..2]), b"gone".to_vec()].concat(), &default);
        assert!(whole == 2 && error.contains("starts with 676f6e65 instead of the network magic"), "{error}");
        let other = records_of(Network::Regtest, &early_blocks()[2..3]);
        let (whole, error) = error_of(&[records(&early_blocks()[..2]), other].concat(), &default);
        assert!(whole == 2 && error.contains("a record of regtest among blocks of mainnet"), "{error}");
        let mut damaged = early_blocks().concat();
        damaged[285 + 100] ^= 1;
        let (whole, error) = error_of(&damaged, &default);
        assert!(whole == 1 && error.contains("standard input at byte 285: the block is damaged"), "{error}");
    }

    #[test]
    fn blocks_above_the_limit_are_refused() {
        let options = Options { max_block_bytes: 1_000_000, ..Options::default() };
        let (_, error) = error_of(block_702861(), &options);
        assert!(error.contains("more than the limit of 1000000"), "{error}");
        let (_, error) = error_of(&records(&[block_702861().to_vec()]), &options);
        assert!(error.contains("length field says 1381836 bytes"), "{error}");
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let options = Options { max_block_bytes: u64::MAX, ..Options::default() };
        let mut stream = Stream::new(&b"few bytes"[..], Path::new("x"), &options);
        let bytes = stream.take(u64::from(u32::MAX)).unwrap();
        assert!(bytes.len() == 9 && bytes.capacity() as u64 <= 2 * FIRST_ALLOCATION);
        let head = [&Network::Bitcoin.magic().to_bytes()[..], &[0xff; 4], b"few bytes"].concat();
        let mut stream = Stream::new(&head[..], Path::new("x"), &options);
        assert!(matches!(stream.next_block(), Err(BlockError::StreamCut { start: 0, whole: 0, .. })));
    }

    #[test]
    fn opaque_streams_come_in_records_of_any_network() {
        let options = Options { opaque: true, ..Options::default() };
        let one = records(&[b"hello".to_vec()]);
        let two = records_of(Network::Signet, &[b"world".to_vec()]);
        let (blocks, error) = drain_stdin(&[one, two].concat(), &options);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(
            blocks.iter().map(|block| block.bytes.as_slice()).collect::<Vec<_>>(),
            [b"hello", b"world"]
        );
        let (_, error) = error_of(b"hello, world", &options);
        assert!(error.contains("it starts with 68656c6c"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_streams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..3) {
            let start = match kind {
                0 => Vec::new(),
                1 => records(&early_blocks()[..1]),
                _ => early_blocks()[0].clone(),
            };
            let stream = [start, bytes].concat();
            let _ = drain_stdin(&stream, &Options::default());
            let _ = drain_stdin(&stream, &Options { opaque: true, ..Options::default() });
        }
    }
}
