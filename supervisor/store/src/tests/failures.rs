//! Injected failures: a store is always in the state after one of its blocks, and can continue from there.

use std::sync::Arc;

use cofferdam_protocol::profile::Hash;
use tempfile::TempDir;

use crate::error::StoreError;
use crate::store::Store;
use crate::store_faults::StoreFaults;
use crate::test_support::{Pairs, commit, content, open, writes};

/// A block of a chain of four blocks. The upper two blocks belong to the branch `upper`.
fn branch(upper: u8, height: u32) -> Pairs {
    let own = if height < 2 { 0 } else { upper };
    let pair = |key: u8| (vec![key; 200], vec![own, u8::try_from(height).unwrap()]);
    (0..20).filter(|key| u32::from(*key) % 3 != height % 3).map(pair).collect()
}

/// Commits the four blocks of branch 1, rolls the upper two back one by one, and commits those of branch 2. Continues from
/// whatever state the store is in.
fn follow(store: &Store) -> Result<(), StoreError> {
    let is_on = |upper: u8, height: u32| {
        let found = store.block(height)?;
        Ok(found.is_some_and(|found| found.writes_sha256 == writes(&branch(upper, height)).hash()))
    };
    let next = |store: &Store| Ok(store.tip()?.map_or(0, |tip| tip.height + 1));
    if !is_on(2, 2)? {
        for height in next(store)?..4 {
            commit(store, height, &branch(1, height))?;
        }
        store.roll_back(Some(1), 2)?;
    }
    for height in next(store)?..4 {
        commit(store, height, &branch(2, height))?;
    }
    store.set_network("regtest")
}

/// A store with everything that can fail: with a tree, if this build has trees.
fn open_whole(dir: &TempDir) -> Store {
    let store = open(dir).unwrap();
    #[cfg(feature = "tree")]
    let store = store.with_tree().unwrap();
    store
}

/// The root of the tree at `height`; none if this build has no trees.
fn root(store: &Store, height: u32) -> Option<Hash> {
    #[cfg(feature = "tree")]
    return store.tree_root(height).unwrap();
    #[cfg(not(feature = "tree"))]
    (None, store, height).0
}

#[test]
fn after_a_failure_at_any_call_the_store_has_whole_blocks_and_continues() {
    let expected = {
        let dir = tempfile::tempdir().unwrap();
        let store = open_whole(&dir);
        for height in 0..4 {
            commit(&store, height, &branch(2, height)).unwrap();
        }
        (content(&store), root(&store, 3))
    };
    for undo in [0, 1, 10] {
        for call in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let faults = Arc::new(StoreFaults::default());
            let store = open_whole(&dir).with_undo(undo);
            let store = store.with_faults(Arc::clone(&faults));
            faults.limit_rollback_step(1);
            faults.fail(None, call, 1, [5, 28][usize::from(call % 2 == 0)]);
            let failed = follow(&store);
            assert_eq!(failed.is_err(), faults.injected() == 1, "call {call}: {failed:?}");
            faults.clear();
            let tip = store.tip().unwrap();
            for height in 0..tip.as_ref().map_or(0, |tip| tip.height + 1) {
                assert!(store.block(height).unwrap().is_some(), "call {call}, block {height}");
                assert_eq!(root(&store, height).is_some(), cfg!(feature = "tree"));
            }
            // The store is closed, as by the end of the process, and continues from there.
            drop(store);
            let store = open(&dir).unwrap().with_undo(undo);
            follow(&store).unwrap();
            assert_eq!((content(&store), root(&store, 3)), expected, "undo {undo}, call {call}");
            if failed.is_ok() {
                assert!(call > if cfg!(feature = "tree") { 20 } else { 10 }, "{call} calls");
                break;
            }
        }
    }
}
