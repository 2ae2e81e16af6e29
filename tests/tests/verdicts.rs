//! Each guest verdict, from a real guest in a real worker; and after each of them the next block on the same worker is
//! right, because a guest's failure is no reason to give up a process.

use cofferdam::pool::{Job, JobResult, Limits, Pool};
use cofferdam::verdict::{GuestVerdict, Verdict};
use cofferdam_tests::support::guests::{
    Act, GROWS, NO_EXPORTS, ODD_EXPORTS, SCRIPT, SCRIPT_PAGES, START_SPINS, key_value_flush,
    script_with_maximum,
};
use cofferdam_tests::support::pool::{
    MEMORY, assert_good_block, assert_verdict, build, call, limits, pairs, small,
};

cofferdam::enable_test_support!();

/// Bytes of memory that `script.wat` declares.
const DECLARED: u32 = SCRIPT_PAGES << 16;

fn script() -> Pool {
    build(small(SCRIPT))
}

fn with_fuel(module: &str, fuel: u64) -> Pool {
    build(small(module).limits(Limits { fuel: Some(fuel), ..Limits::default() }))
}

/// Runs a view, then checks that a block on the same worker is right.
fn view(pool: &Pool, export: &str, input: Vec<u8>) -> JobResult {
    let result = call(pool, &Job::view(export, 7, input));
    assert_eq!(result.attempts(), 1, "{result:?}");
    assert_eq!(assert_good_block(pool, 8).worker, result.worker);
    result
}

fn assert_trap(act: Act<'_>, words: &str) {
    let result = assert_verdict(&script(), act, GuestVerdict::Trap);
    assert!(result.detail.contains(words), "{act:?}: {}", result.detail);
}

fn assert_bad_output(pool: &Pool, act: Act<'_>, words: &str) {
    let result = assert_verdict(pool, act, GuestVerdict::BadOutput);
    assert!(result.detail.contains(words), "{act:?}: {}", result.detail);
}

#[test]
fn a_block_that_flushes_is_completed() {
    let pool = script();
    let fields: [&[u8]; 4] = [b"first", b"1", b"", b""];
    let result = assert_verdict(&pool, Act::Flush(&key_value_flush(&fields)), GuestVerdict::Completed);
    assert_eq!(pairs(&result), [(b"first".to_vec(), b"1".to_vec()), (Vec::new(), Vec::new())]);
    assert_eq!((result.detail.as_str(), result.memory_bytes), ("", u64::from(DECLARED)));
    assert_eq!(result.fuel_used, None, "not metered");
}

#[test]
fn a_flush_of_nothing_is_a_flush() {
    let result = assert_verdict(&script(), Act::Flush(b""), GuestVerdict::Completed);
    assert!(pairs(&result).is_empty());
}

#[test]
fn flushes_add_up_in_order() {
    let message = key_value_flush(&[b"a", b"1", b"b", b"2"]);
    let result = assert_verdict(&script(), Act::FlushTwice(&message), GuestVerdict::Completed);
    let keys: Vec<_> = pairs(&result).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"a", b"b", b"a", b"b"]);
}

#[test]
fn a_large_block_comes_back_whole() {
    let pool = script();
    let value: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes().into_iter().take(1)).collect();
    let act = key_value_flush(&[b"large", &value]);
    let result = assert_verdict(&pool, Act::Flush(&act), GuestVerdict::Completed);
    assert_eq!(pairs(&result), [(b"large".to_vec(), value)]);
}

#[test]
fn unreachable_is_a_trap() {
    assert_trap(Act::Unreachable, "`unreachable` instruction");
    assert_trap(Act::Unreachable, "act_unreachable");
}

#[test]
fn a_division_by_zero_is_a_trap() {
    assert_trap(Act::Divide(0), "divide by zero");
}

#[test]
fn an_endless_recursion_is_a_trap() {
    assert_trap(Act::Recurse, "stack");
}

#[test]
fn the_byte_behind_the_memory_is_out_of_bounds() {
    assert_trap(Act::LoadBehind(0), "out of bounds");
    // The far end of the 4 GiB: the last address that an i32 reaches.
    assert_trap(Act::LoadBehind(u32::MAX - DECLARED), "out of bounds");
}

#[test]
fn the_byte_behind_a_grown_memory_is_out_of_bounds_and_the_last_one_is_not() {
    let pool = script();
    // Up to the limit of the worker, where what follows was never committed.
    let all = u32::try_from(MEMORY >> 16).unwrap() - SCRIPT_PAGES;
    for pages in [1, 5, all] {
        let act = Act::GrowThenStoreBehind(pages);
        let result = assert_verdict(&pool, act, GuestVerdict::Trap);
        assert!(result.detail.contains("out of bounds"), "{}", result.detail);
        assert_eq!(result.memory_bytes, u64::from(SCRIPT_PAGES + pages) << 16);
    }
}

#[test]
fn what_an_earlier_block_grew_into_is_out_of_bounds_for_the_next() {
    let pool = script();
    for _ in 0..3 {
        let message = key_value_flush(&[b"k", b"v"]);
        assert_verdict(&pool, Act::ExhaustThenFlush(&message), GuestVerdict::Completed);
        assert_verdict(&pool, Act::LoadBehind(0), GuestVerdict::Trap);
    }
}

#[test]
fn a_call_of_an_absent_import_is_a_trap_that_names_it() {
    assert_trap(Act::CallAbsent, "`elsewhere.absent`");
}

#[test]
fn an_indirect_call_that_does_not_fit_is_a_trap() {
    assert_trap(Act::CallOtherType, "indirect call type mismatch");
    assert_trap(Act::CallNull, "uninitialized element");
    assert_trap(Act::CallBehindTable, "table");
}

#[test]
fn an_abort_is_told_with_its_message_and_place() {
    let result = assert_verdict(&script(), Act::Abort, GuestVerdict::Abort);
    assert_eq!(result.detail, "no fun in a.ts:7:9");
}

#[test]
fn a_block_that_does_not_flush_is_incomplete() {
    assert_verdict(&script(), Act::Return, GuestVerdict::Incomplete);
}

#[test]
fn a_trap_after_the_flush_is_still_a_trap_and_nothing_is_written() {
    let pool = build(small(
        SCRIPT.replace("(func $act_return)", "(func $act_return (call $act_flush) (call $act_unreachable))"),
    ));
    assert_verdict(&pool, Act::Return, GuestVerdict::Trap);
}

#[test]
fn a_trap_or_an_abort_after_refused_growth_is_memory_exhausted() {
    let pool = script();
    for act in [Act::ExhaustThenTrap, Act::ExhaustThenAbort] {
        let result = assert_verdict(&pool, act, GuestVerdict::MemoryExhausted);
        assert_eq!(result.memory_bytes, MEMORY, "every byte of the limit was granted");
    }
}

#[test]
fn a_module_is_exhausted_at_its_own_maximum_too() {
    let pool = build(small(script_with_maximum(10)));
    for act in [Act::ExhaustThenAbort, Act::ExhaustThenTrap] {
        let result = assert_verdict(&pool, act, GuestVerdict::MemoryExhausted);
        assert_eq!(result.memory_bytes, 10 << 16);
    }
}

#[test]
fn a_guest_that_lives_with_refused_growth_is_completed() {
    let message = key_value_flush(&[b"k", b"v"]);
    let result = assert_verdict(&script(), Act::ExhaustThenFlush(&message), GuestVerdict::Completed);
    assert_eq!(pairs(&result), [(b"k".to_vec(), b"v".to_vec())]);
    let result = call(&build(small(GROWS)), &Job::block(0, Vec::new()));
    assert_eq!(pairs(&result), [(b"pages".to_vec(), vec![0, 1, 0, 0])], "256 pages");
}

#[test]
fn a_refusal_in_one_block_does_not_colour_the_next() {
    let pool = script();
    assert_verdict(&pool, Act::ExhaustThenTrap, GuestVerdict::MemoryExhausted);
    assert_verdict(&pool, Act::Unreachable, GuestVerdict::Trap);
    assert_verdict(&pool, Act::Abort, GuestVerdict::Abort);
}

#[test]
fn an_endless_loop_with_fuel_is_fuel_exhausted() {
    const FUEL: u64 = 3_000_000;
    let pool = with_fuel(SCRIPT, FUEL);
    let result = assert_verdict(&pool, Act::Spin(0), GuestVerdict::FuelExhausted);
    assert!(result.detail.contains("fuel"), "{}", result.detail);
    assert_eq!(result.fuel_used, Some(FUEL), "all of it, and no more");
}

#[test]
fn fuel_used_is_the_same_again_and_in_another_pool() {
    let used = |pool: &Pool, rounds| {
        let result = assert_verdict(pool, Act::Spin(rounds), GuestVerdict::Completed);
        result.fuel_used.unwrap()
    };
    let (one, other) = (with_fuel(SCRIPT, 3_000_000), with_fuel(SCRIPT, 2_000_000));
    let first = used(&one, 1000);
    assert_eq!([used(&one, 1000), used(&other, 1000)], [first, first]);
    assert!(used(&one, 1001) > first);
}

#[test]
fn the_fuel_that_a_block_used_is_enough_for_it_and_less_is_not() {
    let needed = {
        let pool = with_fuel(SCRIPT, 3_000_000);
        assert_verdict(&pool, Act::Spin(50_000), GuestVerdict::Completed).fuel_used.unwrap()
    };
    assert_verdict(&with_fuel(SCRIPT, needed), Act::Spin(50_000), GuestVerdict::Completed);
    // Compiled code looks at its fuel once a loop and a call, so that the very last few instructions may be free.
    assert_verdict(&with_fuel(SCRIPT, needed - 100), Act::Spin(50_000), GuestVerdict::FuelExhausted);
}

#[test]
fn a_start_section_can_use_up_the_fuel() {
    let pool = with_fuel(START_SPINS, 100_000);
    let mut workers = Vec::new();
    for height in 0..3 {
        let result = call(&pool, &Job::block(height, vec![1]));
        assert_eq!(result.verdict, Verdict::Guest(GuestVerdict::FuelExhausted), "{result:?}");
        assert_eq!(result.fuel_used, Some(100_000));
        workers.push(result.worker);
    }
    workers.dedup();
    assert_eq!(workers.len(), 1, "the worker stays in service");
}

#[test]
fn output_over_the_limit_is_too_large_and_at_the_limit_is_not() {
    // A pair costs eight bytes beside its key and value.
    let pool = build(small(SCRIPT).limits(Limits { output_bytes: 1008, ..Limits::default() }));
    let fits = key_value_flush(&[b"", &[7; 1000]]);
    assert_verdict(&pool, Act::Flush(&fits), GuestVerdict::Completed);
    for act in [Act::Flush(&key_value_flush(&[b"k", &[7; 1000]])), Act::FlushTwice(&fits)] {
        let result = assert_verdict(&pool, act, GuestVerdict::OutputTooLarge);
        assert!(result.detail.contains("1008"), "names the limit: {}", result.detail);
    }
    let result = view(&pool, "echo", vec![7; 1009]);
    assert_eq!(result.verdict, Verdict::Guest(GuestVerdict::OutputTooLarge), "{result:?}");
    assert_eq!(view(&pool, "echo", vec![7; 1008]).view_result(), [7; 1008]);
}

#[test]
fn what_is_no_key_value_flush_is_bad_output() {
    let pool = script();
    // A torn field, a length beyond the end, a tag that is none, an endless varint, a field of another kind.
    for message in [b"\x0a".as_slice(), b"\x0a\x05k", b"\xff", &[0x0a; 1], &[0xff; 11], b"\x08\x01\x0a"] {
        assert_bad_output(&pool, Act::Flush(message), "KeyValueFlush");
    }
    assert_bad_output(&pool, Act::Flush(&key_value_flush(&[b"a", b"1", b"b"])), "no value");
}

#[test]
fn pointers_outside_the_memory_are_bad_output() {
    let pool = script();
    // 0 and 3 have no room for a length in front; the others, or their lengths, lie behind the end.
    for pointer in [0, 3, DECLARED + 1, DECLARED + 4, DECLARED + 5, 1 << 31, u32::MAX] {
        assert_bad_output(&pool, Act::FlushAt(pointer), "a flush at");
        assert_bad_output(&pool, Act::KeyAt(pointer), "a key at");
        let result = view(&pool, "point", pointer.to_le_bytes().to_vec());
        assert_eq!(result.verdict, Verdict::Guest(GuestVerdict::BadOutput), "{result:?}");
    }
}

#[test]
fn a_length_that_reaches_outside_is_bad_output() {
    let pool = script();
    let room = DECLARED - 8192;
    for length in [room + 1, DECLARED, 1 << 31, u32::MAX] {
        assert_bad_output(&pool, Act::FlushLength(length, 8192), "a flush at 0x2000");
    }
    // An empty one at the very end is inside. (`script.wat` has marked those bytes, so they are set first.)
    assert_verdict(&pool, Act::FlushLength(0, DECLARED), GuestVerdict::Completed);
    assert_bad_output(&pool, Act::FlushLength(1, DECLARED), "a flush at 0x20000");
}

#[test]
fn input_that_does_not_fit_where_it_is_wanted_is_bad_output() {
    let pool = script();
    // The block of this act is 5 bytes, the height 4.
    assert_verdict(&pool, Act::InputAt(DECLARED - 9), GuestVerdict::Completed);
    for pointer in [DECLARED - 8, DECLARED, DECLARED + 1, 1 << 31, u32::MAX] {
        assert_bad_output(&pool, Act::InputAt(pointer), "the input at");
    }
}

#[test]
fn a_module_without_a_fitting_start_has_no_such_export() {
    let exports = "it exports `_start` (i32), `view` () -> i32";
    for (module, told) in [(NO_EXPORTS, "it exports no function at all"), (ODD_EXPORTS, exports)] {
        let pool = build(small(module));
        let first = call(&pool, &Job::block(0, vec![1]));
        assert_eq!(first.verdict, Verdict::Guest(GuestVerdict::NoSuchExport), "{first:?}");
        let expected = format!("the module exports no function `_start` of type (); {told}");
        assert_eq!(first.detail, expected);
        let again = call(&pool, &Job::block(1, vec![1]));
        assert_eq!((again.verdict, again.worker), (first.verdict, first.worker));
    }
    let pool = build(small(ODD_EXPORTS));
    let result = call(&pool, &Job::view("view", 0, Vec::new()));
    assert_eq!((result.verdict, result.view_result()), (Verdict::COMPLETED, b"".as_slice()));
}

#[test]
fn a_missing_view_or_one_of_another_type_is_no_such_export() {
    let pool = script();
    for export in ["missing", "", "takes_one", "gives_none", "gives_long", "memory", "no_function"] {
        let result = view(&pool, export, vec![1]);
        assert_eq!(result.verdict, Verdict::Guest(GuestVerdict::NoSuchExport), "{export}: {result:?}");
        assert!(result.view_result().is_empty());
    }
}

#[test]
fn a_view_answers_with_its_result() {
    let pool = script();
    for input in [Vec::new(), vec![7], vec![9; 3_000_000]] {
        let result = view(&pool, "echo", input.clone());
        assert_eq!(result.verdict, Verdict::COMPLETED);
        assert!(result.view_result() == input, "{} bytes", input.len());
        assert!(pairs(&result).is_empty());
    }
}

#[test]
fn a_flush_in_a_view_does_nothing() {
    let pool = script();
    for act in [Act::Flush(&key_value_flush(&[b"k", b"v"])), Act::Flush(b"\xff"), Act::FlushAt(3)] {
        let result = view(&pool, "act", act.input());
        assert_eq!(result.verdict, Verdict::COMPLETED, "{act:?}: {result:?}");
        assert!(pairs(&result).is_empty() && result.view_result().is_empty());
    }
}

#[test]
fn a_view_has_the_same_verdicts_as_a_block() {
    let pool = script();
    for (act, verdict) in [
        (Act::Unreachable, GuestVerdict::Trap),
        (Act::Recurse, GuestVerdict::Trap),
        (Act::Abort, GuestVerdict::Abort),
        (Act::ExhaustThenTrap, GuestVerdict::MemoryExhausted),
        (Act::KeyAt(0), GuestVerdict::BadOutput),
        (Act::Return, GuestVerdict::Completed),
    ] {
        let result = view(&pool, "act", act.input());
        assert_eq!(result.verdict, Verdict::Guest(verdict), "{act:?}: {result:?}");
    }
}

#[test]
fn the_log_is_kept_whatever_the_verdict_and_cut_at_its_limit() {
    let pool = script();
    let result = assert_verdict(&pool, Act::Log("grüße".as_bytes()), GuestVerdict::Completed);
    assert_eq!(result.log, "grüße\n");
    let result = assert_verdict(&pool, Act::Log(b"\xff\xfe"), GuestVerdict::Completed);
    assert_eq!(result.log, "\u{fffd}\u{fffd}\n");
    let result = assert_verdict(&pool, Act::Log(&[b'x'; 70_000]), GuestVerdict::Completed);
    assert_eq!(result.log, "[log cut here]\n");
    assert!(assert_good_block(&pool, 9).log.is_empty(), "a log belongs to its job");
    let module = SCRIPT.replace("(func $act_log ", "(func $act_log (call $log (call $message)) unreachable ");
    let result = assert_verdict(&build(small(module)), Act::Log(b"last words"), GuestVerdict::Trap);
    assert_eq!(result.log, "last words\n");
}

#[test]
fn an_input_over_the_limit_is_refused_and_the_pool_goes_on() {
    let pool = build(small(SCRIPT).limits(Limits { input_bytes: 100, ..Limits::default() }));
    let error = pool.call(&Job::block(0, vec![0; 101])).unwrap_err();
    assert!(error.to_string().contains("101 bytes"), "{error}");
    assert_good_block(&pool, 1);
    let fits = Act::Flush(&key_value_flush(&[b"k", &[1; 94]])).input();
    assert_eq!(fits.len(), 100);
    assert!(call(&pool, &Job::block(2, fits)).verdict.is_completed());
}

#[test]
fn guest_verdicts_leave_the_retries_alone() {
    let pool = build(small(SCRIPT).limits(limits(cofferdam_tests::support::pool::PATIENCE, 0)));
    assert_verdict(&pool, Act::Unreachable, GuestVerdict::Trap);
}
