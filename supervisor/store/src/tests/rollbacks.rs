//! Rolling blocks back.

use cofferdam_protocol::state;
use proptest::prelude::*;

use crate::error::StoreError;
use crate::test_support::{Pairs, commit, content, open};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_rolled_back_store_equals_one_that_never_had_the_blocks(
        blocks in prop::collection::vec(prop::collection::vec((0u8..20, 0u16..900), 0..30), 1..12),
        keep in 0usize..12,
        undo in 0u32..5,
    ) {
        // Some keys are long, and some blocks have more keys than one entry of an undo list holds.
        let pairs = |pairs: &[(u8, u16)]| -> Pairs {
            pairs.iter().map(|(key, length)| (vec![*key; usize::from(*length)], vec![7; 3])).collect()
        };
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(&dir).unwrap().with_undo(undo);
        let never = open(&other).unwrap();
        let keep = keep.min(blocks.len());
        for (height, block) in (10..).zip(&blocks) {
            commit(&store, height, &pairs(block)).unwrap();
        }
        for (height, block) in (10..).zip(&blocks[..keep]) {
            commit(&never, height, &pairs(block)).unwrap();
        }
        let to = keep.checked_sub(1).map(|last| 10 + u32::try_from(last).unwrap());
        let rolled_back = store.roll_back(to, 12).unwrap();
        prop_assert_eq!(rolled_back as usize, blocks.len() - keep);
        prop_assert_eq!(content(&store), content(&never));
        // Both stores continue in the same way.
        let next = to.map_or(10, |to| to + 1);
        commit(&store, next, &[("new", "branch")]).unwrap();
        commit(&never, next, &[("new", "branch")]).unwrap();
        prop_assert_eq!(content(&store), content(&never));
    }
}

#[test]
fn undo_lists_are_kept_for_the_configured_number_of_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap().with_undo(3);
    for height in 0..10 {
        commit(&store, height, &[("a", "b")]).unwrap();
    }
    let txn = store.env.read_txn().unwrap();
    let kept: Vec<_> = store.undo.iter(&txn).unwrap().map(|entry| entry.unwrap().0.to_vec()).collect();
    assert_eq!(kept, [7, 8, 9].map(|height| state::undo_key(height, 0).to_vec()));
    drop(txn);
    assert_eq!(store.roll_back(None, 10).unwrap(), 10);
    assert_eq!(content(&store).1, None);
    assert!(store.undo.is_empty(&store.env.read_txn().unwrap()).unwrap());
}

#[test]
fn a_rollback_removes_at_most_the_allowed_number_of_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap().with_undo(3);
    for height in 0..10 {
        commit(&store, height, &[("a", height.to_be_bytes())]).unwrap();
    }
    let before = content(&store);
    for (to, at_most) in [(Some(2), 6), (None, 9), (None, 0), (Some(8), 0)] {
        let error = store.roll_back(to, at_most).unwrap_err();
        assert!(matches!(error, StoreError::TooDeep { .. }), "{error}");
        assert!(error.to_string().contains("--max-reorg-depth"), "{error}");
        assert_eq!(content(&store), before);
    }
    assert_eq!(store.roll_back(Some(9), 0).unwrap(), 0);
    assert_eq!(store.roll_back(Some(2), 7).unwrap(), 7);
    assert_eq!(store.roll_back(None, 3).unwrap(), 3);
}

#[test]
fn a_rollback_of_many_pairs_runs_in_several_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    // Without undo lists, and with more values than are collected at a time.
    for height in 0..5u32 {
        let pairs: Vec<_> = (0..20_000u32).map(|key| (key.to_be_bytes(), height.to_be_bytes())).collect();
        commit(&store, height, &pairs).unwrap();
    }
    assert_eq!(store.roll_back_step(Some(0), 4).unwrap(), 1);
    assert_eq!(store.tip().unwrap().unwrap().height, 3);
    assert_eq!(store.roll_back(Some(0), 3).unwrap(), 3);
    assert_eq!(store.get(&7u32.to_be_bytes(), 9).unwrap().unwrap(), 0u32.to_be_bytes());
    assert_eq!(store.size().unwrap().0, 20_000);
}
