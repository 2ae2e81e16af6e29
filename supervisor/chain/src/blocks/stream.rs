//! Reads blocks from a pipe, mostly standard input: `some-exporter | cofferdam run --blocks -`.
//!
//! A pipe cannot be read twice or in another order. So the blocks are taken in the order in which they come: as records, or as
//! raw blocks one behind the other.

use std::io::Read;
use std::path::Path;

use bitcoin::block::Header;
use bitcoin::consensus::Decodable;
use bitcoin::{Block, Network};

use super::block::{Origin, ReadBlock};
use super::error::BlockError;
use super::framing::{HEAD_BYTES, MAGIC_BYTES, RecordDefect, network_of, record_bytes};
use super::options::Options;
use super::recording::{RecordingReader, StopReason};
use super::stream_input::StreamInput;
use super::stream_records::RecordReader;
use super::verify::{BlockDefect, check, undecodable, verify_header};

/// A stream of blocks.
#[derive(Debug)]
pub(super) struct Stream<R: Read> {
    input: StreamInput<R>,
    opaque: bool,
    /// The first four bytes tell the framing.
    framing: Option<Framing>,
    records: RecordReader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Records(Network),
    Raw,
}

impl<R: Read> Stream<R> {
    /// A stream that reads from `input` when the first block is asked for. The name is for messages.
    pub(super) fn new(input: R, name: &Path, options: &Options) -> Self {
        Self {
            input: StreamInput::new(input, name, options),
            opaque: options.opaque,
            framing: None,
            records: RecordReader::default(),
        }
    }

    /// The network, if a record that names it was read.
    pub(super) fn network(&self) -> Option<Network> {
        match self.framing {
            Some(Framing::Records(network)) => Some(network),
            _ => None,
        }
    }

    /// Reads the next block, and checks it unless the stream is opaque. `None` at the end of the stream.
    pub(super) fn next_block(&mut self) -> Result<Option<ReadBlock>, BlockError> {
        let framing = match self.framing {
            Some(framing) => framing,
            None => self.detect_framing()?,
        };
        let block = match framing {
            Framing::Records(_) if self.opaque => self.opaque_record()?,
            Framing::Records(network) => self.records.next(&mut self.input, network)?,
            Framing::Raw => self.raw()?,
        };
        if block.is_some() {
            self.input.intact += 1;
        }
        Ok(block)
    }

    fn detect_framing(&mut self) -> Result<Framing, BlockError> {
        let start = self.input.fill(MAGIC_BYTES)?;
        if start.is_empty() {
            return Err(BlockError::EmptyStream { path: self.input.name.to_path_buf() });
        }
        let Some(magic) = start.first_chunk().copied() else { return Err(self.input.truncated(0)) };
        let framing = match network_of(magic) {
            Some(network) => Framing::Records(network),
            None if self.opaque => {
                return Err(BlockError::OpaqueStream { origin: self.input.origin(0), magic });
            }
            None => Framing::Raw,
        };
        self.framing = Some(framing);
        Ok(framing)
    }

    /// Reads the next record of opaque bytes, of any network. Damage in the bytes cannot be detected.
    fn opaque_record(&mut self) -> Result<Option<ReadBlock>, BlockError> {
        let start = self.input.reader.position();
        let Some(magic) = self.skip_zeros()? else { return Ok(None) };
        let start = start.max(self.input.reader.position());
        if magic.len() < MAGIC_BYTES {
            return Err(self.input.truncated(start));
        }
        let head = self.input.fill(HEAD_BYTES)?;
        let (Some(magic), length) = (head.first_chunk().copied(), head.get(MAGIC_BYTES..HEAD_BYTES)) else {
            return Err(self.input.truncated(start));
        };
        if network_of(magic).is_none() {
            return Err(self.input.damaged_record(start, RecordDefect::Magic { magic }));
        }
        let Some(length) = length.and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) else {
            return Err(self.input.truncated(start));
        };
        let limit = self.input.limit;
        if u64::from(length) > limit || length == 0 {
            return Err(self.input.damaged_record(start, RecordDefect::Length { length, limit }));
        }
        let needs = usize::try_from(record_bytes(length)).unwrap_or(usize::MAX);
        let Some(bytes) = self.input.fill(needs)?.get(HEAD_BYTES..needs).map(<[u8]>::to_vec) else {
            return Err(self.input.truncated(start));
        };
        self.input.reader.consume(needs);
        Ok(Some(ReadBlock::opaque(bytes, self.input.origin(start))))
    }

    /// Skips zeros before a record: the output of `cat blk*.dat` has zeros where bitcoind allocated a file in advance. Returns the
    /// bytes behind the zeros, up to the length of a magic. `None` at the end.
    fn skip_zeros(&mut self) -> Result<Option<Vec<u8>>, BlockError> {
        loop {
            let bytes = self.input.fill(MAGIC_BYTES)?;
            let bytes = bytes.get(..MAGIC_BYTES).unwrap_or(bytes);
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            if bytes.is_empty() {
                return Ok(None);
            }
            if zeros == 0 {
                return Ok(Some(bytes.to_vec()));
            }
            self.input.reader.consume(zeros);
        }
    }

    /// Reads a block that is not in a record. The block ends where its last transaction ends.
    fn raw(&mut self) -> Result<Option<ReadBlock>, BlockError> {
        let start = self.input.reader.position();
        let bytes = self.input.fill(Header::SIZE)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Some(head) = bytes.first_chunk::<{ Header::SIZE }>().copied() else {
            return Err(self.input.truncated(start));
        };
        // The header is checked first. Almost any bytes decode as the start of a block, and the decoder would search for the end
        // of the block until the stream ends.
        verify_header(&head).map_err(|defect| self.not_a_block(self.input.origin(start), defect))?;
        self.input.reader.consume(Header::SIZE);
        let limit = usize::try_from(self.input.limit).unwrap_or(usize::MAX);
        let mut recorder = RecordingReader::new(&head, self.input.reader.unbuffered(), limit);
        let decoded = Block::consensus_decode_from_finite_reader(&mut recorder);
        let (bytes, stop) = recorder.finish();
        let origin = self.input.origin(start);
        let defect = match (decoded, stop) {
            (Ok(block), _) => match check(&block) {
                Ok(()) => return Ok(Some(ReadBlock::decoded(&block, bytes, origin))),
                Err(defect) => return Err(BlockError::DamagedBlock { origin, defect }),
            },
            (Err(_), Some(StopReason::Failed(error))) => {
                return Err(BlockError::io(&self.input.name, "read")(error));
            }
            (Err(_), Some(StopReason::Limit)) => {
                return Err(BlockError::TooLarge { origin, bytes: None, limit: self.input.limit });
            }
            (Err(_), Some(StopReason::End)) => return Err(self.input.truncated(start)),
            (Err(error), None) => undecodable(&error, bytes.len() as u64),
        };
        Err(self.not_a_block(origin, defect))
    }

    /// The error for bytes that are not a block. If the stream has had no intact block yet, the user gave the wrong input. If it
    /// has had one, the stream is damaged.
    fn not_a_block(&self, origin: Origin, defect: BlockDefect) -> BlockError {
        if self.input.intact == 0 {
            BlockError::NotABlock { origin, defect }
        } else {
            BlockError::DamagedBlock { origin, defect }
        }
    }
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
    fn records_and_raw_blocks_are_distinguished() {
        let mut blocks = early_blocks();
        blocks.push(block_702861().to_vec());
        for stream in [records(&blocks), blocks.concat()] {
            let options = Options { allow_gaps: true, ..Options::default() };
            let (read, error) = drain_stdin(&stream, &options);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&read), (0..439).chain([702_861]).collect::<Vec<_>>());
            let (whole, error) = error_of(&stream, &Options::default());
            assert!(whole == 439 && error.contains("states height 702861"), "{error}");
            assert!(read.iter().zip(&blocks).all(|(read, bytes)| read.bytes == *bytes));
        }
    }

    #[test]
    fn a_block_has_its_offset_in_the_stream() {
        let (blocks, _) = drain_stdin(&early_blocks().concat(), &Options::default());
        assert_eq!(blocks[1].origin.to_string(), "standard input at byte 285");
        let (blocks, _) = drain_stdin(&records(&early_blocks()), &Options::default());
        assert_eq!(blocks[1].origin.to_string(), "standard input at byte 293");
    }

    #[test]
    fn bytes_between_records_are_skipped() {
        let early = early_blocks();
        let record = records(&early[2..3]);
        let mut damaged = record.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let head_alone = [&record[..8], vec![0; record.len() - 8].as_slice()].concat();
        let gaps = [
            vec![0],
            vec![0; 3],
            vec![0; 4],
            vec![0; 200_000],
            b"gone".repeat(50_000),
            record[..100].to_vec(),
            record[..8].to_vec(),
            record[..4].to_vec(),
            record[..3].to_vec(),
            head_alone,
            damaged,
            // The previous block again.
            records(&early[1..2]),
        ];
        for (number, gap) in gaps.iter().enumerate() {
            let stream = [records(&early[..2]), gap.clone(), records(&early[2..4])].concat();
            assert_eq!(error_of(&stream, &Options::default()), (4, String::new()), "gap {number}");
        }
        for zeros in [1, 4, 999] {
            let stream = [records(&early[..2]), vec![0; zeros]].concat();
            assert_eq!(error_of(&stream, &Options::default()), (2, String::new()), "{zeros} zeros");
        }
    }

    #[test]
    fn a_missing_block_behind_skipped_bytes_is_an_error() {
        let early = early_blocks();
        let mut damaged = records(&early[2..3]);
        *damaged.last_mut().unwrap() ^= 1;
        let start = records(&early[..2]).len();
        for (gap, told) in [
            (damaged.clone(), format!("standard input at byte {start}: the block is damaged")),
            (
                vec![0; 300],
                format!("standard input at byte {start}: the record is damaged: it starts with zeros"),
            ),
            (
                b"gone".to_vec(),
                format!("standard input at byte {start}: the record is damaged: it starts with 676f6e65"),
            ),
        ] {
            // The next block would get the height of the missing one.
            let stream = [records(&early[..2]), gap, records(&early[3..6])].concat();
            let (whole, error) = error_of(&stream, &Options::default());
            assert!(whole == 2 && error.contains(&told), "{error}");
        }
        let (whole, error) = error_of(&[records(&early[..2]), damaged].concat(), &Options::default());
        assert!(whole == 2 && error.contains("the block is damaged"), "{error}");
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
                    "at byte {end}: the input ends inside the block that starts at byte {start}, after 2 intact"
                );
                assert!(error.contains(&place), "{error}");
            }
        }
        assert!(error_of(&[], &Options::default()).1.contains("no bytes arrived"));
    }

    #[test]
    fn bytes_that_are_not_a_block_are_refused() {
        let default = Options::default();
        let (_, error) = error_of(&[0xff; 500], &default);
        assert!(error.contains("is not a Bitcoin block ("), "{error}");
        let tail = [records(&early_blocks()[..2]), b"gone".to_vec()].concat();
        assert_eq!(error_of(&tail, &default), (2, String::new()));
        let other = records_of(Network::Regtest, &early_blocks()[2..3]);
        let (whole, error) = error_of(&[records(&early_blocks()[..2]), other].concat(), &default);
        assert!(
            whole == 2
                && error
                    .contains("this record belongs to regtest, but the blocks before it belong to mainnet"),
            "{error}"
        );
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
        let head = [&Network::Bitcoin.magic().to_bytes()[..], &[0xff; 4], b"few bytes"].concat();
        let mut stream = Stream::new(&head[..], Path::new("x"), &options);
        assert!(matches!(stream.next_block(), Err(BlockError::StreamTruncated { start: 0, intact: 0, .. })));
        let record = records(&early_blocks()[1..2]);
        let head = [&record[..4], &[0xff; 4], &record[8..]].concat();
        let mut stream = Stream::new(&head[..], Path::new("x"), &options);
        assert!(matches!(stream.next_block(), Err(BlockError::StreamTruncated { start: 0, intact: 0, .. })));
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
        assert!(error.contains("the input starts with 68656c6c"), "{error}");
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
