//! Blocks from a pipe, above all standard input: `some-exporter | cofferdam run --blocks -`. Nothing can be
//! read twice or in another order, so blocks are taken as they come, either as blk records or raw, one after
//! the other.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bitcoin::block::Header;
use bitcoin::consensus::Decodable;
use bitcoin::{Block, BlockHash, Network};

use super::bip34::Claim;
use super::framing::{
    HEAD_BYTES, Head, Look, MAGIC_BYTES, PEEK_BYTES, Tear, find_magic, look, network_of, record_bytes,
};
use super::gaps::Gaps;
use super::recorder::{Recorder, Stop};
use super::verify::{Defect, check, opaque_hash, undecodable, verify, verify_header};
use super::window::Window;
use super::{BlockError, Options, Origin, Unnumbered};

/// A stream of blocks.
#[derive(Debug)]
pub(super) struct Stream<R: Read> {
    input: Window<R>,
    name: Arc<Path>,
    opaque: bool,
    limit: u64,
    /// Told by the first four bytes.
    framing: Option<Framing>,
    whole: u64,
    /// The block before.
    last: Option<BlockHash>,
    gaps: Gaps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Records(Network),
    Raw,
}

/// A stretch of a stream that holds no whole block.
struct Gap {
    start: u64,
    tear: Tear,
    /// The first block in it that is damaged or cut off.
    lost: Option<BlockError>,
}

/// What stands at a place of a stream.
enum Found {
    Block(Unnumbered),
    End,
    Nothing { tear: Tear, lost: Option<BlockError> },
}

impl<R: Read> Stream<R> {
    /// Reads from `input`, once asked to; the name is for messages.
    pub(super) fn new(input: R, name: &Path, options: &Options) -> Self {
        Self {
            input: Window::new(input),
            name: name.into(),
            opaque: options.opaque,
            limit: options.max_block_bytes,
            framing: None,
            whole: 0,
            last: None,
            gaps: Gaps::default(),
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
        let framing = match self.framing {
            Some(framing) => framing,
            None => self.tell_framing()?,
        };
        let block = match framing {
            Framing::Records(_) if self.opaque => self.opaque_record()?,
            Framing::Records(network) => self.record(network)?,
            Framing::Raw => self.raw()?,
        };
        if let Some(block) = &block {
            self.whole += 1;
            self.last = Some(block.hash);
        }
        Ok(block)
    }

    fn tell_framing(&mut self) -> Result<Framing, BlockError> {
        let start = self.look(MAGIC_BYTES)?;
        if start.is_empty() {
            return Err(BlockError::EmptyStream { path: self.name.to_path_buf() });
        }
        let Some(magic) = start.first_chunk().copied() else { return Err(self.cut(0)) };
        let framing = match network_of(magic) {
            Some(network) => Framing::Records(network),
            None if self.opaque => {
                return Err(BlockError::OpaqueStream { origin: self.origin(0), magic });
            }
            None => Framing::Raw,
        };
        self.framing = Some(framing);
        Ok(framing)
    }

    /// The next record with a whole block. What lies before it is read over, as in files; but a block that does not follow
    /// the one before the gap shows that one is missing, and nothing tells its height.
    fn record(&mut self, network: Network) -> Result<Option<Unnumbered>, BlockError> {
        let mut gap: Option<Gap> = None;
        loop {
            let start = self.input.position();
            match self.find(network, gap.is_some())? {
                Found::Block(block) if self.last == Some(block.hash) => {
                    // Stored twice, as after a crash.
                    self.gaps.tell(&block.origin, self.input.position() - start, &Tear::Repeated);
                }
                Found::Block(block) => {
                    let Some(gap) = gap else { return Ok(Some(block)) };
                    self.bridge(gap, &block, start)?;
                    return Ok(Some(block));
                }
                Found::End => {
                    let Some(gap) = gap else { return Ok(None) };
                    self.end_in(gap, start)?;
                    return Ok(None);
                }
                Found::Nothing { tear, lost } => {
                    let gap = gap.get_or_insert(Gap { start, tear, lost: None });
                    gap.lost = gap.lost.take().or(lost);
                    self.input.skip(1);
                    self.skip_to_magic(network)?;
                }
            }
        }
    }

    /// What stands at the place that the stream is at. Within a gap, a magic of another network is nothing.
    fn find(&mut self, network: Network, in_gap: bool) -> Result<Found, BlockError> {
        let start = self.input.position();
        // No more than is needed: what comes later may be long in coming.
        for least in [1, MAGIC_BYTES, PEEK_BYTES] {
            let bytes = self.look(least)?;
            if bytes.is_empty() {
                return Ok(Found::End);
            }
            // As where bitcoind has allocated a file ahead.
            if bytes.iter().take(MAGIC_BYTES).all(|byte| *byte == 0) {
                return Ok(Found::Nothing { tear: Tear::Zeros, lost: None });
            }
            let magic = bytes.first_chunk().copied();
            if let Some(magic) = magic.filter(|magic| network_of(*magic).is_none()) {
                return Ok(Found::Nothing { tear: Tear::Magic { magic }, lost: None });
            }
        }
        let bytes = self.input.ahead();
        let peek = bytes.get(..PEEK_BYTES).unwrap_or(bytes);
        // How long the stream is shows later.
        let has = if peek.len() < PEEK_BYTES { peek.len() as u64 } else { u64::MAX };
        match look(peek, has, self.limit) {
            Look::Record(head) if head.network == network => self.block(start, &head),
            Look::Record(head) if !in_gap => {
                let (origin, found) = (self.origin(start), head.network);
                Err(BlockError::MixedNetworks { origin, expected: network, found })
            }
            Look::Record(head) => {
                let magic = head.network.magic().to_bytes();
                Ok(Found::Nothing { tear: Tear::Magic { magic }, lost: None })
            }
            Look::Lost { tear: tear @ Tear::Cut { .. }, .. } => {
                Ok(Found::Nothing { tear, lost: Some(self.cut(start)) })
            }
            Look::Lost { tear, .. } => {
                let lost = Some(self.torn(start, tear.clone()));
                Ok(Found::Nothing { tear, lost })
            }
            Look::Nothing(tear) => Ok(Found::Nothing { tear, lost: None }),
        }
    }

    /// The block of a record whose head is right.
    fn block(&mut self, start: u64, head: &Head) -> Result<Found, BlockError> {
        let needs = usize::try_from(record_bytes(head.length)).unwrap_or(usize::MAX);
        let bytes = self.look(needs)?;
        let has = bytes.len() as u64;
        let Some(bytes) = bytes.get(HEAD_BYTES..needs) else {
            let tear = Tear::Cut { needs: needs as u64, has };
            return Ok(Found::Nothing { tear, lost: Some(self.cut(start)) });
        };
        match verify(bytes) {
            Ok(block) => {
                let block = unnumbered(&block, bytes.to_vec(), self.origin(start));
                self.input.skip(needs);
                Ok(Found::Block(block))
            }
            Err(defect) => {
                let lost = BlockError::Damaged { origin: self.origin(start), defect: defect.clone() };
                self.gaps.read_in_vain(head.length.into());
                if !self.gaps.may_look(start) {
                    self.input.skip(needs - 1);
                }
                Ok(Found::Nothing { tear: Tear::Block(defect), lost: Some(lost) })
            }
        }
    }

    /// Takes bytes up to the next magic, or to the end.
    fn skip_to_magic(&mut self, network: Network) -> Result<(), BlockError> {
        loop {
            let ahead = self.input.ahead();
            if let Some(found) = find_magic(ahead, Some(network)) {
                self.input.skip(found);
                return Ok(());
            }
            let passed_over = ahead.len().saturating_sub(MAGIC_BYTES - 1);
            self.input.skip(passed_over);
            if self.input.more().map_err(BlockError::io(&self.name, "read"))? == 0 {
                // The last bytes may be the beginning of a magic, but not of a record that anybody misses.
                self.input.skip(MAGIC_BYTES - 1);
                return Ok(());
            }
        }
    }

    /// Goes over a gap to `block`, which stands at `end`.
    fn bridge(&mut self, gap: Gap, block: &Unnumbered, end: u64) -> Result<(), BlockError> {
        if self.last.is_some() && self.last == block.previous {
            self.gaps.tell(&self.origin(gap.start), end - gap.start, &gap.tear);
            return Ok(());
        }
        let origin = self.origin(gap.start);
        Err(gap.lost.unwrap_or(BlockError::Torn { origin, tear: gap.tear }))
    }

    /// A gap at the end of the stream: nothing, unless a block in it was lost. Zeros are nothing in any case.
    fn end_in(&mut self, gap: Gap, end: u64) -> Result<(), BlockError> {
        match gap.lost {
            Some(lost) => Err(lost),
            None => {
                if !matches!(gap.tear, Tear::Zeros) {
                    self.gaps.tell(&self.origin(gap.start), end - gap.start, &gap.tear);
                }
                Ok(())
            }
        }
    }

    /// The next record of opaque bytes, of whatever network. Nothing tells bytes that are damaged from others.
    fn opaque_record(&mut self) -> Result<Option<Unnumbered>, BlockError> {
        let start = self.input.position();
        let Some(magic) = self.skip_zeros()? else { return Ok(None) };
        let start = start.max(self.input.position());
        if magic.len() < MAGIC_BYTES {
            return Err(self.cut(start));
        }
        let head = self.look(HEAD_BYTES)?;
        let (Some(magic), length) = (head.first_chunk().copied(), head.get(MAGIC_BYTES..HEAD_BYTES)) else {
            return Err(self.cut(start));
        };
        if network_of(magic).is_none() {
            return Err(self.torn(start, Tear::Magic { magic }));
        }
        let Some(length) = length.and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) else {
            return Err(self.cut(start));
        };
        if u64::from(length) > self.limit || length == 0 {
            return Err(self.torn(start, Tear::Length { length, limit: self.limit }));
        }
        let needs = usize::try_from(record_bytes(length)).unwrap_or(usize::MAX);
        let Some(bytes) = self.look(needs)?.get(HEAD_BYTES..needs).map(<[u8]>::to_vec) else {
            return Err(self.cut(start));
        };
        self.input.skip(needs);
        let (hash, origin) = (opaque_hash(&bytes), self.origin(start));
        Ok(Some(Unnumbered { height: None, hash, previous: None, claim: None, bytes, origin }))
    }

    /// Steps over zeros before a record: `cat blk*.dat` has them wherever bitcoind allocated ahead. Returns the bytes behind
    /// them, up to the length of a magic; none at the end.
    fn skip_zeros(&mut self) -> Result<Option<Vec<u8>>, BlockError> {
        loop {
            let bytes = self.look(MAGIC_BYTES)?;
            let bytes = bytes.get(..MAGIC_BYTES).unwrap_or(bytes);
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            if bytes.is_empty() {
                return Ok(None);
            }
            if zeros == 0 {
                return Ok(Some(bytes.to_vec()));
            }
            self.input.skip(zeros);
        }
    }

    /// A block without a record around it; it ends where its last transaction does.
    fn raw(&mut self) -> Result<Option<Unnumbered>, BlockError> {
        let start = self.input.position();
        let bytes = self.look(Header::SIZE)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Some(head) = bytes.first_chunk::<{ Header::SIZE }>().copied() else {
            return Err(self.cut(start));
        };
        // Looked at first, since almost anything reads as the start of a block, and the decoder would look
        // for its end until the stream is over.
        verify_header(&head).map_err(|defect| self.not_a_block(self.origin(start), defect))?;
        self.input.skip(Header::SIZE);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let mut recorder = Recorder::new(&head, self.input.rest(), limit);
        let decoded = Block::consensus_decode_from_finite_reader(&mut recorder);
        let (bytes, stop) = recorder.finish();
        let origin = self.origin(start);
        let defect = match (decoded, stop) {
            (Ok(block), _) => match check(&block) {
                Ok(()) => return Ok(Some(unnumbered(&block, bytes, origin))),
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

    /// The next bytes: at least so many, unless the stream ends before.
    fn look(&mut self, least: usize) -> Result<&[u8], BlockError> {
        let name = &self.name;
        self.input.look(least).map_err(BlockError::io(name, "read"))
    }

    fn origin(&self, offset: u64) -> Origin {
        Origin { file: Arc::clone(&self.name), offset }
    }

    fn cut(&self, start: u64) -> BlockError {
        BlockError::StreamCut { origin: self.origin(self.input.end()), start, whole: self.whole }
    }

    fn torn(&self, start: u64, tear: Tear) -> BlockError {
        BlockError::Torn { origin: self.origin(start), tear }
    }
}

fn unnumbered(block: &Block, bytes: Vec<u8>, origin: Origin) -> Unnumbered {
    let (previous, claim) = (Some(block.header.prev_blockhash), Some(Claim::of(block)));
    Unnumbered { height: None, hash: block.block_hash(), previous, claim, bytes, origin }
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
            let options = Options { allow_gaps: true, ..Options::default() };
            let (read, error) = drain_stdin(&stream, &options);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(heights(&read), (0..439).chain([702_861]).collect::<Vec<_>>());
            let (whole, error) = error_of(&stream, &Options::default());
            assert!(whole == 439 && error.contains("names height 702861"), "{error}");
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
    fn what_lies_between_records_is_read_over() {
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
            // The block before, once more.
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
    fn a_block_that_is_missing_behind_a_gap_is_missed() {
        let early = early_blocks();
        let mut damaged = records(&early[2..3]);
        *damaged.last_mut().unwrap() ^= 1;
        let start = records(&early[..2]).len();
        for (gap, told) in [
            (damaged.clone(), format!("standard input at byte {start}: the block is damaged")),
            (vec![0; 300], format!("standard input at byte {start}: torn record: it starts with zeros")),
            (
                b"gone".to_vec(),
                format!("standard input at byte {start}: torn record: it starts with 676f6e65"),
            ),
        ] {
            // The next one would have its height.
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
        let tail = [records(&early_blocks()[..2]), b"gone".to_vec()].concat();
        assert_eq!(error_of(&tail, &default), (2, String::new()));
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
        let head = [&Network::Bitcoin.magic().to_bytes()[..], &[0xff; 4], b"few bytes"].concat();
        let mut stream = Stream::new(&head[..], Path::new("x"), &options);
        assert!(matches!(stream.next_block(), Err(BlockError::StreamCut { start: 0, whole: 0, .. })));
        let record = records(&early_blocks()[1..2]);
        let head = [&record[..4], &[0xff; 4], &record[8..]].concat();
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
