//! Roots over random histories, and that a branch which was rolled back leaves nothing.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_root_depends_on_the_state_and_not_on_its_history(blocks in blocks(40, 20, 12)) {
        let (grown, all_at_once) = (Fixture::new(), Fixture::new());
        let states = states(&blocks);
        for ((height, pairs), (_, state)) in blocks.iter().zip(&states) {
            let root = grown.apply(*height, pairs).unwrap();
            prop_assert_eq!(root, plain_root(state));
            prop_assert_eq!(grown.root(*height), Some(root));
        }
        for (height, state) in &states {
            prop_assert_eq!(grown.root(*height), Some(plain_root(state)), "an old root stays");
        }
        let (height, last) = states.last().unwrap();
        let root = all_at_once.apply(1, &last.clone().into_iter().collect()).unwrap();
        prop_assert_eq!(grown.root(*height), Some(root));
    }

    #[test]
    fn an_abandoned_branch_leaves_no_byte(
        blocks in blocks(30, 12, 12),
        other in blocks(30, 12, 6),
        keep in any::<prop::sample::Index>(),
        between in 0u32..2,
    ) {
        let (returned, straight) = (Fixture::new(), Fixture::new());
        let keep = keep.index(blocks.len() + 1);
        for (height, pairs) in &blocks {
            returned.apply(*height, pairs).unwrap();
        }
        for (height, pairs) in &blocks[..keep] {
            straight.apply(*height, pairs).unwrap();
        }
        let next = blocks.get(keep).map_or(u32::MAX, |(height, _)| *height);
        // To the height of the last block that is kept, or to a height between that block and the next one.
        let kept = blocks[..keep].last().map(|(height, _)| (*height + between).min(next - 1));
        returned.roll_back(kept);
        prop_assert_eq!(returned.entries(), straight.entries());

        let above = kept.map_or(0, |kept| kept + 1);
        for (number, (_, pairs)) in (0u32..).zip(&other) {
            let height = above + number;
            prop_assert_eq!(returned.apply(height, pairs).unwrap(), straight.apply(height, pairs).unwrap());
        }
        prop_assert_eq!(returned.entries(), straight.entries());
    }
}

#[test]
fn a_tree_starts_at_any_height_and_is_empty_until_a_block_writes() {
    let fixture = Fixture::new();
    assert_eq!(fixture.root(u32::MAX), None);
    assert_eq!(fixture.apply(840_000, &vec![]).unwrap(), EMPTY);
    assert_eq!(fixture.apply(840_001, &vec![]).unwrap(), EMPTY);
    assert_eq!((fixture.root(839_999), fixture.root(840_000)), (None, Some(EMPTY)));
    assert_eq!(fixture.entries().len(), 1, "the second block changed nothing");
    let root = fixture.apply(840_009, &vec![(b"key".to_vec(), vec![])]).unwrap();
    assert_eq!(fixture.root(840_008), Some(EMPTY));
    assert_eq!(fixture.root(u32::MAX), Some(root));
    fixture.roll_back(Some(839_999));
    assert_eq!((fixture.root(u32::MAX), fixture.entries().len()), (None, 0));
}

#[test]
fn versions_only_go_up_and_a_refused_one_changes_nothing() {
    let fixture = Fixture::new();
    let block = vec![(b"key".to_vec(), b"value".to_vec())];
    fixture.apply(7, &block).unwrap();
    let before = fixture.entries();
    for height in [0, 6, 7] {
        let error = fixture.apply(height, &block).unwrap_err();
        assert!(matches!(error, TreeError::NotAbove { newest: 7, .. }), "{error}");
    }
    assert_eq!(fixture.entries(), before);
    fixture.roll_back(Some(u32::MAX));
    fixture.roll_back(Some(7));
    assert_eq!(fixture.entries(), before);
}

#[test]
fn of_equal_keys_the_last_one_counts() {
    let fixture = Fixture::new();
    let pair = |value: &[u8]| (b"key".to_vec(), value.to_vec());
    let root = fixture.apply(1, &vec![pair(b"first"), pair(b"last")]).unwrap();
    assert_eq!(root, plain_root(&[pair(b"last")].into()));
}

#[test]
fn a_block_that_is_not_committed_leaves_no_trace() {
    let fixture = Fixture::new();
    let mut txn = fixture.env.write_txn().unwrap();
    fixture.tree.apply(&mut txn, 1, &[(b"key", b"value")]).unwrap();
    drop(txn);
    assert!(fixture.entries().is_empty());
}

#[test]
fn many_keys_and_keys_that_are_close_have_the_plain_root() {
    let mut state: State = close_keys().map(|key| (key, b"close".to_vec())).into();
    let fixture = Fixture::new();
    let root = fixture.apply(1, &state.clone().into_iter().collect()).unwrap();
    assert_eq!(root, plain_root(&state));
    assert_eq!(fixture.entries().len(), 4 + 1 + 2, "a chain of four inner nodes, the fork, and two leaves");
    for height in 2..6u32 {
        let block: Pairs =
            (height * 700..height * 700 + 1000).map(|number| (key(number), vec![1; 8])).collect();
        state.extend(block.iter().cloned());
        assert_eq!(fixture.apply(height, &block).unwrap(), plain_root(&state));
    }
}

/// The root of two pairs, computed by another program. Users store roots, so the form of the hashes must not change.
#[test]
fn roots_do_not_change_between_builds() {
    let fixture = Fixture::new();
    let block = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())];
    assert_eq!(
        fixture.apply(0, &block).unwrap().to_string(),
        "cfda064e450224370363aac566ebc150269da82d095ddb4f79a0d03170da30c5"
    );
}
