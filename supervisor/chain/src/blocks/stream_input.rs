//! The input of a stream of blocks: its bytes, its name, and the errors about places in it.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::block::Origin;
use super::error::BlockError;
use super::framing::RecordDefect;
use super::lookahead::LookaheadReader;
use super::options::Options;

/// A stream that blocks are read from.
#[derive(Debug)]
pub(super) struct StreamInput<R: Read> {
    pub(super) reader: LookaheadReader<R>,
    /// The name of the stream, for messages.
    pub(super) name: Arc<Path>,
    /// The most bytes of a block.
    pub(super) limit: u64,
    /// How many intact blocks were read.
    pub(super) intact: u64,
}

impl<R: Read> StreamInput<R> {
    pub(super) fn new(input: R, name: &Path, options: &Options) -> Self {
        let reader = LookaheadReader::new(input);
        Self { reader, name: name.into(), limit: options.max_block_bytes, intact: 0 }
    }

    /// The next bytes: at least `least`, unless the stream ends before.
    pub(super) fn fill(&mut self, least: usize) -> Result<&[u8], BlockError> {
        self.reader.fill(least).map_err(BlockError::io(&self.name, "read"))
    }

    /// A place in the stream, for messages.
    pub(super) fn origin(&self, offset: u64) -> Origin {
        Origin { file: Arc::clone(&self.name), offset }
    }

    /// The error for a stream that ends inside the block or record that begins at `start`.
    pub(super) fn truncated(&self, start: u64) -> BlockError {
        let origin = self.origin(self.reader.bytes_read());
        BlockError::StreamTruncated { origin, start, intact: self.intact }
    }

    /// The error for a record that cannot be read.
    pub(super) fn damaged_record(&self, start: u64, defect: RecordDefect) -> BlockError {
        BlockError::DamagedRecord { origin: self.origin(start), defect }
    }
}
