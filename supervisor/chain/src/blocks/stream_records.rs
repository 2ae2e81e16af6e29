//! Reads records with intact blocks from a stream, and skips the bytes between them, as bitcoind does in its files.

use std::io::Read;

use bitcoin::{BlockHash, Network};

use super::block::ReadBlock;
use super::error::BlockError;
use super::framing::{
    HEAD_BYTES, Head, MAGIC_BYTES, PROBE_BYTES, RecordDefect, RecordProbe, find_magic, network_of,
    probe_record, record_bytes,
};
use super::stream_input::StreamInput;
use super::unreadable::UnreadableRegions;
use super::verify::verify;

/// What the reader of records remembers from record to record.
#[derive(Debug, Default)]
pub(super) struct RecordReader {
    /// The previous block.
    last: Option<BlockHash>,
    regions: UnreadableRegions,
}

/// A region of a stream that holds no intact block.
struct Region {
    /// The offset of its first byte.
    start: u64,
    /// Why no record begins there.
    defect: RecordDefect,
    /// The first block in the region that is damaged or cut off.
    lost: Option<BlockError>,
}

/// What stands at a place of a stream.
enum StreamItem {
    Block(ReadBlock),
    End,
    NotARecord { defect: RecordDefect, lost: Option<BlockError> },
}

impl RecordReader {
    /// Reads the next record with an intact block, and skips the bytes before it.
    ///
    /// # Errors
    /// The block behind skipped bytes must follow the block before them. Otherwise a block is missing, and nothing tells the
    /// height of the block that was found. The error then names the skipped bytes.
    pub(super) fn next<R: Read>(
        &mut self,
        input: &mut StreamInput<R>,
        network: Network,
    ) -> Result<Option<ReadBlock>, BlockError> {
        let mut region: Option<Region> = None;
        loop {
            let start = input.reader.position();
            match self.read_item(input, network, region.is_some())? {
                StreamItem::Block(block) if self.last == Some(block.hash) => {
                    // Bitcoind stores a block twice after some crashes.
                    let bytes = input.reader.position() - start;
                    self.regions.log(&block.origin, bytes, &RecordDefect::Duplicate);
                }
                StreamItem::Block(block) => {
                    if let Some(region) = region {
                        self.check_follows(input, region, &block, start)?;
                    }
                    self.last = Some(block.hash);
                    return Ok(Some(block));
                }
                StreamItem::End => {
                    if let Some(region) = region {
                        self.check_end(input, region, start)?;
                    }
                    return Ok(None);
                }
                StreamItem::NotARecord { defect, lost } => {
                    let region = region.get_or_insert(Region { start, defect, lost: None });
                    region.lost = region.lost.take().or(lost);
                    input.reader.consume(1);
                    skip_to_magic(input, network)?;
                }
            }
        }
    }

    /// Reads what stands at the current place. Inside an unreadable region, the magic of another network counts as any other
    /// bytes.
    fn read_item<R: Read>(
        &mut self,
        input: &mut StreamInput<R>,
        network: Network,
        in_region: bool,
    ) -> Result<StreamItem, BlockError> {
        let start = input.reader.position();
        // Each step waits for no more bytes than it needs, because later bytes may take long to arrive.
        for least in [1, MAGIC_BYTES, PROBE_BYTES] {
            let bytes = input.fill(least)?;
            if bytes.is_empty() {
                return Ok(StreamItem::End);
            }
            // Bitcoind allocates its files in advance, so zeros may follow the last record of a file.
            if bytes.iter().take(MAGIC_BYTES).all(|byte| *byte == 0) {
                return Ok(StreamItem::NotARecord { defect: RecordDefect::Zeros, lost: None });
            }
            let magic = bytes.first_chunk().copied();
            if let Some(magic) = magic.filter(|magic| network_of(*magic).is_none()) {
                return Ok(StreamItem::NotARecord { defect: RecordDefect::Magic { magic }, lost: None });
            }
        }
        let bytes = input.reader.buffered();
        let probe = bytes.get(..PROBE_BYTES).unwrap_or(bytes);
        // The length of the stream is known only if it ends within the probe.
        let has = if probe.len() < PROBE_BYTES { probe.len() as u64 } else { u64::MAX };
        match probe_record(probe, has, input.limit) {
            RecordProbe::Record(head) if head.network == network => self.read_block(input, start, &head),
            RecordProbe::Record(head) if !in_region => {
                let (origin, found) = (input.origin(start), head.network);
                Err(BlockError::MixedNetworks { origin, expected: network, found })
            }
            RecordProbe::Record(head) => {
                let magic = head.network.magic().to_bytes();
                Ok(StreamItem::NotARecord { defect: RecordDefect::Magic { magic }, lost: None })
            }
            RecordProbe::Unreadable { defect: defect @ RecordDefect::Truncated { .. }, .. } => {
                Ok(StreamItem::NotARecord { defect, lost: Some(input.truncated(start)) })
            }
            RecordProbe::Unreadable { defect, .. } => {
                let lost = Some(input.damaged_record(start, defect.clone()));
                Ok(StreamItem::NotARecord { defect, lost })
            }
            RecordProbe::NotARecord(defect) => Ok(StreamItem::NotARecord { defect, lost: None }),
        }
    }

    /// Reads the block of a record whose head and block header are intact.
    fn read_block<R: Read>(
        &mut self,
        input: &mut StreamInput<R>,
        start: u64,
        head: &Head,
    ) -> Result<StreamItem, BlockError> {
        let needs = usize::try_from(record_bytes(head.length)).unwrap_or(usize::MAX);
        let bytes = input.fill(needs)?;
        let has = bytes.len() as u64;
        let Some(bytes) = bytes.get(HEAD_BYTES..needs) else {
            let defect = RecordDefect::Truncated { needs: needs as u64, has };
            return Ok(StreamItem::NotARecord { defect, lost: Some(input.truncated(start)) });
        };
        match verify(bytes) {
            Ok(block) => {
                let bytes = bytes.to_vec();
                let block = ReadBlock::decoded(&block, bytes, input.origin(start));
                input.reader.consume(needs);
                Ok(StreamItem::Block(block))
            }
            Err(defect) => {
                let lost = BlockError::DamagedBlock { origin: input.origin(start), defect: defect.clone() };
                self.regions.count_wasted(head.length.into());
                if !self.regions.within_budget(start) {
                    input.reader.consume(needs - 1);
                }
                Ok(StreamItem::NotARecord { defect: RecordDefect::Block(defect), lost: Some(lost) })
            }
        }
    }

    /// Checks that `block`, which begins at `end`, follows the block before an unreadable region. Logs the region.
    fn check_follows<R: Read>(
        &mut self,
        input: &StreamInput<R>,
        region: Region,
        block: &ReadBlock,
        end: u64,
    ) -> Result<(), BlockError> {
        let Region { start, defect, lost } = region;
        if self.last.is_some() && self.last == block.previous {
            self.regions.log(&input.origin(start), end - start, &defect);
            return Ok(());
        }
        Err(lost.unwrap_or_else(|| input.damaged_record(start, defect)))
    }

    /// Handles an unreadable region at the end of the stream, `end`. The region is an error only if a block in it was lost.
    /// Zeros are not even logged.
    fn check_end<R: Read>(
        &mut self,
        input: &StreamInput<R>,
        region: Region,
        end: u64,
    ) -> Result<(), BlockError> {
        let Region { start, defect, lost } = region;
        if let Some(lost) = lost {
            return Err(lost);
        }
        if !matches!(defect, RecordDefect::Zeros) {
            self.regions.log(&input.origin(start), end - start, &defect);
        }
        Ok(())
    }
}

/// Consumes bytes up to the next magic, or to the end.
fn skip_to_magic<R: Read>(input: &mut StreamInput<R>, network: Network) -> Result<(), BlockError> {
    loop {
        let buffered = input.reader.buffered();
        if let Some(position) = find_magic(buffered, Some(network)) {
            input.reader.consume(position);
            return Ok(());
        }
        let passed = buffered.len().saturating_sub(MAGIC_BYTES - 1);
        input.reader.consume(passed);
        if input.reader.read_more().map_err(BlockError::io(&input.name, "read"))? == 0 {
            // The last bytes may be the start of a magic. Bytes that short hold no block, so no block is lost.
            input.reader.consume(MAGIC_BYTES - 1);
            return Ok(());
        }
    }
}
