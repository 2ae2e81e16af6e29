//! The harness for tests of modules: what its assertions say when they fail, what it does with what cannot be run, and
//! how it finds out modules that differ from run to run.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use cofferdam::fault::{Fault, FaultKind};
use cofferdam::harness::{Harness, HarnessError, OnGuestFailure, Session};
use cofferdam::verdict::{GuestVerdict, HostVerdict, Verdict};
use cofferdam_tests::support::guests::{Act, GROWS, SCRIPT, key_value_flush};
use cofferdam_tests::support::pool::MEMORY;

cofferdam::enable_test_support!();

fn script() -> Harness {
    Harness::new(SCRIPT).memory(MEMORY)
}

fn start(harness: &Harness) -> Session {
    harness.start().expect("a small session starts")
}

/// A block that makes the script flush these.
fn flush(fields: &[&[u8]]) -> Vec<u8> {
    Act::Flush(&key_value_flush(fields)).input()
}

thread_local! {
    /// The file in which this thread panicked last.
    static PANICKED_IN: RefCell<String> = RefCell::default();
}

/// What an assertion says that fails here, where it is called, and not somewhere in the library.
fn failure<T>(assertion: impl FnOnce() -> T) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICKED_IN.set(panic.location().map_or_else(String::new, |place| place.file().to_owned()));
            previous(panic);
        }));
    });
    let panic = catch_unwind(AssertUnwindSafe(assertion)).err().expect("this assertion is to fail");
    assert_eq!(PANICKED_IN.take(), file!());
    *panic.downcast::<String>().expect("an assertion fails in words")
}

fn assert_says(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
}

#[test]
fn a_failed_assertion_on_the_verdict_reports_all_that_is_known() {
    let mut session = start(&script().fuel(1_000_000));
    let outcome = session.block(Act::ExhaustThenTrap.input());
    let words = failure(|| outcome.assert_completed());
    assert_says(
        &words,
        &[
            "block 0 (1 bytes): expected the verdict completed (the call completed)\n",
            "what happened: block 0 (1 bytes) ended as memory-exhausted: the guest was refused memory at its limit",
            "\n  why: wasm trap: wasm `unreachable` instruction executed in function",
            "\n  memory: 16 MiB of at most 16 MiB",
            " of at most 1000000",
            " of at most 60s",
        ],
    );
    let words = failure(|| session.view("nothing", "").assert_completed());
    assert_says(&words, &["view `nothing` at 0 (0 bytes)", "no-such-export", "no function `nothing`"]);
}

#[test]
fn a_completed_block_can_be_an_unexpected_verdict() {
    let outcome = start(&script()).block(flush(&[b"k", b"v"]));
    let words = failure(|| outcome.assert_verdict(GuestVerdict::FuelExhausted));
    assert_says(&words, &["expected the verdict fuel-exhausted", "ended as completed", "\n  wrote: 1 pair"]);
}

#[test]
fn the_first_pair_that_differs_is_reported_by_its_key() {
    let mut session = start(&script());
    let mut written = || session.block(flush(&[b"a", b"1", b"b", b"\xff"]));
    written().assert_writes(&[(b"a", b"1"), (b"b", b"\xff")]);
    let words = failure(|| written().assert_writes(&[(b"a", b"1"), (b"b", b"2")]));
    assert_says(&words, &["the values of key \"b\" differ\n    expected: \"2\"\n    found:    0xff"]);
    let words = failure(|| written().assert_writes(&[(b"a", b"1")]));
    assert_says(&words, &["found continues with key \"b\"\n    expected: 1 pair\n    found:    2 pairs"]);
    assert_eq!(written().written("b"), Some(b"\xff".as_slice()));
    let words = failure(|| session.block(Act::Unreachable.input()).assert_writes(&[]));
    assert_says(&words, &["expected the verdict completed", "ended as trap"]);
}

#[test]
fn failed_assertions_on_result_memory_and_log_report_both_sides() {
    let mut session = start(&script());
    let completed = session.block(Act::Log(b"one line").input()).assert_logged("one");
    let words = failure(|| completed.clone().assert_logged("two"));
    assert_says(&words, &["expected a log line with \"two\"", "log, the end of 1 line:\n    one line"]);
    let words = failure(|| completed.clone().assert_high_water_at_most(1 << 16));
    assert_says(&words, &["at most 64 KiB (65536 bytes)", "memory: 128 KiB of at most 16 MiB"]);
    let words = failure(|| completed.assert_result("x"));
    assert_says(&words, &["expected another result\n    expected: \"x\"\n    found:    \"\""]);
    let words = failure(|| session.assert_digest("00"));
    assert_says(&words, &["the digest at block 0", "expected: 00", &session.digest().to_string()]);
    session.assert_digest(session.digest());
}

#[test]
fn a_host_verdict_is_reported_with_each_attempt() {
    let mut session = start(&script().deadline(Duration::from_millis(200)).retries(1));
    let outcome = session.block(Act::Spin(0).input()).assert_verdict(HostVerdict::Deadline);
    assert_eq!((outcome.committed, outcome.digest), (false, None));
    let words = failure(|| outcome.clone().assert_completed());
    assert_says(
        &words,
        &["ended as deadline", "memory: unknown", "attempt 1 lost worker", "attempt 2", "within 200ms"],
    );
    let words = failure(|| outcome.assert_high_water_at_most(u64::MAX));
    assert_says(&words, &["memory: unknown"]);
    session.block(flush(&[])).assert_completed();
}

#[test]
fn a_block_that_fails_is_not_committed_and_the_next_takes_its_height() {
    let mut session = start(&script());
    session.block(flush(&[b"k", b"0"]));
    let failed = session.block(Act::Abort.input()).assert_verdict(GuestVerdict::Abort);
    assert!(!failed.committed && failed.digest.is_some(), "{failed}");
    let next = session.block(flush(&[b"k", b"1"]));
    assert_eq!((next.job.as_str(), next.committed), ("block 1 (7 bytes)", true));
    assert_eq!(session.get("k").unwrap(), Some(b"1".to_vec()));
    assert_eq!(session.get("other").unwrap(), None);
}

#[test]
fn told_to_skip_it_is_committed_without_writes() {
    let mut session = start(&script().on_guest_failure(OnGuestFailure::Skip));
    let failed = session.block(Act::Abort.input());
    assert!(failed.committed, "{failed}");
    assert_eq!((session.tip(), Some(session.digest())), (Some(0), failed.digest));
}

#[test]
fn heights_rise() {
    let mut session = start(&script());
    session.block_at(7, flush(&[])).assert_completed();
    let error = session.try_block_at(7, flush(&[])).unwrap_err();
    assert!(matches!(error, HarnessError::Passed { height: 7, tip: 7 }), "{error}");
    assert_says(&failure(|| session.block_at(3, "")), &["block 3 cannot be run: the state is at height 7"]);
    assert_eq!(session.block(flush(&[])).job, "block 8 (1 bytes)");
}

#[test]
fn what_cannot_be_run_is_an_error_of_its_own() {
    let error = Harness::load("guests/nothing.wat").unwrap_err().to_string();
    assert_says(&error, &["cannot read the module guests/nothing.wat: No such file"]);
    assert!(Harness::load("guests/grows.wat").is_ok());
    let error = Harness::new("(module (memory 65536))").start().unwrap_err();
    assert!(matches!(error, HarnessError::Pool(_)) && !error.is_not_committed(), "{error}");
    assert_says(&error.to_string(), &["above the memory limit of 67108864 bytes"]);
    let error = start(&script().input_limit(10)).try_block_at(0, [0; 11]).unwrap_err().to_string();
    assert_says(&error, &["the input has 11 B"]);
    for (runs, blocks) in [(0, 1), (1, 1), (5, 0)] {
        let error = script().compare_runs(runs, &vec![""; blocks]).unwrap_err();
        assert!(matches!(error, HarnessError::NothingToCompare { .. }), "{error}");
    }
}

#[test]
fn runs_that_agree_say_on_what() {
    let blocks = [flush(&[b"k", b"1"]), Act::Unreachable.input(), flush(&[b"k", b"2"])];
    let agreement = script().assert_deterministic(4, &blocks);
    let [completed, trap] = [GuestVerdict::Completed, GuestVerdict::Trap].map(Verdict::Guest);
    assert_eq!(agreement.verdicts, [completed, trap, completed], "a block that fails is no end");
    // The same as in a session that skips.
    let mut session = start(&script().on_guest_failure(OnGuestFailure::Skip));
    for block in blocks {
        session.block(block);
    }
    assert_eq!(agreement.digest, session.digest());
    let words = format!("4 runs agree on 3 blocks: digest {}", session.digest());
    assert_eq!(agreement.to_string(), words);
    assert_eq!(Harness::new(GROWS).memory(MEMORY).assert_deterministic(2, &[""]).high_water, MEMORY);
}

#[test]
fn a_run_that_the_host_ended_is_no_difference() {
    let fault = Fault { height: 1, attempts: 1, kind: FaultKind::Kill };
    let harness = script().faults([fault]);
    let error = harness.compare_runs(2, &[flush(&[]), flush(&[])]).unwrap_err();
    let HarnessError::Lost { run: 1, outcome } = &error else { panic!("{error}") };
    assert_eq!(outcome.verdict(), HostVerdict::Killed.into());
    assert_says(&error.to_string(), &["run 1 cannot be compared", "block 1 (1 bytes) ended as killed"]);
    let words = failure(|| harness.assert_deterministic(2, &[flush(&[]), flush(&[])]));
    assert_says(&words, &["run 1 cannot be compared"]);
    harness.retries(1).assert_deterministic(2, &[flush(&[]), flush(&[])]);
}
