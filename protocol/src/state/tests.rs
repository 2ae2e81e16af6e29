//! Keys and records: any bytes are encoded, and damaged bytes are refused.

use proptest::prelude::*;

use super::layout::{HEIGHT_BYTES, LONG_KEY_BYTES, SHORT_KEY_BYTES};
use super::*;
use crate::profile::Hash;
use crate::verdict::GuestVerdict;

/// Few distinct bytes, so that keys begin with one another and meet the escapes, around every length that matters.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(vec![0x00, 0x01, 0x41, 0xFE, 0xFF]);
    let lengths = prop_oneof![
        0..6usize,
        LONG_KEY_BYTES - 3..LONG_KEY_BYTES + 3,
        SHORT_KEY_BYTES - 3..SHORT_KEY_BYTES + 3,
        0..1500usize
    ];
    let repeated = (byte.clone(), lengths.clone()).prop_map(|(byte, length)| vec![byte; length]);
    let mixed = lengths.prop_flat_map(move |length| prop::collection::vec(byte.clone(), length));
    prop_oneof![repeated, mixed]
}

fn prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = VersionKey::new(key, 0).as_bytes().to_vec();
    prefix.truncate(prefix.len() - HEIGHT_BYTES);
    prefix
}

fn is_long(key: &[u8]) -> bool {
    VersionKey::new(key, 0).is_long()
}

proptest! {
    #[test]
    fn short_prefixes_keep_the_order_of_keys(a in keys(), b in keys()) {
        if !is_long(&a) && !is_long(&b) {
            prop_assert_eq!(prefix(&a).cmp(&prefix(&b)), a.cmp(&b));
        }
    }

    #[test]
    fn no_prefix_begins_another(a in keys(), b in keys(), tail in keys()) {
        let joined = [a.as_slice(), &tail].concat();
        for other in [&b, &joined] {
            prop_assert_eq!(prefix(other).starts_with(&prefix(&a)), &a == other);
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
    assert!(!is_long(&vec![1; SHORT_KEY_BYTES]) && is_long(&vec![1; SHORT_KEY_BYTES + 1]));
    assert!(!is_long(&vec![0; SHORT_KEY_BYTES / 2]) && is_long(&vec![0; SHORT_KEY_BYTES / 2 + 1]));
    assert_eq!(prefix(&vec![1; 2000]).len(), KEY_LIMIT - HEIGHT_BYTES);
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
        assert_eq!(BlockRecord::decode(5, &newer), Err(LayoutError::RecordVersion { height: 5, version: 2 }));
    }
}
