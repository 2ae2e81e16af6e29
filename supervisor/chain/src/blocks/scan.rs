//! Builds an index of the headers in a set of blk files.
//!
//! Bitcoind appends blocks in the order in which they arrive. So the order of the chain is known only after each header was read.
//! The scan reads 88 bytes of each block, and the block itself is read when it is delivered. If a record is not followed directly
//! by another record, the scan also reads and checks the block of the first record, because that block may be cut short.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use bitcoin::{BlockHash, CompactTarget, Network};

use super::byte_source::BlkFile;
use super::error::BlockError;
use super::framing::RecordDefect;
use super::progress::Progress;
use super::records::{FileItem, Record, Records};
use super::unreadable::UnreadableRegions;
use super::verify::BlockDefect;

/// How many bytes of files without a record are searched before the scan fails: the length of two files of bitcoind. A whole
/// directory holds no record if the obfuscation key is missing.
const MOST_SEARCHED_BYTES: u64 = 256 << 20;

/// The needed fields of one block's header, and the place of the block. Mainnet has a million entries, so an entry is small.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) hash: BlockHash,
    pub(super) previous: BlockHash,
    /// The target, from which the work of the block follows.
    pub(super) bits: CompactTarget,
    pub(super) place: Place,
}

/// Where one block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the file among the scanned files.
    pub(super) file: u32,
    /// The offset of the record in the file, in bytes.
    pub(super) offset: u64,
    /// The length of the block in bytes, without the head of the record.
    pub(super) length: u32,
}

/// A record or block that is lost unless there is another copy of it, and its hash, if the block header could be read.
type Lost = (BlockError, Option<BlockHash>);

/// All blocks of a set of files, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
    pub(super) by_hash: HashMap<BlockHash, u32>,
    /// The other places of a block. Bitcoind may store a block again, for instance after a crash, and then perhaps only one of
    /// the copies is intact.
    pub(super) copies: HashMap<BlockHash, Vec<Place>>,
    pub(super) network: Option<Network>,
    /// The first record at the end of a file that could not be read, and whose block has no other copy.
    pub(super) lost: Option<BlockError>,
    /// All unreadable records at the ends of files. Only when all copies are known, it is known which of these records are lost.
    unreadable_ends: Vec<Lost>,
    regions: UnreadableRegions,
    /// The error for the first file without a record, as long as no file holds a record.
    unknown: Option<BlockError>,
    /// The length of all files without a record before the first record, in bytes.
    searched_bytes: u64,
}

/// A region of a file that holds no intact block.
struct Region {
    /// The offset of its first byte.
    start: u64,
    /// Why no record begins there.
    defect: RecordDefect,
    /// The first record in the region that cannot be read.
    lost: Option<Lost>,
}

impl Region {
    fn new(start: u64, defect: RecordDefect) -> Self {
        Self { start, defect, lost: None }
    }
}

/// Indexes the files. Bytes that hold no intact block are skipped and logged.
///
/// # Errors
/// Files that cannot be read; a record of another network than the first record; and files that hold no record, if no file
/// holds one.
pub(super) fn scan(files: &[BlkFile], limit: u64, progress: &mut Progress<'_>) -> Result<Index, BlockError> {
    let mut index = Index::default();
    for (number, file) in (0..).zip(files) {
        index.add_file(number, &Records::open(file, limit)?, progress)?;
        progress.file_done(file.source.len());
    }
    let ends = std::mem::take(&mut index.unreadable_ends);
    if let Some(unknown) = index.unknown.take().filter(|_| index.entries.is_empty() && ends.is_empty()) {
        return Err(unknown);
    }
    let is_lost = |hash: &Option<BlockHash>| hash.is_none_or(|hash| !index.by_hash.contains_key(&hash));
    index.lost = ends.into_iter().find(|(_, hash)| is_lost(hash)).map(|(error, _)| error);
    Ok(index)
}

impl Index {
    fn add_file(
        &mut self,
        number: u32,
        records: &Records<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(), BlockError> {
        self.regions.start_input();
        let mut offset = 0;
        // A record is added only when the bytes behind the record were examined.
        let mut last: Option<Record> = None;
        loop {
            progress.at(offset);
            let region = match records.at(offset)? {
                FileItem::Record(record) => {
                    self.join_network(&record, records)?;
                    offset = record.end();
                    self.add(number, last.replace(record));
                    continue;
                }
                FileItem::End => {
                    self.add(number, last);
                    return Ok(());
                }
                FileItem::NotARecord(defect) => Region::new(offset, defect),
                FileItem::Unreadable { defect, hash, .. } => {
                    let origin = records.origin(offset);
                    let error = BlockError::DamagedRecord { origin, defect: defect.clone() };
                    Region { lost: Some((error, hash)), ..Region::new(offset, defect) }
                }
            };
            let region = self.region_behind(number, last.take(), records, region)?;
            let Some(record) = self.next_intact(records, region, progress)? else { return Ok(()) };
            offset = record.end();
            self.add(number, Some(record));
        }
    }

    /// Decides where the unreadable region behind `record` begins. If the block of the record is intact, the record is added.
    /// Otherwise the region begins with the record, because a record that is cut short may hide the records behind it.
    fn region_behind(
        &mut self,
        file: u32,
        record: Option<Record>,
        records: &Records<'_>,
        region: Region,
    ) -> Result<Region, BlockError> {
        let Some(record) = record else { return Ok(region) };
        let Some(defect) = self.block_defect(&record, records)? else {
            self.add(file, Some(record));
            return Ok(region);
        };
        let origin = records.origin(record.offset);
        let error = BlockError::DamagedBlock { origin, defect: defect.clone() };
        let lost = Some((error, Some(record.head.hash)));
        Ok(Region { lost, ..Region::new(record.offset, RecordDefect::Block(defect)) })
    }

    /// Checks the block of a record, as far as the budget for unreadable regions allows.
    fn block_defect(
        &mut self,
        record: &Record,
        records: &Records<'_>,
    ) -> Result<Option<BlockDefect>, BlockError> {
        if !self.regions.within_budget(record.offset) {
            return Ok(None);
        }
        let defect = records.block_defect(record)?;
        if defect.is_some() {
            self.regions.count_wasted(record.head.length.into());
        }
        Ok(defect)
    }

    /// Finds the first record with an intact block behind the start of a region, and logs the region.
    fn next_intact(
        &mut self,
        records: &Records<'_>,
        mut region: Region,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Record>, BlockError> {
        let origin = records.origin(region.start);
        let mut search = records.search(region.start, self.network);
        while let Some(item) = search.next(progress)? {
            let lost = match item {
                FileItem::Record(record) => match self.block_defect(&record, records)? {
                    None => {
                        self.regions.log(&origin, record.offset - region.start, &region.defect);
                        self.network.get_or_insert(record.head.network);
                        return Ok(Some(record));
                    }
                    Some(defect) => {
                        let origin = records.origin(record.offset);
                        (BlockError::DamagedBlock { origin, defect }, Some(record.head.hash))
                    }
                },
                FileItem::Unreadable { offset, defect, hash } => {
                    (BlockError::DamagedRecord { origin: records.origin(offset), defect }, hash)
                }
                FileItem::NotARecord(_) | FileItem::End => continue,
            };
            region.lost.get_or_insert(lost);
        }
        if let Some(lost) = region.lost {
            self.unreadable_ends.push(lost);
            return Ok(None);
        }
        self.regions.log(&origin, records.len() - region.start, &region.defect);
        if self.entries.is_empty() {
            self.note_unknown(records)?;
        }
        Ok(None)
    }

    /// Keeps the error for a file without a record, while no file had a record. The files may be of another kind, or obfuscated
    /// with a key that is missing.
    fn note_unknown(&mut self, records: &Records<'_>) -> Result<(), BlockError> {
        let unknown = records.unknown_magic()?;
        self.searched_bytes = self.searched_bytes.saturating_add(records.len());
        if self.searched_bytes > MOST_SEARCHED_BYTES {
            return Err(unknown);
        }
        self.unknown.get_or_insert(unknown);
        Ok(())
    }

    fn join_network(&mut self, record: &Record, records: &Records<'_>) -> Result<(), BlockError> {
        let found = record.head.network;
        let expected = *self.network.get_or_insert(found);
        if found == expected {
            return Ok(());
        }
        Err(BlockError::MixedNetworks { origin: records.origin(record.offset), expected, found })
    }

    fn add(&mut self, file: u32, record: Option<Record>) {
        let Some(Record { offset, head }) = record else { return };
        let place = Place { file, offset, length: head.length };
        match (self.by_hash.entry(head.hash), u32::try_from(self.entries.len())) {
            (Vacant(vacant), Ok(number)) => {
                vacant.insert(number);
                let (hash, previous) = (head.hash, head.header.prev_blockhash);
                self.entries.push(Entry { hash, previous, bits: head.header.bits, place });
            }
            (Occupied(_), _) => self.copies.entry(head.hash).or_default().push(place),
            (Vacant(_), Err(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::byte_source::ByteSource;
    use crate::blocks::testing::{early_blocks, records};
    use crate::blocks::xor::XorKey;

    fn scan_bytes(bytes: &[u8]) -> Result<Index, BlockError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let source = ByteSource::on_disk(file.path()).unwrap().0;
        scan(&[BlkFile { source, key: XorKey::NONE }], 4_000_000, &mut Progress::new(0, &mut |_, _| {}))
    }

    fn defect_of(bytes: &[u8]) -> (usize, Option<RecordDefect>) {
        let index = scan_bytes(bytes).unwrap();
        let defect = index.lost.map(|error| match error {
            BlockError::DamagedRecord { defect, .. } => defect,
            other => panic!("{other}"),
        });
        (index.entries.len(), defect)
    }

    #[test]
    fn zeros_behind_the_last_record_are_padding() {
        let bytes = records(&early_blocks()[..3]);
        assert_eq!(defect_of(&bytes), (3, None));
        for zeros in [1, 7, 8, 9, 200_000] {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len() + zeros, 0);
            assert_eq!(defect_of(&bytes), (3, None), "{zeros} zeros");
            // Bytes behind the zeros that are not a record change nothing.
            bytes.push(1);
            assert_eq!(defect_of(&bytes), (3, None), "{zeros} zeros");
        }
    }

    #[test]
    fn bytes_between_records_are_skipped() {
        let blocks = early_blocks();
        let (before, behind) = (records(&blocks[..2]), records(&blocks[2..4]));
        let record = records(&blocks[2..3]);
        let head_alone = [&record[..8], vec![0; record.len() - 8].as_slice()].concat();
        for (name, region) in [
            ("a zero", vec![0]),
            ("zeros", vec![0; 200_000]),
            ("other bytes", b"gone".repeat(50_000)),
            ("a part of a block", record[..100].to_vec()),
            ("a part of a header", record[..50].to_vec()),
            ("a head", record[..8].to_vec()),
            ("a head and a block that was not written", head_alone),
            ("a magic", record[..4].to_vec()),
            ("a part of a magic", record[..3].to_vec()),
            ("an impossible length", [&record[..4], &[0xff; 4], &record[8..]].concat()),
            ("a damaged header", [&record[..84], &[0; 4], &record[88..]].concat()),
            ("a damaged block", [&record[..record.len() - 1], &[0x55]].concat()),
        ] {
            let bytes = [before.clone(), region.clone(), behind.clone()].concat();
            assert_eq!(defect_of(&bytes), (4, None), "{name}");
            let index = scan_bytes(&bytes).unwrap();
            // The intact copy is in the index: as the entry, or as another copy.
            let places =
                [vec![index.entries[2].place], index.copies.values().flatten().copied().collect()].concat();
            let offset = (before.len() + region.len()) as u64;
            assert!(places.iter().any(|place| place.offset == offset), "{name}: {places:?}");
            // The same at the start of the first file.
            assert_eq!(
                scan_bytes(&[region, records(&blocks[..4])].concat()).unwrap().entries.len(),
                4,
                "{name}"
            );
        }
    }

    #[test]
    fn an_unreadable_record_at_the_end_is_an_error() {
        let whole = records(&early_blocks()[..3]);
        let two = records(&early_blocks()[..2]).len();
        let needs = (whole.len() - two) as u64;
        assert_eq!(
            defect_of(&whole[..whole.len() - 1]),
            (2, Some(RecordDefect::Truncated { needs, has: needs - 1 }))
        );
        assert_eq!(defect_of(&whole[..two + 20]), (2, Some(RecordDefect::Truncated { needs, has: 20 })));
        assert_eq!(defect_of(&whole[..two + 3]), (2, Some(RecordDefect::Truncated { needs: 8, has: 3 })));
        // No error if nothing shows that a block was there.
        let with = |offset: usize, patch: &[u8]| {
            let mut bytes = whole.clone();
            bytes[two + offset..][..patch.len()].copy_from_slice(patch);
            defect_of(&bytes)
        };
        let length = RecordDefect::Length { length: u32::MAX, limit: 4_000_000 };
        assert_eq!(with(4, &[0xff; 4]), (2, Some(length)));
        for (offset, patch) in [(0, &b"gone"[..]), (4, &[80, 0, 0, 0]), (8 + 76, &[0; 4])] {
            assert_eq!(with(offset, patch), (2, None), "{offset}");
        }
    }

    #[test]
    fn the_search_in_a_malicious_file_is_bounded() {
        // Every 96 bytes, a block of 4 MB seems to begin. To read them all is to read 320 GB.
        let record = records(&early_blocks()[1..2]);
        let bait = [&record[..4], 4_000_000u32.to_le_bytes().as_slice(), &record[8..96]].concat();
        let bytes = [records(&early_blocks()[..1]), bait.repeat(80_000), vec![1; 4_000_000]].concat();
        let index = scan_bytes(&bytes).unwrap();
        let copies: usize = index.copies.values().map(Vec::len).sum();
        assert!(index.entries.len() <= 2 && copies <= 8, "{copies}");
    }

    #[test]
    fn a_record_of_another_network_is_refused() {
        let mut bytes = records(&early_blocks()[..2]);
        let second = records(&early_blocks()[..1]).len();
        bytes[second..][..4].copy_from_slice(&Network::Signet.magic().to_bytes());
        let error = scan_bytes(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("this record belongs to signet, but the blocks before it belong to mainnet"),
            "{error}"
        );
        // In an unreadable region, such a record is skipped.
        let region = [records(&early_blocks()[..2]), vec![0; 9], bytes[second..].to_vec()].concat();
        assert_eq!(defect_of(&region), (2, None));
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
