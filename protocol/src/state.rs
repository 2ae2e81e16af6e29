//! The bytes of the embedded state store, which the supervisor writes and the workers read.
//!
//! The store is one LMDB environment (a directory with `data.mdb` and `lock.mdb`) of four tables. The last of them
//! is the supervisor's alone, as is the one more of a store that keeps a state tree:
//!
//! | table | key | value |
//! |---|---|---|
//! | [`META`] | [`FORMAT_KEY`], [`PROFILE_KEY`], [`NETWORK_KEY`] | [`FORMAT`] as u32 LE; 32 bytes; UTF-8, absent until known |
//! | [`META`] | [`PROFILE_PARTS_KEY`] | [`Profile::encode`](crate::profile::Profile::encode), absent in older stores |
//! | [`BLOCKS`] | height, u32 big-endian | [`BlockRecord::encode`] |
//! | [`VALUES`] | [`VersionKey`] | [`VersionKey::stored`] |
//! | [`UNDO`] | [`undo_key`] | of recent blocks, the keys in [`VALUES`]: each after its length, u16 LE |
//!
//! Both processes must agree on every byte, but only they touch LMDB: this file knows bytes alone. Decoding never
//! panics, because a disk may give back anything.
//!
//! # How a value is found
//! A version's key is `stem(key) ‖ !height` (u32 big-endian). No stem is the beginning of another one, so the versions
//! of a key are neighbours, newest first, and the value at height h is one seek: the first entry at or after
//! `stem(key) ‖ !h`, if its stem is the same. The stem of a key is
//!
//! - **short**: `escape(key) ‖ 00 00`, where escaping turns each `00` into `00 FF`. It preserves the order of keys;
//! - **long**, if that and the height exceed LMDB's limit of 511 bytes: as much of `escape(key)` as fits (an escaped
//!   `00` is never cut in two) ‖ `00 01` ‖ SHA-256(key). The stored value then begins with the whole key, by which the
//!   hash is checked.
//!
//! In a stem, `00` is followed by `FF` inside the key, by `00` at a short end and by `01` before a hash, after which
//! the length is fixed; hence no stem begins another, and a short one never equals a long one.

use std::borrow::Cow;
use std::slice;

use thiserror::Error;

use crate::profile::Hash;
use crate::verdict::GuestVerdict;

/// Version of everything described here. A store of another version is refused.
pub const FORMAT: u32 = 1;

/// Bytes of address space that the store is mapped into, and so the most it can grow to: 1 TiB. Readers and writer use
/// the same figure, because LMDB refuses a reader whose map is smaller than the data. It costs neither memory nor disk.
pub const MAP_BYTES: usize = 1 << 40;

/// Read transactions at one time, over all processes. LMDB's default is 126; each worker needs one or two.
pub const MAX_READERS: u32 = 512;

/// The most tables that there may be.
pub const TABLES: u32 = 8;

/// Name of the table that says whose store this is.
pub const META: &str = "meta";

/// Name of the table of block records.
pub const BLOCKS: &str = "blocks";

/// Name of the table of values.
pub const VALUES: &str = "values";

/// Name of the table by which recent blocks can be taken back.
pub const UNDO: &str = "undo";

/// Key in [`META`] of the [`FORMAT`], u32 little-endian.
pub const FORMAT_KEY: &[u8] = b"format";

/// Key in [`META`] of the profile's hash, 32 bytes.
pub const PROFILE_KEY: &[u8] = b"profile";

/// Key in [`META`] of what the profile consists of, so that a message can say which part differs. It may be absent.
pub const PROFILE_PARTS_KEY: &[u8] = b"profile-parts";

/// Key in [`META`] of the network's name, UTF-8.
pub const NETWORK_KEY: &[u8] = b"network";

/// Key in [`META`] that is there, with no bytes, in a store that keeps a state tree; only the supervisor reads it.
pub const TREE_KEY: &[u8] = b"tree";

/// LMDB's limit on a key, in bytes (`MDB_MAXKEYSIZE`, lmdb.h: "default 511").
pub const KEY_LIMIT: usize = 511;

const HEIGHT_BYTES: usize = 4;
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const SHORT_END: [u8; 2] = [0x00, 0x00];
const LONG_MARK: [u8; 2] = [0x00, 0x01];
/// What `escape(key)` may take in a short stem, and in a long one.
const SHORT_ROOM: usize = KEY_LIMIT - HEIGHT_BYTES - SHORT_END.len();
const LONG_ROOM: usize = KEY_LIMIT - HEIGHT_BYTES - LONG_MARK.len() - 32;

const RECORD_VERSION: u8 = 1;

/// Stored bytes that nothing here wrote: damage, or another program's doing.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A record of a version that this build does not know.
    #[error("the record of block {height} has version {version}; this build knows version {RECORD_VERSION}")]
    RecordVersion {
        /// The block.
        height: u32,
        /// The version found.
        version: u8,
    },
    /// A record that ends too early.
    #[error("the record of block {height} is cut short at {length} bytes")]
    RecordLength {
        /// The block.
        height: u32,
        /// Bytes found.
        length: usize,
    },
    /// A record whose verdict is none.
    #[error("the record of block {height} ends in {verdict:?}, which names no guest verdict")]
    RecordVerdict {
        /// The block.
        height: u32,
        /// What stands there.
        verdict: String,
    },
    /// An entry in the table of blocks whose key is no height.
    #[error("a key of {length} bytes stands in the table of blocks; a height has {HEIGHT_BYTES}")]
    BlockKey {
        /// Bytes found.
        length: usize,
    },
    /// The value of a long key does not begin with that key.
    #[error("the value stored for a key of {key} bytes ({length} bytes) does not begin with that key")]
    LongValue {
        /// Bytes of the key.
        key: usize,
        /// Bytes stored.
        length: usize,
    },
}

crate::debug_as_display!(LayoutError);

/// The key that one version of one value is stored under. Made without allocation: a guest reads thousands a block.
#[derive(Clone, Debug)]
pub struct VersionKey<'k> {
    key: &'k [u8],
    bytes: [u8; KEY_LIMIT],
    length: usize,
    long: bool,
}

impl<'k> VersionKey<'k> {
    /// The stored key of `key` as of `height`. Any bytes are a key, also none.
    pub fn new(key: &'k [u8], height: u32) -> Self {
        let mut this = Self { key, bytes: [0; KEY_LIMIT], length: 0, long: false };
        if this.push_escaped(key) {
            this.push(&SHORT_END, KEY_LIMIT);
        } else {
            this.push_long_stem(key);
        }
        this.push(&(!height).to_be_bytes(), KEY_LIMIT);
        this
    }

    /// The stored key, to put at or to seek from; at most [`KEY_LIMIT`] bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// What is stored for `value`: the value itself, with its key in front if the key is long.
    pub fn stored<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if !self.long {
            return Cow::Borrowed(value);
        }
        let length = (self.key.len() as u64).to_le_bytes();
        Cow::Owned([length.as_slice(), self.key, value].concat())
    }

    /// The value in an entry that a seek to this key has found; none if the entry belongs to another key.
    ///
    /// # Errors
    /// [`LayoutError::LongValue`] if the entry has the hash of this key and not the key.
    pub fn value<'v>(&self, found: &[u8], stored: &'v [u8]) -> Result<Option<&'v [u8]>, LayoutError> {
        let stem = &self.bytes[..self.length - HEIGHT_BYTES];
        if found.len() != self.length || !found.starts_with(stem) {
            return Ok(None);
        }
        if !self.long {
            return Ok(Some(stored));
        }
        let damaged = LayoutError::LongValue { key: self.key.len(), length: stored.len() };
        self.after_key(stored).map(Some).ok_or(damaged)
    }

    fn after_key<'v>(&self, stored: &'v [u8]) -> Option<&'v [u8]> {
        let (length, rest) = stored.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (key, value) = rest.split_at_checked(length)?;
        (key == self.key).then_some(value)
    }

    /// Appends the whole escaped key; false, with some of it appended, if a short stem has no room for it.
    fn push_escaped(&mut self, key: &[u8]) -> bool {
        // Whole runs between zeros, because copying byte by byte would take a third of a read's time.
        let mut runs = key.split(|byte| *byte == 0);
        self.push(runs.next().unwrap_or_default(), SHORT_ROOM)
            && runs.all(|run| self.push(&ESCAPED_ZERO, SHORT_ROOM) && self.push(run, SHORT_ROOM))
    }

    fn push_long_stem(&mut self, key: &[u8]) {
        (self.length, self.long) = (0, true);
        for byte in key {
            let escaped = if *byte == 0 { &ESCAPED_ZERO } else { slice::from_ref(byte) };
            if !self.push(escaped, LONG_ROOM) {
                break;
            }
        }
        self.push(&LONG_MARK, KEY_LIMIT);
        self.push(&Hash::of(key).0, KEY_LIMIT);
    }

    fn push(&mut self, part: &[u8], room: usize) -> bool {
        let end = self.length + part.len();
        let fits = end <= room;
        if fits {
            self.bytes[self.length..end].copy_from_slice(part);
            self.length = end;
        }
        fits
    }
}

/// What is kept about a block that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// The block's height.
    pub height: u32,
    /// The block's hash, in the byte order of its header.
    pub hash: [u8; 32],
    /// The chain's digest up to and with this block.
    pub digest: Hash,
    /// What came of the block.
    pub verdict: GuestVerdict,
    /// How many pairs the block flushed, equal keys counted each time.
    pub writes: u64,
    /// SHA-256 over the pairs, see [`crate::writes`].
    pub writes_sha256: Hash,
}

impl BlockRecord {
    /// The record without its height, which is its key: version (1 byte), hash, digest, writes_sha256 (32 bytes each),
    /// writes (u64 little-endian), and the verdict's name up to the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        for hash in [&self.hash, &self.digest.0, &self.writes_sha256.0] {
            bytes.extend_from_slice(hash);
        }
        bytes.extend_from_slice(&self.writes.to_le_bytes());
        bytes.extend_from_slice(self.verdict.name().as_bytes());
        bytes
    }

    /// The record of the block at `height` from what [`BlockRecord::encode`] gave.
    ///
    /// # Errors
    /// [`LayoutError`] if it did not give these bytes.
    pub fn decode(height: u32, bytes: &[u8]) -> Result<Self, LayoutError> {
        let short = || LayoutError::RecordLength { height, length: bytes.len() };
        let (&version, rest) = bytes.split_first().ok_or_else(short)?;
        if version != RECORD_VERSION {
            return Err(LayoutError::RecordVersion { height, version });
        }
        let (&hash, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&digest, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&writes_sha256, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&writes, name) = rest.split_first_chunk().ok_or_else(short)?;
        let name = String::from_utf8_lossy(name);
        let verdict = GuestVerdict::from_name(&name)
            .ok_or_else(|| LayoutError::RecordVerdict { height, verdict: name.into_owned() })?;
        let (digest, writes_sha256) = (Hash(digest), Hash(writes_sha256));
        Ok(Self { height, hash, digest, verdict, writes: u64::from_le_bytes(writes), writes_sha256 })
    }
}

/// The height that a key in the table of blocks stands for; the key itself is `height.to_be_bytes()`.
///
/// # Errors
/// [`LayoutError::BlockKey`] if it has not the length of one.
pub fn block_height(key: &[u8]) -> Result<u32, LayoutError> {
    let bytes = key.try_into().map_err(|_| LayoutError::BlockKey { length: key.len() })?;
    Ok(u32::from_be_bytes(bytes))
}

/// The key in [`UNDO`] of a part of the list of the block at `height`.
pub fn undo_key(height: u32, part: u32) -> [u8; 8] {
    (u64::from(height) << 32 | u64::from(part)).to_be_bytes()
}

/// The height in a key of [`VALUES`]; none if it is too short to have one.
pub fn version_height(stored: &[u8]) -> Option<u32> {
    stored.last_chunk().map(|bytes| !u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few distinct bytes, so that keys begin with one another and meet the escapes, around every length that matters.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop::sample::select(vec![0x00, 0x01, 0x41, 0xFE, 0xFF]);
        let lengths = prop_oneof![
            0..6usize,
            LONG_ROOM - 3..LONG_ROOM + 3,
            SHORT_ROOM - 3..SHORT_ROOM + 3,
            0..1500usize
        ];
        let repeated = (byte.clone(), lengths.clone()).prop_map(|(byte, length)| vec![byte; length]);
        let mixed = lengths.prop_flat_map(move |length| prop::collection::vec(byte.clone(), length));
        prop_oneof![repeated, mixed]
    }

    fn stem(key: &[u8]) -> Vec<u8> {
        let mut stem = VersionKey::new(key, 0).as_bytes().to_vec();
        stem.truncate(stem.len() - HEIGHT_BYTES);
        stem
    }

    fn is_long(key: &[u8]) -> bool {
        VersionKey::new(key, 0).long
    }

    proptest! {
        #[test]
        fn short_stems_keep_the_order_of_keys(a in keys(), b in keys()) {
            if !is_long(&a) && !is_long(&b) {
                prop_assert_eq!(stem(&a).cmp(&stem(&b)), a.cmp(&b));
            }
        }

        #[test]
        fn no_stem_begins_another(a in keys(), b in keys(), tail in keys()) {
            let joined = [a.as_slice(), &tail].concat();
            for other in [&b, &joined] {
                prop_assert_eq!(stem(other).starts_with(&stem(&a)), &a == other);
            }
        }

        #[test]
        fn stored_keys_fit_lmdb_and_newer_versions_come_first(key in keys(), older: u32, newer: u32) {
            let (old, new) = (VersionKey::new(&key, older), VersionKey::new(&key, newer));
            prop_assert!(old.as_bytes().len() <= KEY_LIMIT);
            prop_assert_eq!(new.as_bytes().cmp(old.as_bytes()), older.cmp(&newer));
        }

        #[test]
        fn values_come_back_for_their_own_key_only(a in keys(), b in keys(), value: Vec<u8>) {
            let (put, same, other) = (VersionKey::new(&a, 7), VersionKey::new(&a, 9), VersionKey::new(&b, 9));
            let stored = put.stored(&value);
            prop_assert_eq!(same.value(put.as_bytes(), &stored), Ok(Some(value.as_slice())));
            if a != b {
                prop_assert_eq!(other.value(put.as_bytes(), &stored), Ok(None));
            }
        }

        #[test]
        fn damaged_bytes_never_panic(key in keys(), found: Vec<u8>, stored: Vec<u8>, height: u32) {
            let key = VersionKey::new(&key, height);
            let _ = key.value(&found, &stored);
            let _ = key.value(key.as_bytes(), &stored);
            let _ = block_height(&found);
            if let Ok(record) = BlockRecord::decode(height, &stored) {
                prop_assert_eq!(record.encode(), stored);
            }
        }
    }

    #[test]
    fn a_key_is_long_exactly_when_lmdb_would_refuse_it() {
        assert_eq!(VersionKey::new(b"", 0).as_bytes(), [0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(VersionKey::new(b"a\0b", 1).as_bytes(), b"a\0\xffb\0\0\xff\xff\xff\xfe");
        assert!(!is_long(&vec![1; SHORT_ROOM]) && is_long(&vec![1; SHORT_ROOM + 1]));
        assert!(!is_long(&vec![0; SHORT_ROOM / 2]) && is_long(&vec![0; SHORT_ROOM / 2 + 1]));
        assert_eq!(stem(&vec![1; 2000]).len(), KEY_LIMIT - HEIGHT_BYTES);
    }

    #[test]
    fn a_long_value_without_its_key_is_damage() {
        let (key, other) = (vec![1; 600], vec![2; 600]);
        let stored = VersionKey::new(&other, 1).stored(b"value").into_owned();
        let seek = VersionKey::new(&key, 1);
        let damaged = Err(LayoutError::LongValue { key: 600, length: stored.len() });
        assert_eq!(seek.value(seek.as_bytes(), &stored), damaged);
    }

    #[test]
    fn records_of_every_verdict_come_back_and_damaged_ones_are_named() {
        for verdict in GuestVerdict::ALL {
            let (digest, writes_sha256) = (Hash::of(b"digest"), Hash::of(b"writes"));
            let record =
                BlockRecord { height: 5, hash: [1; 32], digest, verdict, writes: 1 << 40, writes_sha256 };
            let bytes = record.encode();
            assert_eq!(BlockRecord::decode(5, &bytes), Ok(record));
            for end in 0..bytes.len() {
                assert!(BlockRecord::decode(5, &bytes[..end]).is_err(), "{verdict} cut at {end}");
            }
            let newer = [&[2], &bytes[1..]].concat();
            assert_eq!(
                BlockRecord::decode(5, &newer),
                Err(LayoutError::RecordVersion { height: 5, version: 2 })
            );
        }
    }
}
