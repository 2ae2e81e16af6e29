//! Addresses above 2 GiB, which are negative numbers to whoever reads an i32 as signed: the full 4 GiB, once.
//!
//! In a file of its own, because a worker with 4 GiB must not run beside the other tests.

use cofferdam::pool::{Job, Pool};
use cofferdam::verdict::Verdict;
use cofferdam_tests::support::guests::{HIGH, good_pair, key_value_flush};
use cofferdam_tests::support::pool::{call, pairs, resident_bytes, small};

cofferdam::enable_test_support!();

const FULL: u64 = 4 << 30;

/// The pool, or none, said on standard error, on a machine that has not the memory for it.
fn full_pool() -> Option<Pool> {
    match small(HIGH).memory(FULL).build() {
        Ok(pool) => Some(pool),
        Err(error) if error.is_memory() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn input_output_and_results_above_two_gibibytes() {
    let Some(pool) = full_pool() else { return };
    let (key, value) = good_pair(7);
    let message = key_value_flush(&[&key, &value]);
    let assert_block = |height| {
        let block = call(&pool, &Job::block(height, message.clone()));
        assert_eq!(block.verdict, Verdict::COMPLETED, "{block:?}");
        assert_eq!(pairs(&block), [(key.clone(), value.clone())]);
        assert_eq!(block.memory_bytes, (2 << 30) + (2 << 16));
        block.worker
    };
    let worker = assert_block(0);
    assert!(resident_bytes(worker.pid) >= FULL, "committed");

    let view = call(&pool, &Job::view("echo", 0, b"from above".to_vec()));
    assert_eq!((view.verdict, view.view_result()), (Verdict::COMPLETED, b"from above".as_slice()));

    let top = call(&pool, &Job::view("top", 0, Vec::new()));
    assert_eq!((top.verdict, top.view_result()), (Verdict::COMPLETED, b"!top".as_slice()), "{top:?}");
    assert_eq!(top.memory_bytes, FULL, "all of it was granted");

    assert_eq!(assert_block(1), worker);
    assert!(resident_bytes(worker.pid) >= FULL, "still committed");
}
