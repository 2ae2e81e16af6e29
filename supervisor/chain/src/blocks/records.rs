//! One open blk file of a scan: what stands at an offset, and where the next record may begin.

use bitcoin::{BlockHash, Network};

use super::framing::{HEAD_BYTES, Head, Look, MAGIC_BYTES, PEEK_BYTES, Tear, find_magic, look, record_bytes};
use super::scan::Progress;
use super::store::{BlkFile, Handle};
use super::verify::{Defect, verify};
use super::{BlockError, Origin};

/// Padding is looked through, and a magic looked for, in pieces of this many bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A record whose head and header are right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Offset in the file, in bytes.
    pub(super) offset: u64,
    pub(super) head: Head,
}

impl Record {
    /// Offset of the first byte behind it.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(record_bytes(self.head.length))
    }
}

/// What stands at an offset of a blk file.
#[derive(Debug)]
pub(super) enum Found {
    Record(Record),
    /// A record that is cut off, or above the limit.
    Lost {
        offset: u64,
        tear: Tear,
        hash: Option<BlockHash>,
    },
    Nothing(Tear),
    End,
}

/// One open file of the scan.
pub(super) struct Records<'a> {
    file: &'a BlkFile,
    handle: Handle,
    limit: u64,
}

impl<'a> Records<'a> {
    /// Opens the file. Its blocks have up to `limit` bytes.
    pub(super) fn open(file: &'a BlkFile, limit: u64) -> Result<Self, BlockError> {
        Ok(Self { file, handle: file.store.open()?, limit })
    }

    /// The file's length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.file.store.len()
    }

    /// A place in it, for messages.
    pub(super) fn origin(&self, offset: u64) -> Origin {
        self.file.store.origin(offset)
    }

    /// What stands at `offset`, where a record should begin.
    pub(super) fn at(&self, offset: u64) -> Result<Found, BlockError> {
        let mut peek = [0; PEEK_BYTES];
        let peek = self.peek(&mut peek, offset)?;
        // Padding is what the file system put there: zeros that bitcoind never obfuscated.
        if peek.iter().take(HEAD_BYTES).all(|byte| *byte == 0) {
            return self.padding(offset);
        }
        Ok(self.look(peek, offset))
    }

    /// What bytes of the file mean, which stand at `offset`.
    fn look(&self, peek: &mut [u8], offset: u64) -> Found {
        self.file.key.apply(peek, offset);
        match look(peek, self.left(offset), self.limit) {
            Look::Record(head) => Found::Record(Record { offset, head }),
            Look::Lost { tear, hash } => Found::Lost { offset, tear, hash },
            Look::Nothing(tear) => Found::Nothing(tear),
        }
    }

    /// Bitcoind allocates its files ahead, so zeros may follow the last record.
    fn padding(&self, mut offset: u64) -> Result<Found, BlockError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let has @ 1.. = self.left(offset) {
            let chunk = &mut chunk[..at_most(CHUNK_BYTES, has)];
            self.read(chunk, offset)?;
            if chunk.iter().any(|byte| *byte != 0) {
                return Ok(Found::Nothing(Tear::Zeros));
            }
            offset += chunk.len() as u64;
        }
        Ok(Found::End)
    }

    /// What is wrong with the block of a record; nothing if it is whole.
    pub(super) fn defect(&self, record: &Record) -> Result<Option<Defect>, BlockError> {
        // The length was held against the limit and the file.
        let mut bytes = vec![0; usize::try_from(record.head.length).unwrap_or(usize::MAX)];
        let offset = record.offset + HEAD_BYTES as u64;
        self.read(&mut bytes, offset)?;
        self.file.key.apply(&mut bytes, offset);
        Ok(verify(&bytes).err())
    }

    /// The places behind `start` where a record of `network` may begin.
    pub(super) fn search(&self, start: u64, network: Option<Network>) -> Search<'_, 'a> {
        let offset = start.saturating_add(1);
        Search { records: self, offset, network, chunk: Vec::new(), chunk_at: offset }
    }

    /// The error for a file in which no record is.
    pub(super) fn unknown_magic(&self) -> Result<BlockError, BlockError> {
        let mut magic = [0; MAGIC_BYTES];
        let has = at_most(MAGIC_BYTES, self.len());
        self.read(&mut magic[..has], 0)?;
        self.file.key.apply(&mut magic[..has], 0);
        Ok(BlockError::UnknownMagic { origin: self.origin(0), magic })
    }

    /// Bytes from `offset` to the end.
    fn left(&self, offset: u64) -> u64 {
        self.len().saturating_sub(offset)
    }

    /// The first bytes at `offset`, as they are in the file: as many as there are, if they do not fill the buffer.
    fn peek<'b>(&self, buffer: &'b mut [u8; PEEK_BYTES], offset: u64) -> Result<&'b mut [u8], BlockError> {
        let peek = &mut buffer[..at_most(PEEK_BYTES, self.left(offset))];
        self.read(peek, offset)?;
        Ok(peek)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.handle.read_exact_at(buffer, offset).map_err(BlockError::io(self.file.store.name(), "read"))
    }
}

/// A search for the next record, magic by magic.
pub(super) struct Search<'r, 'a> {
    records: &'r Records<'a>,
    /// The first byte that was not looked at.
    offset: u64,
    network: Option<Network>,
    /// Bytes of the file, without obfuscation, and where they stand in it.
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Search<'_, '_> {
    /// What follows the next magic; `None` at the end of the file.
    pub(super) fn next(&mut self, progress: &mut Progress<'_>) -> Result<Option<Found>, BlockError> {
        loop {
            let looked_at = usize::try_from(self.offset - self.chunk_at).unwrap_or(usize::MAX);
            let rest = self.chunk.get(looked_at..).unwrap_or_default();
            if let Some(found) = find_magic(rest, self.network) {
                let offset = self.offset + found as u64;
                self.offset = offset + 1;
                let mut peek = [0; PEEK_BYTES];
                let peek = self.records.peek(&mut peek, offset)?;
                return Ok(Some(self.records.look(peek, offset)));
            }
            // A magic may begin in the last bytes of this piece, and end in the next one.
            self.offset += rest.len().saturating_sub(MAGIC_BYTES - 1) as u64;
            let has = self.records.left(self.offset);
            if has < MAGIC_BYTES as u64 {
                return Ok(None);
            }
            progress.at(self.offset);
            self.chunk.resize(at_most(CHUNK_BYTES, has), 0);
            self.records.read(&mut self.chunk, self.offset)?;
            self.records.file.key.apply(&mut self.chunk, self.offset);
            self.chunk_at = self.offset;
        }
    }
}

/// The lesser of a buffer's length and what a file has left.
fn at_most(buffer: usize, has: u64) -> usize {
    usize::try_from(has).map_or(buffer, |has| has.min(buffer))
}
