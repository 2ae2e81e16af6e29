//! The index of a set of blk files. Bitcoind appends blocks as they arrive, so the order is only known once
//! every header was seen; the blocks themselves are stepped over, 88 bytes read of each, and fetched when
//! their turn comes.

use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;

use bitcoin::block::Header;
use bitcoin::{BlockHash, CompactTarget, Network};

use super::BlockError;
use super::framing::{HEAD_BYTES, MIN_BLOCK_BYTES, Tear, network_of};
use super::store::{BlkFile, Handle};
use super::verify::verify_header;

/// How often progress is told, in bytes.
const PROGRESS_STEP: u64 = 16 << 20;
/// Head and block header: all that is read of a record.
const PEEK_BYTES: usize = HEAD_BYTES + Header::SIZE;
/// Padding is looked through in pieces of this many bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Where one block is, and where it belongs. There are a million of these, so they are kept small.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) hash: BlockHash,
    pub(super) previous: BlockHash,
    /// The target, from which the work follows.
    pub(super) bits: CompactTarget,
    pub(super) place: Place,
}

/// Where one block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the scanned files.
    pub(super) file: u32,
    /// Offset of the record in it, in bytes.
    pub(super) offset: u64,
    /// Length of the block in bytes, without the record's head.
    pub(super) length: u32,
}

/// All whole blocks of a set of files, in the order in which they were found, none twice.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
    pub(super) by_hash: HashMap<BlockHash, u32>,
    pub(super) network: Option<Network>,
    /// The first record that could not be read.
    pub(super) torn: Option<BlockError>,
}

/// Tells the caller how far the scan is, but not for every block.
pub(super) struct Progress<'a> {
    report: &'a mut dyn FnMut(u64, u64),
    total: u64,
    files_done: u64,
    told: u64,
}

impl<'a> Progress<'a> {
    /// Of `total` bytes in all files that will be scanned.
    pub(super) fn new(total: u64, report: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self { report, total, files_done: 0, told: 0 }
    }

    fn at(&mut self, offset: u64) {
        if self.files_done + offset >= self.told + PROGRESS_STEP {
            self.tell(self.files_done + offset);
        }
    }

    fn file_done(&mut self, len: u64) {
        self.files_done += len;
        self.tell(self.files_done);
    }

    fn tell(&mut self, bytes: u64) {
        self.told = bytes;
        (self.report)(bytes, self.total);
    }
}

/// Indexes the files. A torn record ends its file, not the scan; the first is kept in the index, others are
/// logged.
///
/// # Errors
///
/// Files that cannot be read, and records of another network than that of the first record.
pub(super) fn scan(files: &[BlkFile], limit: u64, progress: &mut Progress<'_>) -> Result<Index, BlockError> {
    let mut index = Index::default();
    for (number, file) in (0..).zip(files) {
        let scanner = Scanner { file, handle: file.store.open()?, limit };
        index.add_file(number, &scanner, progress)?;
        progress.file_done(file.store.len());
    }
    Ok(index)
}

impl Index {
    fn add_file(
        &mut self,
        number: u32,
        scanner: &Scanner<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(), BlockError> {
        let mut offset = 0;
        loop {
            progress.at(offset);
            match scanner.record(offset)? {
                Found::End => return Ok(()),
                Found::Torn(tear) => {
                    self.tear(BlockError::Torn { origin: scanner.file.store.origin(offset), tear });
                    return Ok(());
                }
                Found::Record { network, length, header, hash } => {
                    self.join_network(network, scanner, offset)?;
                    self.add(&header, hash, Place { file: number, offset, length });
                    offset += record_bytes(length);
                }
            }
        }
    }

    fn join_network(&mut self, found: Network, scanner: &Scanner<'_>, offset: u64) -> Result<(), BlockError> {
        let expected = *self.network.get_or_insert(found);
        if found == expected {
            return Ok(());
        }
        Err(BlockError::MixedNetworks { origin: scanner.file.store.origin(offset), expected, found })
    }

    fn add(&mut self, header: &Header, hash: BlockHash, place: Place) {
        // A block can be stored twice, after a crash of the node for instance. The first is as good as the
        // second.
        if let (Vacant(vacant), Ok(number)) = (self.by_hash.entry(hash), u32::try_from(self.entries.len())) {
            vacant.insert(number);
            self.entries.push(Entry { hash, previous: header.prev_blockhash, bits: header.bits, place });
        }
    }

    fn tear(&mut self, error: BlockError) {
        tracing::warn!("{error}");
        self.torn.get_or_insert(error);
    }
}

/// What stands at an offset of a blk file.
enum Found {
    Record { network: Network, length: u32, header: Header, hash: BlockHash },
    Torn(Tear),
    End,
}

/// One open file of the scan.
struct Scanner<'a> {
    file: &'a BlkFile,
    handle: Handle,
    limit: u64,
}

impl Scanner<'_> {
    fn record(&self, offset: u64) -> Result<Found, BlockError> {
        let has = self.file.store.len().saturating_sub(offset);
        let mut peek = [0; PEEK_BYTES];
        let peek = &mut peek[..at_most(PEEK_BYTES, has)];
        self.read(peek, offset)?;
        // Padding is what the file system put there: zeros that bitcoind never obfuscated.
        if peek.iter().take(HEAD_BYTES).all(|byte| *byte == 0) {
            return self.padding(offset);
        }
        self.file.key.apply(peek, offset);
        Ok(parse(peek, has, self.limit).unwrap_or_else(Found::Torn))
    }

    /// Bitcoind allocates its files ahead, so zeros may follow the last record; anything after them is a
    /// tear.
    fn padding(&self, mut offset: u64) -> Result<Found, BlockError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let has @ 1.. = self.file.store.len().saturating_sub(offset) {
            let chunk = &mut chunk[..at_most(CHUNK_BYTES, has)];
            self.read(chunk, offset)?;
            if let Some(data) = chunk.iter().position(|byte| *byte != 0) {
                return Ok(Found::Torn(Tear::AfterPadding { at: offset + data as u64 }));
            }
            offset += chunk.len() as u64;
        }
        Ok(Found::End)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.handle.read_exact_at(buffer, offset).map_err(BlockError::io(self.file.store.name(), "read"))
    }
}

/// The lesser of a buffer's length and what a file has left.
fn at_most(buffer: usize, has: u64) -> usize {
    usize::try_from(has).map_or(buffer, |has| has.min(buffer))
}

/// Length of a record, in bytes, from that of its block.
fn record_bytes(length: u32) -> u64 {
    HEAD_BYTES as u64 + u64::from(length)
}

/// Reads head and header of a record from the first bytes of it; `has` is what the file has from there on.
fn parse(peek: &[u8], has: u64, limit: u64) -> Result<Found, Tear> {
    let Some((&[m0, m1, m2, m3, l0, l1, l2, l3], header)) = peek.split_first_chunk() else {
        return Err(Tear::Cut { needs: HEAD_BYTES as u64, has });
    };
    let magic = [m0, m1, m2, m3];
    let network = network_of(magic).ok_or(Tear::Magic { magic })?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if u64::from(length) < MIN_BLOCK_BYTES || u64::from(length) > limit {
        return Err(Tear::Length { length, limit });
    }
    let needs = record_bytes(length);
    if needs > has {
        return Err(Tear::Cut { needs, has });
    }
    let (header, hash) = verify_header(header).map_err(Tear::Header)?;
    Ok(Found::Record { network, length, header, hash })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::Defect;
    use crate::blocks::framing::XorKey;
    use crate::blocks::store::Store;
    use crate::blocks::testing::{early_blocks, records};

    fn scan_bytes(bytes: &[u8]) -> Result<Index, BlockError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let store = Store::on_disk(file.path()).unwrap().0;
        scan(&[BlkFile { store, key: XorKey::NONE }], 4_000_000, &mut Progress::new(0, &mut |_, _| {}))
    }

    fn tear_of(bytes: &[u8]) -> (usize, Option<Tear>) {
        let index = scan_bytes(bytes).unwrap();
        let tear = index.torn.map(|error| match error {
            BlockError::Torn { tear, .. } => tear,
            other => panic!("{other}"),
        });
        (index.entries.len(), tear)
    }

    #[test]
    fn zero_padding_is_the_end() {
        let mut bytes = records(&early_blocks()[..3]);
        assert_eq!(tear_of(&bytes), (3, None));
        for zeros in [1, 7, 8, 9, 200_000] {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len() + zeros, 0);
            assert_eq!(tear_of(&bytes), (3, None), "{zeros} zeros");
        }
        bytes.resize(bytes.len() + 100_000, 0);
        bytes.push(1);
        let at = bytes.len() as u64 - 1;
        assert_eq!(tear_of(&bytes), (3, Some(Tear::AfterPadding { at })));
    }

    #[test]
    fn torn_records_are_named() {
        let whole = records(&early_blocks()[..3]);
        let two = records(&early_blocks()[..2]).len();
        let with = |offset: usize, patch: &[u8]| {
            let mut bytes = whole.clone();
            bytes[two + offset..][..patch.len()].copy_from_slice(patch);
            tear_of(&bytes)
        };
        let needs = (whole.len() - two) as u64;
        assert_eq!(tear_of(&whole[..whole.len() - 1]), (2, Some(Tear::Cut { needs, has: needs - 1 })));
        assert_eq!(tear_of(&whole[..two + 3]), (2, Some(Tear::Cut { needs: 8, has: 3 })));
        assert_eq!(with(0, b"gone"), (2, Some(Tear::Magic { magic: *b"gone" })));
        let length = Tear::Length { length: u32::MAX, limit: 4_000_000 };
        assert_eq!(with(4, &[0xff; 4]), (2, Some(length)));
        assert_eq!(with(4, &[80, 0, 0, 0]).0, 2);
        assert!(matches!(with(8 + 76, &[0; 4]), (2, Some(Tear::Header(Defect::ProofOfWork { .. })))));
    }

    #[test]
    fn a_record_of_another_network_is_refused() {
        let mut bytes = records(&early_blocks()[..2]);
        let second = records(&early_blocks()[..1]).len();
        bytes[second..][..4].copy_from_slice(&Network::Signet.magic().to_bytes());
        let error = scan_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("a record of signet among blocks of mainnet"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let mut file = if magic { Network::Bitcoin.magic().to_bytes().to_vec() } else { Vec::new() };
            file.extend(bytes);
            let _ = scan_bytes(&file);
        }
    }
}
