//! One chain of blocks, whatever the pool is made of: the same outputs and the same fuel from one worker and from four,
//! however the memory was committed.

use cofferdam::pool::{CommitStrategy, Job, Limits, PoolBuilder, SlotState};
use cofferdam::profile::Hash;
use cofferdam::verdict::Verdict;
use cofferdam_tests::support::guests::MIXER;
use cofferdam_tests::support::pool::{build, call, pairs, send, small, wait_for_state, wait_until, workers};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// What the chain gives, from any machine: a change here is a change of consensus.
const EXPECTED: &str = "e7f2bf4af13ee5eecd7429424311e81ad084a09b04e9cf80b8facd6e66795c02";

const BLOCKS: u32 = 24;

/// What came of one block: everything that must be the same everywhere.
type Outcome = (Verdict, String, Hash, u64, Option<u64>);

/// Blocks of 1 byte to 60 KB, of noise.
fn block(height: u32) -> Job {
    let mut state = u64::from(height) + 1;
    let length = 1 + height as usize * height as usize * 113;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[7]
    };
    Job::block(height, (0..length).map(byte).collect::<Vec<u8>>())
}

fn with_fuel(builder: PoolBuilder) -> PoolBuilder {
    builder.limits(Limits { fuel: Some(1 << 40), ..Limits::default() })
}

fn outcome(result: &cofferdam::pool::JobResult) -> Outcome {
    let writes = result.writes().hash();
    (result.verdict, result.detail.clone(), writes, result.memory_bytes, result.fuel_used)
}

/// The chain on a pool of this kind.
fn chain(builder: PoolBuilder) -> Vec<Outcome> {
    let pool = build(with_fuel(builder));
    (0..BLOCKS).map(|height| outcome(&call(&pool, &block(height)))).collect()
}

fn reference() -> Vec<Outcome> {
    chain(small(MIXER))
}

#[test]
fn the_chain_is_what_it_was_on_other_machines() {
    let outcomes = reference();
    let mut bytes = Vec::new();
    for (verdict, _, writes, memory, _) in &outcomes {
        assert_eq!(*verdict, Verdict::COMPLETED);
        bytes.extend_from_slice(&writes.0);
        bytes.extend_from_slice(&memory.to_le_bytes());
    }
    assert!(outcomes.iter().any(|outcome| outcome.3 > 4 << 16), "some block grows");
    assert_eq!(Hash::of(&bytes).to_string(), EXPECTED);
}

#[test]
fn what_is_not_a_number_is_always_the_same_one() {
    let pool = build(small(MIXER));
    for height in 0..BLOCKS {
        let result = call(&pool, &block(height));
        let value = &pairs(&result)[0].1;
        let single = 0x7fc0_0000_u32.to_le_bytes();
        assert_eq!(value[36..40], single, "0/0");
        assert_eq!(value[40..48], 0x7ff8_0000_0000_0000_u64.to_le_bytes(), "a sum");
        assert_eq!(value[48..52], single, "a product");
        assert_eq!(value[52..56], single, "a conversion");
        assert_eq!(value[56..], [0; 8], "nobody has written there");
    }
}

#[test]
fn a_block_again_gives_the_same_again() {
    let pool = build(with_fuel(small(MIXER)));
    let first = outcome(&call(&pool, &block(9)));
    for other in [3, 20, 9, 0, 9] {
        call(&pool, &block(other));
        assert_eq!(outcome(&call(&pool, &block(9))), first);
    }
}

#[test]
fn the_way_that_memory_is_committed_does_not_show() {
    let reference = reference();
    for (name, builder) in [
        ("touched", small(MIXER).commit(CommitStrategy::Touch)),
        ("ordinary pages", small(MIXER).huge_pages(false)),
        ("touched ordinary pages", small(MIXER).commit(CommitStrategy::Touch).huge_pages(false)),
        ("a larger memory", small(MIXER).memory(64 << 20)),
    ] {
        assert_eq!(chain(builder), reference, "{name}");
    }
}

#[test]
fn the_number_of_workers_does_not_show() {
    let reference = reference();
    let pool = build(with_fuel(small(MIXER).workers(4).spares(1)));
    // All at once, on whichever worker is free.
    let tickets: Vec<_> = (0..BLOCKS).map(|height| pool.submit(block(height)).unwrap()).collect();
    let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    assert_eq!(results.iter().map(outcome).collect::<Vec<_>>(), reference);
    let mut used: Vec<_> = results.iter().map(|result| result.worker.pid).collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "several workers had a part in it");
}

#[test]
fn deaths_do_not_show() {
    let faults = ["3:kill", "9x2:exit=1", "20:wrong-span"].map(|fault| fault.parse().unwrap());
    assert_eq!(chain(small(MIXER).faults(faults.to_vec()).spares(1)), reference());

    let reference = reference();
    let pool = build(with_fuel(small(MIXER)));
    for height in 0..BLOCKS {
        if height % 8 == 0 {
            let pid = wait_for_state(&pool, 0, SlotState::Idle);
            send(pid, Signal::SIGKILL);
            wait_until("another worker", || workers(&pool).iter().all(|other| *other != pid).then_some(()));
        }
        assert_eq!(outcome(&call(&pool, &block(height))), reference[height as usize]);
    }
}

#[test]
fn fuel_does_not_show_in_the_output() {
    let pool = build(small(MIXER));
    for (height, reference) in (0..).zip(reference()) {
        let result = call(&pool, &block(height));
        assert_eq!((result.writes().hash(), result.fuel_used), (reference.2, None));
    }
}
