//! Tests of the store in one process; what two processes see of it is in `processes`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::writes::put_field;
use heed::{EnvOpenOptions, MdbError};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Key → height → value.
type Model = BTreeMap<Vec<u8>, BTreeMap<u32, Vec<u8>>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn identity() -> Identity {
    Identity { profile: Hash::of(b"profile"), network: None }
}

pub(crate) fn open(dir: &TempDir) -> Result<Store, StoreError> {
    Store::open(dir.path(), &identity(), Durability::None)
}

fn refusal(dir: &TempDir, identity: &Identity) -> String {
    Store::open(dir.path(), identity, Durability::None).unwrap_err().to_string()
}

pub(crate) fn writes<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> Writes {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        for field in [key.as_ref(), value.as_ref()] {
            let mut encoded = vec![0; 4 + field.len()];
            assert!(put_field(&mut encoded, field).unwrap().is_empty());
            bytes.extend_from_slice(&encoded);
        }
    }
    Writes::parse(bytes).unwrap()
}

pub(crate) fn record(height: u32, writes: &Writes) -> BlockRecord {
    BlockRecord {
        height,
        hash: Hash::of(&height.to_le_bytes()).0,
        digest: Hash::of(&height.to_be_bytes()),
        verdict: GuestVerdict::Completed,
        writes: writes.count(),
        writes_sha256: writes.hash(),
    }
}

pub(crate) fn commit<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    store: &Store,
    height: u32,
    pairs: &[(K, V)],
) -> Result<(), StoreError> {
    let writes = writes(pairs);
    store.commit(&record(height, &writes), &writes)
}

#[test]
fn a_store_is_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Store>();
}

#[test]
fn the_last_of_equal_keys_counts_and_an_empty_value_hides_older_ones() {
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
fn a_store_is_resumed_where_it_was_left() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/by/open");
    let store = Store::open(&dir, &identity(), Durability::Block).unwrap();
    assert_eq!(store.tip().unwrap(), None);
    commit(&store, 0, &[("key", "value")]).unwrap();
    commit(&store, 9, &[("", "of the empty key")]).unwrap();
    let (tip, hash) = (store.tip().unwrap(), store.content_hash().unwrap());
    drop(store);

    let store = Store::open(&dir, &identity(), Durability::Block).unwrap();
    assert_eq!(store.path(), dir.canonicalize().unwrap());
    assert_eq!(store.tip().unwrap(), tip);
    assert_eq!(store.block(9).unwrap(), tip);
    assert_eq!(store.block(0).unwrap().unwrap().height, 0);
    assert_eq!(store.block(1).unwrap(), None);
    assert_eq!(store.get(b"", 9).unwrap().unwrap(), b"of the empty key");
    assert_eq!(store.content_hash().unwrap(), hash);
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
fn another_profile_is_refused_and_both_are_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir).unwrap());
    let other = Identity { profile: Hash::of(b"other"), network: None };
    let message = refusal(&dir, &other);
    assert!(message.contains(&identity().profile.to_string()), "{message}");
    assert!(message.contains(&other.profile.to_string()), "{message}");
}

#[test]
fn another_network_is_refused_whenever_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| Identity { network: Some(name.to_owned()), ..identity() };
    let store = open(&dir).unwrap();
    store.set_network("signet").unwrap();
    store.set_network("signet").unwrap();
    let error = store.set_network("main").unwrap_err().to_string();
    assert!(error.contains("\"signet\"") && error.contains("\"main\""), "{error}");
    drop(store);
    let message = refusal(&dir, &of("main"));
    assert!(message.contains("\"signet\"") && message.contains("\"main\""), "{message}");
    drop(open(&dir).unwrap());
    drop(Store::open(dir.path(), &of("signet"), Durability::None).unwrap());
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let mut txn = store.env.write_txn().unwrap();
    store.meta.put(&mut txn, state::FORMAT_KEY, &7u32.to_le_bytes()).unwrap();
    txn.commit().unwrap();
    drop(store);
    let message = refusal(&dir, &identity());
    assert!(message.contains("format 7") && message.contains("format 1"), "{message}");
}

#[test]
fn a_directory_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("wallet.dat"), "precious").unwrap();
    assert!(refusal(&dir, &identity()).contains("wallet.dat"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data.mdb"), [b'x'; 8192]).unwrap();
    assert!(refusal(&dir, &identity()).contains("is no store of Cofferdam"));

    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path(), &identity(), Durability::None).unwrap_err();
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
}

#[test]
#[allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]
fn another_programs_lmdb_is_refused() {
    for table in [Some("accounts"), Some(state::META), None] {
        let dir = tempfile::tempdir().unwrap();
        // SAFETY: a new directory of this test's own.
        let env = unsafe { EnvOpenOptions::new().max_dbs(1).open(dir.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let theirs: Table = env.create_database(&mut txn, table).unwrap();
        theirs.put(&mut txn, b"meta", b"value").unwrap();
        txn.commit().unwrap();
        drop(env);
        assert!(refusal(&dir, &identity()).contains("is no store of Cofferdam"), "{table:?}");
    }
}

#[test]
fn a_start_that_was_cut_short_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    for left in ["writer.lock", "lock.mdb", "data.mdb"] {
        fs::write(dir.path().join(left), "").unwrap();
    }
    commit(&open(&dir).unwrap(), 1, &[("a", "b")]).unwrap();
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    let message = refusal(&dir, &identity());
    assert!(message.contains("being written by another process"), "{message}");
    drop(store);
    drop(open(&dir).unwrap());
}

#[test]
fn a_full_store_keeps_what_it_had_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_sized(dir.path(), &identity(), Durability::None, 1 << 20).unwrap();
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

fn key() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..4usize, 470..515usize, 0..2000usize];
    let byte = prop::sample::select(vec![0u8, 1, 0xFF]);
    (byte, length).prop_map(|(byte, length)| vec![byte; length])
}

/// Blocks of pairs, with the distance of each from the one before.
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
    fn the_value_at_every_height_is_the_models(history in history(), absent in key()) {
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

        // The other one is closed in between, and writes the pairs of each block in another order.
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

#[test]
#[ignore = "a measurement, for a release build"]
fn measure_commits_and_reads() {
    const PAIRS: u32 = 40_000;
    for durability in [Durability::None, Durability::Block] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &identity(), durability).unwrap();
        let key = |number: u32| [Hash::of(&number.to_le_bytes()).0.as_slice(), &[0; 30], &[7; 28]].concat();
        for height in 1..=20 {
            let pairs: Pairs = (0..PAIRS).map(|n| (key(n * height), vec![1; 60])).collect();
            let writes = writes(&pairs);
            let record = record(height, &writes);
            let start = Instant::now();
            store.commit(&record, &writes).unwrap();
            if height % 5 == 0 {
                println!(
                    "{durability:?}: block {height}, {PAIRS} pairs: {:.1} ms",
                    start.elapsed().as_secs_f64() * 1e3
                );
            }
        }
        let keys: Vec<_> = (0..PAIRS).map(key).collect();
        let start = Instant::now();
        keys.iter().for_each(|key| assert!(store.get(key, 20).unwrap().is_some()));
        println!("get: {:.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(PAIRS));
    }
}

/// The stored content, and the tip.
fn content(store: &Store) -> (Hash, Option<BlockRecord>) {
    (store.content_hash().unwrap(), store.tip().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_rolled_back_store_is_one_that_never_saw_the_blocks(
        blocks in prop::collection::vec(prop::collection::vec((0u8..20, 0u16..900), 0..30), 1..12),
        keep in 0usize..12,
        undo in 0u32..5,
    ) {
        // Long keys, too, and more of them than one part of a list holds.
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
        let taken_back = store.roll_back(to, 12).unwrap();
        prop_assert_eq!(taken_back as usize, blocks.len() - keep);
        prop_assert_eq!(content(&store), content(&never));
        // And goes on as that one does.
        let next = to.map_or(10, |to| to + 1);
        commit(&store, next, &[("new", "branch")]).unwrap();
        commit(&never, next, &[("new", "branch")]).unwrap();
        prop_assert_eq!(content(&store), content(&never));
    }
}

#[test]
fn lists_are_kept_for_as_many_blocks_as_was_asked() {
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
fn a_rollback_takes_back_no_more_than_it_may() {
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
fn no_block_is_a_fact_only_below_the_first_one() {
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

/// A chain of four blocks, of which the upper two are of one branch or the other.
fn branch(upper: u8, height: u32) -> Pairs {
    let own = if height < 2 { 0 } else { upper };
    let pair = |key: u8| (vec![key; 200], vec![own, u8::try_from(height).unwrap()]);
    (0..20).filter(|key| u32::from(*key) % 3 != height % 3).map(pair).collect()
}

/// Four blocks of one branch, then the upper two taken back one by one for those of the other: goes on from wherever the store is.
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

/// A store with everything that can fail in it: with a tree, where there are trees.
fn open_whole(dir: &TempDir) -> Store {
    let store = open(dir).unwrap();
    #[cfg(feature = "tree")]
    let store = store.with_tree().unwrap();
    store
}

/// The root of the tree at `height`; none where there are no trees.
fn root(store: &Store, height: u32) -> Option<Hash> {
    #[cfg(feature = "tree")]
    return store.tree_root(height).unwrap();
    #[cfg(not(feature = "tree"))]
    (None, store, height).0
}

#[test]
fn a_failure_at_any_call_leaves_whole_blocks_to_go_on_from() {
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
            faults.step(1);
            faults.fail(None, call, 1, [5, 28][usize::from(call % 2 == 0)]);
            let failed = follow(&store);
            assert_eq!(failed.is_err(), faults.struck() == 1, "call {call}: {failed:?}");
            faults.clear();
            let tip = store.tip().unwrap();
            for height in 0..tip.as_ref().map_or(0, |tip| tip.height + 1) {
                assert!(store.block(height).unwrap().is_some(), "call {call}, block {height}");
                assert_eq!(root(&store, height).is_some(), cfg!(feature = "tree"));
            }
            // Closed as after the end of the process, and on from there.
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

#[test]
fn a_rollback_of_many_pairs_is_one_of_several_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).unwrap();
    // Without lists, and more values than are remembered at a time.
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
