//! One open blk file of a scan. This file says what is at an offset of the blk file, and finds the places where the next record
//! may begin.

use bitcoin::{BlockHash, Network};

use super::block::Origin;
use super::byte_source::{BlkFile, ByteReader};
use super::error::BlockError;
use super::framing::{
    HEAD_BYTES, Head, MAGIC_BYTES, PROBE_BYTES, RecordDefect, RecordProbe, find_magic, probe_record,
    record_bytes,
};
use super::progress::Progress;
use super::verify::{BlockDefect, verify};

/// The length of the pieces, in bytes, in which a file is read to skip padding and to search for a magic.
const CHUNK_BYTES: usize = 64 << 10;

/// A record whose head and block header are intact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// The offset in the file, in bytes.
    pub(super) offset: u64,
    pub(super) head: Head,
}

impl Record {
    /// The offset of the first byte behind the record.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(record_bytes(self.head.length))
    }
}

/// What stands at an offset of a blk file.
#[derive(Debug)]
pub(super) enum FileItem {
    Record(Record),
    /// A record that cannot be read: the file ends inside it, or its block is longer than the limit. The hash is known if the
    /// block header could be read.
    Unreadable {
        offset: u64,
        defect: RecordDefect,
        hash: Option<BlockHash>,
    },
    NotARecord(RecordDefect),
    End,
}

/// An open blk file.
pub(super) struct Records<'a> {
    file: &'a BlkFile,
    reader: ByteReader,
    limit: u64,
}

impl<'a> Records<'a> {
    /// Opens the file. Its blocks have at most `limit` bytes.
    pub(super) fn open(file: &'a BlkFile, limit: u64) -> Result<Self, BlockError> {
        Ok(Self { file, reader: file.source.open()?, limit })
    }

    /// The length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.file.source.len()
    }

    /// A place in the file, for messages.
    pub(super) fn origin(&self, offset: u64) -> Origin {
        self.file.source.origin(offset)
    }

    /// What stands at `offset`, where a record should begin.
    pub(super) fn at(&self, offset: u64) -> Result<FileItem, BlockError> {
        let mut buffer = [0; PROBE_BYTES];
        let bytes = self.read_probe(&mut buffer, offset)?;
        // Padding is made of zeros that the file system put there. Bitcoind has not obfuscated them.
        if bytes.iter().take(HEAD_BYTES).all(|byte| *byte == 0) {
            return self.padding(offset);
        }
        Ok(self.probe(bytes, offset))
    }

    /// Examines bytes that stand at `offset` of the file.
    fn probe(&self, bytes: &mut [u8], offset: u64) -> FileItem {
        self.file.key.apply(bytes, offset);
        match probe_record(bytes, self.bytes_from(offset), self.limit) {
            RecordProbe::Record(head) => FileItem::Record(Record { offset, head }),
            RecordProbe::Unreadable { defect, hash } => FileItem::Unreadable { offset, defect, hash },
            RecordProbe::NotARecord(defect) => FileItem::NotARecord(defect),
        }
    }

    /// Reads zeros. If only zeros follow up to the end of the file, the records end here: bitcoind allocates its files in
    /// advance.
    fn padding(&self, mut offset: u64) -> Result<FileItem, BlockError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let has @ 1.. = self.bytes_from(offset) {
            let chunk = &mut chunk[..at_most(CHUNK_BYTES, has)];
            self.read(chunk, offset)?;
            if chunk.iter().any(|byte| *byte != 0) {
                return Ok(FileItem::NotARecord(RecordDefect::Zeros));
            }
            offset += chunk.len() as u64;
        }
        Ok(FileItem::End)
    }

    /// Reads the block of a record and checks it. `None` if the block is intact.
    pub(super) fn block_defect(&self, record: &Record) -> Result<Option<BlockDefect>, BlockError> {
        // `probe_record` has checked the length against the limit and the file.
        let mut bytes = vec![0; usize::try_from(record.head.length).unwrap_or(usize::MAX)];
        let offset = record.offset + HEAD_BYTES as u64;
        self.read(&mut bytes, offset)?;
        self.file.key.apply(&mut bytes, offset);
        Ok(verify(&bytes).err())
    }

    /// Searches behind `start` for places where a record of `network` may begin.
    pub(super) fn search(&self, start: u64, network: Option<Network>) -> Search<'_, 'a> {
        let offset = start.saturating_add(1);
        Search { records: self, offset, network, chunk: Vec::new(), chunk_at: offset }
    }

    /// Makes the error for a file that holds no record.
    pub(super) fn unknown_magic(&self) -> Result<BlockError, BlockError> {
        let mut magic = [0; MAGIC_BYTES];
        let has = at_most(MAGIC_BYTES, self.len());
        self.read(&mut magic[..has], 0)?;
        self.file.key.apply(&mut magic[..has], 0);
        Ok(BlockError::UnknownMagic { origin: self.origin(0), magic })
    }

    /// The number of bytes from `offset` to the end of the file.
    fn bytes_from(&self, offset: u64) -> u64 {
        self.len().saturating_sub(offset)
    }

    /// Reads the first bytes at `offset`, still obfuscated. They fill the buffer unless the file ends before.
    fn read_probe<'b>(
        &self,
        buffer: &'b mut [u8; PROBE_BYTES],
        offset: u64,
    ) -> Result<&'b mut [u8], BlockError> {
        let bytes = &mut buffer[..at_most(PROBE_BYTES, self.bytes_from(offset))];
        self.read(bytes, offset)?;
        Ok(bytes)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.reader.read_exact_at(buffer, offset).map_err(BlockError::io(self.file.source.name(), "read"))
    }
}

/// A search for the next record. It looks for the magic of a network.
pub(super) struct Search<'r, 'a> {
    records: &'r Records<'a>,
    /// The offset of the first byte that was not examined.
    offset: u64,
    network: Option<Network>,
    /// Bytes of the file after the obfuscation was removed, and their offset in the file.
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Search<'_, '_> {
    /// Examines the next place with a magic. `None` at the end of the file.
    pub(super) fn next(&mut self, progress: &mut Progress<'_>) -> Result<Option<FileItem>, BlockError> {
        loop {
            let examined = usize::try_from(self.offset - self.chunk_at).unwrap_or(usize::MAX);
            let rest = self.chunk.get(examined..).unwrap_or_default();
            if let Some(position) = find_magic(rest, self.network) {
                let offset = self.offset + position as u64;
                self.offset = offset + 1;
                let mut buffer = [0; PROBE_BYTES];
                let bytes = self.records.read_probe(&mut buffer, offset)?;
                return Ok(Some(self.records.probe(bytes, offset)));
            }
            // A magic may begin in the last bytes of this chunk and end in the next chunk.
            self.offset += rest.len().saturating_sub(MAGIC_BYTES - 1) as u64;
            let has = self.records.bytes_from(self.offset);
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

/// The lesser of the length of a buffer and the number of bytes that are left in a file.
fn at_most(buffer: usize, has: u64) -> usize {
    usize::try_from(has).map_or(buffer, |has| has.min(buffer))
}
