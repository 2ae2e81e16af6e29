//! What guests read of the state: a block sees exactly the state before it, a view the state at its height, whatever
//! was committed since, and a worker that is asked for more than there is says so.

use std::collections::BTreeMap;

use cofferdam::pool::{Job, JobResult, Pool, PoolBuilder, SlotState};
use cofferdam::profile::Hash;
use cofferdam::store::{BlockRecord, Durability, Identity, Store};
use cofferdam::verdict::{GuestVerdict, HostVerdict, Verdict};
use cofferdam::writes::{Writes, encoded_field_len, put_field};
use cofferdam_tests::support::guests::{Act, READS, SCRIPT, SCRIPT_PAGES};
use cofferdam_tests::support::pool::{
    PATIENCE, assert_lost, assert_verdict, build, call, descriptors, limits, pairs, processor_ticks, send,
    small, tracks_writes, wait_for_state, wait_until, workers,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

cofferdam::enable_test_support!();

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let identity = Identity { profile: Hash::of(b"profile"), network: None };
    let store = Store::open(&directory.path().join("state"), &identity, Durability::None);
    (directory, store.expect("a new store"))
}

/// A small pool over the state of a store.
fn over(module: &str, store: &Store) -> PoolBuilder {
    small(module).state(store.path())
}

fn commit(store: &Store, height: u32, pairs: &[(&[u8], &[u8])]) {
    let total: u64 = pairs.iter().map(|(key, value)| encoded_field_len(key) + encoded_field_len(value)).sum();
    let mut bytes = vec![0; usize::try_from(total).expect("a length")];
    let mut rest = bytes.as_mut_slice();
    for (key, value) in pairs {
        rest = put_field(rest, key).and_then(|rest| put_field(rest, value)).expect("room for the pair");
    }
    let writes = Writes::parse(bytes).expect("whole pairs");
    let record = BlockRecord {
        height,
        hash: [0; 32],
        digest: Hash::of(&height.to_le_bytes()),
        verdict: GuestVerdict::Completed,
        writes: writes.count(),
        writes_sha256: writes.hash(),
    };
    store.commit(&record, &writes).expect("a block above the tip");
}

/// What the block at `height` reads for `key`.
fn block_reads(pool: &Pool, height: u32, key: &[u8]) -> Vec<u8> {
    let result = call(pool, &Job::block(height, key.to_vec()));
    assert_eq!(result.verdict, Verdict::COMPLETED, "{}", result.detail);
    let [(flushed, value)] = &pairs(&result)[..] else { panic!("one pair") };
    assert!(flushed == key, "it flushes the key that it was given");
    value.clone()
}

/// What a view at `height` reads for `key`.
fn view_reads(pool: &Pool, height: u32, key: &[u8]) -> Vec<u8> {
    let result = call(pool, &Job::view("value", height, key.to_vec()));
    assert_eq!(result.verdict, Verdict::COMPLETED, "{}", result.detail);
    result.view_result().to_vec()
}

#[test]
fn without_a_store_every_read_finds_nothing() {
    let pool = build(small(READS));
    assert_eq!(block_reads(&pool, 5, b"key"), b"");
    assert_eq!(view_reads(&pool, 5, b"key"), b"");
}

#[test]
fn a_block_sees_the_state_before_it_and_a_view_the_state_at_its_height() {
    let (_directory, store) = store();
    let pool = build(over(READS, &store).workers(2));
    // Heights with gaps, and one where nothing changes.
    let mut model: BTreeMap<u32, &[u8]> = BTreeMap::new();
    let history: [(u32, &[u8]); 5] =
        [(0, b"zero"), (3, b"three"), (4, b""), (7, b"seven"), (u32::MAX - 1, b"end")];
    for (at, value) in history {
        commit(&store, at, &[(b"key", value), (b"other", b"x")]);
        model.insert(at, value);
        for height in [0, 1, 2, 3, 4, 5, 7, 8, 100, u32::MAX - 2, u32::MAX - 1, u32::MAX] {
            let newest = |range: std::ops::Range<u64>| {
                let found = model.iter().rev().find(|(at, _)| range.contains(&u64::from(**at)));
                found.map_or(b"".as_slice(), |(_, value)| value)
            };
            assert_eq!(
                block_reads(&pool, height, b"key"),
                newest(0..height.into()),
                "block {height} after {at}"
            );
            let until = u64::from(height) + 1;
            assert_eq!(view_reads(&pool, height, b"key"), newest(0..until), "view at {height} after {at}");
        }
    }
    assert_eq!(block_reads(&pool, 100, b"ke"), b"", "no key is found by its beginning");
    assert_eq!(block_reads(&pool, 100, b"key "), b"");
}

#[test]
fn keys_and_values_of_every_size_are_found() {
    let (_directory, store) = store();
    let pool = build(over(READS, &store).memory(64 << 20));
    let key = |length: usize, last: u8| {
        let mut key: Vec<u8> = (0..length).map(|n| (n % 251).to_le_bytes()[0]).collect();
        key.pop();
        key.extend(std::iter::repeat_n(last, length.min(1)));
        key
    };
    let large: Vec<u8> = (0..2_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let sizes = [0, 1, 502, 503, 504, 505, 506, 507, 510, 511, 512, 513, 1000, 5000];
    for (height, size) in (1..).zip(sizes) {
        let value = size.to_string();
        // There is only one key of no bytes, and the last pair of it counts.
        commit(&store, height, &[(&key(size, 2), b""), (&key(size, 1), value.as_bytes())]);
    }
    for size in sizes {
        assert_eq!(block_reads(&pool, 100, &key(size, 1)), size.to_string().as_bytes(), "key of {size}");
        assert_eq!(view_reads(&pool, 100, &key(size, 1)), size.to_string().as_bytes(), "key of {size}");
        if size > 0 {
            assert_eq!(view_reads(&pool, 100, &key(size, 2)), b"", "an empty value");
            assert_eq!(view_reads(&pool, 100, &key(size, 3)), b"", "a key that differs in its last byte");
        }
    }
    // Long keys with large values, one over the other.
    for (height, size) in [(101, 3), (102, 512), (103, 5000)] {
        commit(&store, height, &[(&key(size, 1), &large)]);
        assert!(block_reads(&pool, height + 1, &key(size, 1)) == large, "2 MB under a key of {size}");
        assert!(view_reads(&pool, height, &key(size, 1)) == large);
        assert!(view_reads(&pool, height - 1, &key(size, 1)).len() < 5, "not before it was written");
    }
}

#[test]
fn a_value_read_to_outside_the_memory_is_bad_output() {
    const DECLARED: u32 = SCRIPT_PAGES << 16;
    let (_directory, store) = store();
    commit(&store, 1, &[(b"key", b"eight by"), (b"empty", b"")]);
    let pool = build(over(SCRIPT, &store));
    assert_verdict(&pool, Act::ValueAt(DECLARED - 8, b"key"), GuestVerdict::Completed);
    for pointer in [DECLARED - 7, DECLARED, DECLARED + 1, 1 << 31, u32::MAX] {
        let result = assert_verdict(&pool, Act::ValueAt(pointer, b"key"), GuestVerdict::BadOutput);
        assert!(result.detail.contains("a value at"), "{}", result.detail);
    }
    // Nothing is written where nothing was found.
    assert_verdict(&pool, Act::ValueAt(u32::MAX, b"absent"), GuestVerdict::Completed);
}

#[test]
fn a_job_that_demands_a_state_gets_it() {
    let (_directory, store) = store();
    let pool = build(over(READS, &store));
    let reads = |result: &JobResult| result.view_result().to_vec();
    let job = |demand| Job::view("value", 9, b"key".to_vec()).on_state(demand);
    assert_eq!(reads(&call(&pool, &job(None))), b"", "of an empty store nothing is demanded");
    for height in [3, 4] {
        commit(&store, height, &[(b"key", &[b'0' + u8::try_from(height).unwrap()])]);
        for demand in [None, Some(0), Some(height)] {
            let result = call(&pool, &job(demand));
            assert_eq!((result.verdict, result.attempts()), (Verdict::COMPLETED, 1), "{result:?}");
            assert_eq!(reads(&result), height.to_string().as_bytes());
        }
    }
}

#[test]
fn a_state_that_is_behind_is_the_hosts_failure_and_never_a_wrong_answer() {
    let (_directory, store) = store();
    let pool = build(over(READS, &store).limits(limits(PATIENCE, 1)));
    for (demand, committed) in [(0, None), (5, Some(4))] {
        if let Some(height) = committed {
            commit(&store, height, &[(b"key", b"value")]);
        }
        let result = call(&pool, &Job::block(6, b"key".to_vec()).on_state(Some(demand)));
        assert_eq!(result.verdict, Verdict::Host(HostVerdict::Exited), "{result:?}");
        assert_lost(&result, 2, HostVerdict::Exited);
        assert!(result.detail.contains("exit code 76"), "{}", result.detail);
    }
    commit(&store, 5, &[(b"key", b"now")]);
    let result = call(&pool, &Job::block(6, b"key".to_vec()).on_state(Some(5)));
    assert_eq!(
        (result.verdict, pairs(&result)),
        (Verdict::COMPLETED, vec![(b"key".to_vec(), b"now".to_vec())])
    );
}

#[test]
fn a_pool_over_a_store_that_is_not_there_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let error = small(READS).state(directory.path()).build().unwrap_err();
    assert!(error.to_string().contains("data.mdb is missing"), "{error}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "and nothing is made there");
}

#[test]
fn a_worker_has_the_stores_descriptors_and_no_more() {
    let (_directory, store) = store();
    let pool = build(over(READS, &store));
    block_reads(&pool, 1, b"key");
    let pid = workers(&pool)[0];
    let beside: Vec<String> = descriptors(pid)
        .into_iter()
        .filter(|(number, target)| {
            *number > 2
                && !target.starts_with("pipe:")
                && !target.starts_with("/memfd:")
                && !tracks_writes(pid, target)
        })
        .map(|(_, target)| target)
        .collect();
    let mut names: Vec<_> = beside.iter().map(|target| target.rsplit('/').next().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["data.mdb", "lock.mdb"], "{beside:?}");
    assert!(beside.iter().all(|target| target.starts_with(store.path().to_str().unwrap())), "{beside:?}");
}

#[test]
fn the_reader_that_a_dead_worker_leaves_behind_is_cleared() {
    let (_directory, store) = store();
    commit(&store, 1, &[(b"key", b"value")]);
    let pool = build(over(SCRIPT, &store).limits(limits(PATIENCE, 0)));
    std::thread::scope(|scope| {
        // Killed in the middle of a job, it still has its snapshot.
        let job = scope.spawn(|| call(&pool, &Act::Spin(0).block(2)));
        let pid = wait_for_state(&pool, 0, SlotState::Busy);
        let before = processor_ticks(pid);
        wait_until("it is in its loop", || (processor_ticks(pid) > before + 5).then_some(()));
        send(pid, Signal::SIGKILL);
        assert_eq!(job.join().unwrap().verdict, Verdict::Host(HostVerdict::Killed));
    });
    // The result does not wait for the kernel to let go of its locks, by which LMDB knows who lives.
    wait_until("its slot is stale", || (store.clear_stale_readers().unwrap() == 1).then_some(()));
    assert_eq!(store.clear_stale_readers().unwrap(), 0);
}
