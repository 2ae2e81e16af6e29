//! Tests that the author of `guests/indexer.wat` writes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam_harness::verdict::{GuestVerdict, HostVerdict};
use cofferdam_harness::{Harness, HarnessError, HostImport, Value};

// A worker is this test binary, started again. So each worker has the import `test.now`, too.
cofferdam_harness::enable_test_support!(imports: [HostImport::new("test", "now", now)]);

/// The time of day, which no node gives to a module.
fn now(_memory: &mut [u8], _arguments: &[Value]) -> Result<Vec<Value>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let nanoseconds = i64::try_from(now.as_nanos()).map_err(|error| error.to_string())?;
    Ok(vec![Value::I64(nanoseconds)])
}

const PAGE: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

type TestResult = Result<(), HarnessError>;

/// The indexer with memory for 32 pages.
fn indexer() -> Result<Harness, HarnessError> {
    Ok(Harness::load("guests/indexer.wat")?.memory(32 * PAGE))
}

#[test]
fn a_block_is_counted() -> TestResult {
    let mut session = indexer()?.start()?;
    session.block("a block").assert_completed().assert_writes(&[(b"blocks", &[1, 0, 0, 0])]);
    Ok(())
}

#[test]
fn the_count_carries_over_from_block_to_block() -> TestResult {
    let mut session = indexer()?.start()?;
    for number in 1..=3u32 {
        session.block("a block").assert_writes(&[(b"blocks", &number.to_le_bytes())]);
    }
    assert_eq!(session.tip(), Some(2));
    assert_eq!(session.get("blocks")?, Some(vec![3, 0, 0, 0]));
    Ok(())
}

#[test]
fn the_view_shows_the_count() -> TestResult {
    let mut session = indexer()?.start()?;
    session.view("blocks", "").assert_result([0; 4]);
    session.block("a block");
    session.view("blocks", "").assert_result([1, 0, 0, 0]);
    session.view("stats", "").assert_verdict(GuestVerdict::NoSuchExport);
    Ok(())
}

#[test]
fn memory_is_granted_up_to_the_limit_and_refused_there() -> TestResult {
    let mut session = indexer()?.start()?;
    session.block([b'g', 31]).assert_completed();
    let refused = session.block([b'g', 32]);
    refused.assert_verdict(GuestVerdict::MemoryExhausted).assert_logged("no memory for the block");
    Ok(())
}

#[test]
fn an_ordinary_block_needs_no_more_than_a_page() -> TestResult {
    let mut session = indexer()?.start()?;
    session.block("a block").assert_high_water_at_most(PAGE);
    session.block([b'g', 8]).assert_high_water_at_most(9 * PAGE);
    assert_eq!(session.high_water(), 9 * PAGE);
    Ok(())
}

#[test]
fn a_block_that_spins_is_stopped_by_its_fuel() -> TestResult {
    let mut session = indexer()?.fuel(10_000).start()?;
    session.block("a block").assert_completed();
    session.block("s").assert_verdict(GuestVerdict::FuelExhausted);
    Ok(())
}

#[test]
fn without_fuel_a_block_that_spins_is_stopped_by_the_deadline_and_the_next_block_runs() -> TestResult {
    let mut session = indexer()?.deadline(Duration::from_millis(500)).start()?;
    session.block("s").assert_verdict(HostVerdict::Deadline);
    session.block("a block").assert_completed();
    Ok(())
}

#[test]
fn a_block_that_traps_leaves_the_state_as_it_was() -> TestResult {
    let mut session = indexer()?.start()?;
    session.block("a block");
    let before = session.digest();
    session.block("t").assert_verdict(GuestVerdict::Trap);
    assert_eq!((session.tip(), session.digest()), (Some(0), before));
    session.block("a block").assert_writes(&[(b"blocks", &[2, 0, 0, 0])]);
    Ok(())
}

#[test]
fn a_host_with_less_than_the_limit_runs_no_block_at_all() -> TestResult {
    let harness = indexer()?.memory(128 * MIB);
    match harness.clone().host_memory(64 * MIB).start() {
        Err(error) if error.is_no_host_limit() => {
            eprintln!("SKIPPED: {error}");
            return Ok(());
        }
        result => {
            let error = result.expect_err("128 MiB do not fit a host of 64 MiB");
            assert!(error.is_not_committed(), "{error}");
        }
    }
    let mut session = harness.host_memory(512 * MIB).start()?;
    session.block([b'g', 255]).assert_completed();
    Ok(())
}

#[test]
fn five_runs_agree() -> TestResult {
    let blocks: Vec<&[u8]> = vec![b"a block", b"g\x1f", b"t", b"g\x20", b"a block", b""];
    let agreement = indexer()?.fuel(10_000).assert_deterministic(5, &blocks);
    assert_eq!(agreement.verdicts[3], GuestVerdict::MemoryExhausted.into());
    assert_eq!(agreement.high_water, 32 * PAGE);
    Ok(())
}

#[test]
fn a_module_that_writes_the_time_is_found_to_be_non_deterministic() -> TestResult {
    let error = Harness::load("guests/stamps.wat")?.compare_runs(5, &["a block"]);
    let HarnessError::NotDeterministic(difference) = error.expect_err("each run sees another time") else {
        panic!("the runs must differ")
    };
    let words = difference.to_string();
    for part in [
        "the module is not deterministic: run 1 and run 2 differ at block 0 (7 bytes)",
        "the first difference: the values of key \"time\" differ",
        "the digests with this block",
    ] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    Ok(())
}

#[test]
#[ignore = "fails on purpose: run it to see how a difference is reported"]
fn five_runs_of_a_module_that_writes_the_time_agree() -> TestResult {
    Harness::load("guests/stamps.wat")?.assert_deterministic(5, &["a block"]);
    Ok(())
}
