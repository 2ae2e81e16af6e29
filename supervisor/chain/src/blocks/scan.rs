//! The index of a set of blk files. Bitcoind appends blocks as they arrive, so the order is only known once
//! every header was seen; the blocks themselves are stepped over, 88 bytes read of each, and fetched when
//! their turn comes. Only where no record follows a record is its block looked at, since it may be cut short.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use bitcoin::{BlockHash, CompactTarget, Network};

use super::BlockError;
use super::framing::Tear;
use super::gaps::Gaps;
use super::records::{Found, Record, Records};
use super::store::BlkFile;
use super::verify::Defect;

/// How often progress is told, in bytes.
const PROGRESS_STEP: u64 = 16 << 20;
/// How many bytes of files without any record are looked through before the files are given up: two of bitcoind's. Without its
/// key a whole directory looks like that.
const MOST_SEARCHED_BYTES: u64 = 256 << 20;

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

/// All blocks of a set of files, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
    pub(super) by_hash: HashMap<BlockHash, u32>,
    /// Where else a block is: it can be stored again, after a crash of the node for instance, and only one of its copies be
    /// whole.
    pub(super) copies: HashMap<BlockHash, Vec<Place>>,
    pub(super) network: Option<Network>,
    /// A record at the end of a file that could not be read, and of whose block there is no other copy.
    pub(super) torn: Option<BlockError>,
    /// Such records, until all copies are known; with the block's hash, if that could be read.
    torn_ends: Vec<(BlockError, Option<BlockHash>)>,
    gaps: Gaps,
    /// The first file that holds something else than records, as long as no other holds any; and how long such files are.
    unknown: Option<BlockError>,
    searched_in_vain: u64,
}

/// A stretch without a whole block.
struct Gap {
    /// Offset of its first byte.
    start: u64,
    /// What stands there instead of a record.
    tear: Tear,
    /// The first block in it that is lost, unless it lies elsewhere; with its hash, if that could be read.
    torn: Option<(BlockError, Option<BlockHash>)>,
}

impl Gap {
    fn new(start: u64, tear: Tear) -> Self {
        Self { start, tear, torn: None }
    }
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

    pub(super) fn at(&mut self, offset: u64) {
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

/// Indexes the files. What lies between whole blocks is read over, and logged.
///
/// # Errors
///
/// Files that cannot be read, records of another network than that of the first record, and files that hold something else
/// than records.
pub(super) fn scan(files: &[BlkFile], limit: u64, progress: &mut Progress<'_>) -> Result<Index, BlockError> {
    let mut index = Index::default();
    for (number, file) in (0..).zip(files) {
        index.add_file(number, &Records::open(file, limit)?, progress)?;
        progress.file_done(file.store.len());
    }
    let torn_ends = std::mem::take(&mut index.torn_ends);
    let is_lost = |hash: &Option<BlockHash>| hash.is_none_or(|hash| !index.by_hash.contains_key(&hash));
    if let Some(unknown) = index.unknown.take().filter(|_| index.entries.is_empty() && torn_ends.is_empty()) {
        return Err(unknown);
    }
    index.torn = torn_ends.into_iter().find(|(_, hash)| is_lost(hash)).map(|(error, _)| error);
    Ok(index)
}

impl Index {
    fn add_file(
        &mut self,
        number: u32,
        records: &Records<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<(), BlockError> {
        self.gaps.begin_input();
        let mut offset = 0;
        // Kept once it is known what follows.
        let mut last: Option<Record> = None;
        loop {
            progress.at(offset);
            let gap = match records.at(offset)? {
                Found::Record(record) => {
                    self.join_network(&record, records)?;
                    offset = record.end();
                    self.keep(number, last.replace(record));
                    continue;
                }
                Found::End => {
                    self.keep(number, last);
                    return Ok(());
                }
                Found::Nothing(tear) => Gap::new(offset, tear),
                Found::Lost { tear, hash, .. } => {
                    let torn = BlockError::Torn { origin: records.origin(offset), tear: tear.clone() };
                    Gap { torn: Some((torn, hash)), ..Gap::new(offset, tear) }
                }
            };
            let gap = self.gap_behind(number, last.take(), records, gap)?;
            let Some(record) = self.next_whole(records, gap, progress)? else { return Ok(()) };
            offset = record.end();
            self.keep(number, Some(record));
        }
    }

    /// The gap behind a record, which is kept; or from that record on, if that is cut short, for it may hide others then.
    fn gap_behind(
        &mut self,
        file: u32,
        record: Option<Record>,
        records: &Records<'_>,
        gap: Gap,
    ) -> Result<Gap, BlockError> {
        let Some(record) = record else { return Ok(gap) };
        let Some(defect) = self.defect(&record, records)? else {
            self.keep(file, Some(record));
            return Ok(gap);
        };
        let damaged = BlockError::Damaged { origin: records.origin(record.offset), defect: defect.clone() };
        let torn = Some((damaged, Some(record.head.hash)));
        Ok(Gap { torn, ..Gap::new(record.offset, Tear::Block(defect)) })
    }

    /// What is wrong with the block of a record, as far as the account allows to look.
    fn defect(&mut self, record: &Record, records: &Records<'_>) -> Result<Option<Defect>, BlockError> {
        if !self.gaps.may_look(record.offset) {
            return Ok(None);
        }
        let defect = records.defect(record)?;
        if defect.is_some() {
            self.gaps.read_in_vain(record.head.length.into());
        }
        Ok(defect)
    }

    /// The first record with a whole block behind the start of a gap; the gap is told.
    fn next_whole(
        &mut self,
        records: &Records<'_>,
        mut gap: Gap,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Record>, BlockError> {
        let origin = records.origin(gap.start);
        let mut search = records.search(gap.start, self.network);
        while let Some(found) = search.next(progress)? {
            let lost = match found {
                Found::Record(record) => match self.defect(&record, records)? {
                    None => {
                        self.gaps.tell(&origin, record.offset - gap.start, &gap.tear);
                        self.network.get_or_insert(record.head.network);
                        return Ok(Some(record));
                    }
                    Some(defect) => {
                        let origin = records.origin(record.offset);
                        (BlockError::Damaged { origin, defect }, Some(record.head.hash))
                    }
                },
                Found::Lost { offset, tear, hash } => {
                    (BlockError::Torn { origin: records.origin(offset), tear }, hash)
                }
                Found::Nothing(_) | Found::End => continue,
            };
            gap.torn.get_or_insert(lost);
        }
        if let Some(torn) = gap.torn {
            self.torn_ends.push(torn);
            return Ok(None);
        }
        self.gaps.tell(&origin, records.len() - gap.start, &gap.tear);
        if self.entries.is_empty() {
            // Not one record yet: perhaps the files are of another kind, or obfuscated.
            let unknown = records.unknown_magic()?;
            self.searched_in_vain = self.searched_in_vain.saturating_add(records.len());
            if self.searched_in_vain > MOST_SEARCHED_BYTES {
                return Err(unknown);
            }
            self.unknown.get_or_insert(unknown);
        }
        Ok(None)
    }

    fn join_network(&mut self, record: &Record, records: &Records<'_>) -> Result<(), BlockError> {
        let found = record.head.network;
        let expected = *self.network.get_or_insert(found);
        if found == expected {
            return Ok(());
        }
        Err(BlockError::MixedNetworks { origin: records.origin(record.offset), expected, found })
    }

    fn keep(&mut self, file: u32, record: Option<Record>) {
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
    fn zeros_behind_the_last_record_are_the_end() {
        let bytes = records(&early_blocks()[..3]);
        assert_eq!(tear_of(&bytes), (3, None));
        for zeros in [1, 7, 8, 9, 200_000] {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len() + zeros, 0);
            assert_eq!(tear_of(&bytes), (3, None), "{zeros} zeros");
            // And what is no record behind them is none.
            bytes.push(1);
            assert_eq!(tear_of(&bytes), (3, None), "{zeros} zeros");
        }
    }

    #[test]
    fn what_lies_between_records_is_read_over() {
        let blocks = early_blocks();
        let (before, behind) = (records(&blocks[..2]), records(&blocks[2..4]));
        let record = records(&blocks[2..3]);
        let head_alone = [&record[..8], vec![0; record.len() - 8].as_slice()].concat();
        for (name, gap) in [
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
            let bytes = [before.clone(), gap.clone(), behind.clone()].concat();
            assert_eq!(tear_of(&bytes), (4, None), "{name}");
            let index = scan_bytes(&bytes).unwrap();
            // The whole one is there, be it as the first or as another copy.
            let places =
                [vec![index.entries[2].place], index.copies.values().flatten().copied().collect()].concat();
            let offset = (before.len() + gap.len()) as u64;
            assert!(places.iter().any(|place| place.offset == offset), "{name}: {places:?}");
            // At the start of the first file, too.
            assert_eq!(
                scan_bytes(&[gap, records(&blocks[..4])].concat()).unwrap().entries.len(),
                4,
                "{name}"
            );
        }
    }

    #[test]
    fn torn_ends_are_named() {
        let whole = records(&early_blocks()[..3]);
        let two = records(&early_blocks()[..2]).len();
        let needs = (whole.len() - two) as u64;
        assert_eq!(tear_of(&whole[..whole.len() - 1]), (2, Some(Tear::Cut { needs, has: needs - 1 })));
        assert_eq!(tear_of(&whole[..two + 20]), (2, Some(Tear::Cut { needs, has: 20 })));
        assert_eq!(tear_of(&whole[..two + 3]), (2, Some(Tear::Cut { needs: 8, has: 3 })));
        // Not so where nothing shows that there ever was a block.
        let with = |offset: usize, patch: &[u8]| {
            let mut bytes = whole.clone();
            bytes[two + offset..][..patch.len()].copy_from_slice(patch);
            tear_of(&bytes)
        };
        let length = Tear::Length { length: u32::MAX, limit: 4_000_000 };
        assert_eq!(with(4, &[0xff; 4]), (2, Some(length)));
        for (offset, patch) in [(0, &b"gone"[..]), (4, &[80, 0, 0, 0]), (8 + 76, &[0; 4])] {
            assert_eq!(with(offset, patch), (2, None), "{offset}");
        }
    }

    #[test]
    fn a_file_that_is_made_to_be_searched_for_ever_is_not() {
        // Every 96 bytes begins what could be a block of 4 MB: 320 GB to read, if all were looked at.
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
        assert!(error.contains("a record of signet among blocks of mainnet"), "{error}");
        // In a gap it is nothing.
        let gap = [records(&early_blocks()[..2]), vec![0; 9], bytes[second..].to_vec()].concat();
        assert_eq!(tear_of(&gap), (2, None));
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
