//! Committing blocks, and reading them and their values back.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_protocol::state::VersionKey;
use heed::MdbError;
use proptest::prelude::*;

use crate::error::StoreError;
use crate::identity::Durability;
use crate::store::Store;
use crate::store_faults::{StoreCall, StoreFaults};
use crate::test_support::{Pairs, commit, identity, open, record, writes};

/// Key → height → value.
type Model = BTreeMap<Vec<u8>, BTreeMap<u32, Vec<u8>>>;

#[test]
fn the_last_pair_of_a_key_is_stored_and_an_empty_value_hides_older_values() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    commit(&store, 5, &[("a", "first"), ("b", "1"), ("a", "second")]).unwrap();
    commit(&store, 7, &[("a", "")]).unwrap();
    assert_eq!(store.get(b"a", 4).unwrap(), None);
    assert_eq!(store.get(b"a", 6).unwrap().unwrap(), b"second");
    assert_eq!(store.get(b"a", 7).unwrap().unwrap(), b"");
    assert_eq!(store.get(b"b", u32::MAX).unwrap().unwrap(), b"1");
}

#[test]
fn only_a_block_above_the_tip_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    commit(&store, 5, &[("a", "5")]).unwrap();
    for height in [0, 4, 5] {
        let error = commit(&store, height, &[("a", "again")]).unwrap_err();
        assert!(matches!(error, StoreError::NotAboveTip { tip: 5, .. }), "{error}");
    }
    assert_eq!(store.get(b"a", 9).unwrap().unwrap(), b"5");
    assert_eq!(store.tip().unwrap().unwrap().height, 5);
}

#[test]
fn blocks_are_committed_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let pairs = writes(&[("a", "b")]);
    let records = [1, 2, 2].map(|height| record(height, &pairs));
    let error = store.commit_all(&records.each_ref().map(|record| (record, &pairs))).unwrap_err();
    assert!(matches!(error, StoreError::NotAboveTip { height: 2, tip: 2, .. }), "{error}");
    assert_eq!(store.tip().unwrap(), None);
    store.commit_all(&[(&records[0], &pairs), (&records[1], &pairs)]).unwrap();
    assert_eq!(store.tip().unwrap().unwrap().height, 2);
}

#[test]
fn a_full_store_is_unchanged_and_can_still_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with_map(dir.path(), &identity(), Durability::None, 1 << 20).unwrap();
    commit(&store, 1, &[("a", "1")]).unwrap();
    let before = store.content_hash().unwrap();
    let error = commit(&store, 2, &[("a", &vec![0; 2 << 20])]).unwrap_err();
    assert!(
        matches!(&error, StoreError::NotWritten { source: heed::Error::Mdb(MdbError::MapFull), .. }),
        "{error}"
    );
    assert_eq!(store.tip().unwrap().unwrap().height, 1);
    assert_eq!(store.content_hash().unwrap(), before);
    commit(&store, 2, &[("a", "2")]).unwrap();
    assert_eq!(store.get(b"a", 2).unwrap().unwrap(), b"2");
}

#[test]
fn damaged_records_and_values_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let long = vec![b'k'; 600];
    commit(&store, 3, &[(&long, "value")]).unwrap();
    let mut txn = store.env.write_txn().unwrap();
    store.blocks.put(&mut txn, &3u32.to_be_bytes(), b"\x01torn").unwrap();
    store.values.put(&mut txn, VersionKey::new(&long, 3).as_bytes(), b"torn").unwrap();
    txn.commit().unwrap();
    for error in [store.tip().unwrap_err(), store.block(3).unwrap_err(), store.get(&long, 3).unwrap_err()] {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    let mut txn = store.env.write_txn().unwrap();
    store.blocks.put(&mut txn, b"no height", b"").unwrap();
    txn.commit().unwrap();
    assert!(matches!(commit(&store, 4, &[("a", "b")]), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_missing_block_is_an_error_except_below_the_first_one() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(StoreFaults::default());
    let store = open(&dir).unwrap().with_faults(Arc::clone(&faults));
    assert_eq!(store.indexed(5).unwrap(), None);
    for height in [5, 6, 8] {
        commit(&store, height, &[("a", "b")]).unwrap();
    }
    assert_eq!(store.indexed(4).unwrap(), None);
    assert_eq!(store.indexed(6).unwrap().unwrap().height, 6);
    for height in [7, 9] {
        assert!(matches!(store.indexed(height), Err(StoreError::NoBlock { first: 5, tip: 8, .. })));
    }
    for call in 0..3 {
        faults.fail(Some(StoreCall::Read), call, 1, 5);
        assert!(matches!(store.indexed(4), Err(StoreError::Lmdb { .. })), "call {call}");
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..4usize, 470..515usize, 0..2000usize];
    let byte = prop::sample::select(vec![0u8, 1, 0xFF]);
    (byte, length).prop_map(|(byte, length)| vec![byte; length])
}

/// Blocks of pairs, each with its distance from the block before.
fn history() -> impl Strategy<Value = Vec<(u32, Pairs)>> {
    let value = prop::collection::vec(any::<u8>(), 0..100);
    let pairs = prop::collection::vec((key(), value), 0..30);
    prop::collection::vec((1..4u32, pairs), 1..12)
}

fn apply(store: &Store, history: &[(u32, Pairs)]) -> (Model, u32) {
    let (mut model, mut height) = (Model::new(), 0);
    for (distance, pairs) in history {
        height += distance;
        commit(store, height, pairs).unwrap();
        for (key, value) in pairs {
            model.entry(key.clone()).or_default().insert(height, value.clone());
        }
    }
    (model, height)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_value_at_every_height_matches_the_model(history in history(), absent in key()) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).unwrap();
        let (mut model, tip) = apply(&store, &history);
        model.entry(absent).or_default();
        for (key, versions) in &model {
            for height in 0..=tip + 1 {
                let expected = versions.range(..=height).next_back().map(|(_, value)| value.clone());
                prop_assert_eq!(store.get(key, height).unwrap(), expected);
            }
        }
    }

    #[test]
    fn equal_histories_have_equal_hashes(history in history(), cut: prop::sample::Index) {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(&one).unwrap();
        apply(&store, &history);
        let (tip, hash) = (store.tip().unwrap().unwrap(), store.content_hash().unwrap());

        // The other store is closed in between, and its blocks have their pairs in another order.
        let (mut height, cut) = (0, cut.index(history.len()));
        let mut other = open(&two).unwrap();
        for (index, (distance, pairs)) in history.iter().enumerate() {
            if index == cut {
                drop(other);
                other = open(&two).unwrap();
            }
            height += distance;
            let last: BTreeMap<_, _> = pairs.iter().cloned().collect();
            commit(&other, height, &last.into_iter().rev().collect::<Pairs>()).unwrap();
        }
        prop_assert_eq!(other.content_hash().unwrap(), hash);
        commit(&other, tip.height + 1, &[("one", "more")]).unwrap();
        prop_assert_ne!(other.content_hash().unwrap(), hash);
    }
}
