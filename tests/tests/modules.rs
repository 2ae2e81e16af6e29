//! What is accepted as a module and what is not, that each job finds the module as it was defined, and where compiled
//! modules come from.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam::pool::{ArtifactOrigin, Job, JobResult, Limits, Pool, PoolError};
use cofferdam::verdict::{GuestVerdict, Verdict};
use cofferdam_tests::support::guests::{
    Act, GROWS, IMPORTED_MEMORY, NO_MEMORY, PRISTINE, SCRIPT, SEGMENT_OUTSIDE, START_ONLY_COMPUTES,
    START_TRAPS, START_USES_JOB, good_block, good_pair, key_value_flush,
};
use cofferdam_tests::support::pool::{MEMORY, assert_good_block, assert_verdict, build, call, pairs, small};

cofferdam::enable_test_support!();

/// Why a module is refused.
fn refusal(module: impl Into<Vec<u8>>) -> String {
    let error = small(module).build().expect_err("this module is to be refused");
    assert!(error.to_string().starts_with("module: "), "{error}");
    assert!(!error.is_memory());
    error.to_string()
}

fn words(value: &[u8]) -> Vec<u32> {
    value.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Runs a block, and gives the numbers in the one value that it flushed.
fn flushed_words(pool: &Pool, job: &Job) -> (Vec<u32>, JobResult) {
    let result = call(pool, job);
    assert_eq!(result.verdict, Verdict::COMPLETED, "{result:?}");
    let [(_, value)] = &pairs(&result)[..] else { panic!("one pair: {result:?}") };
    (words(value), result)
}

/// Checks that a module gives the same guest verdict to one block after another, on one worker.
fn assert_always(pool: &Pool, input: &[u8], verdict: GuestVerdict) -> JobResult {
    let results: Vec<_> = (0..3).map(|height| call(pool, &Job::block(height, input.to_vec()))).collect();
    for result in &results {
        assert_eq!(result.verdict, Verdict::Guest(verdict), "{result:?}");
        assert_eq!((result.worker, result.attempts()), (results[0].worker, 1));
        assert_eq!(result.detail, results[0].detail);
    }
    results[0].clone()
}

#[test]
fn a_module_without_memory_runs() {
    let pool = build(small(NO_MEMORY));
    assert_always(&pool, b"", GuestVerdict::Incomplete);
    assert_always(&pool, b"f", GuestVerdict::BadOutput);
    assert_always(&pool, b"load", GuestVerdict::BadOutput);
    let view = call(&pool, &Job::view("view", 0, Vec::new()));
    assert_eq!(view.verdict, Verdict::Guest(GuestVerdict::BadOutput), "{view:?}");
    assert_eq!(view.memory_bytes, 0);
}

#[test]
fn an_imported_memory_is_given_under_any_name() {
    for module in [
        IMPORTED_MEMORY.to_owned(),
        IMPORTED_MEMORY.replace("\"somewhere\" \"a memory\"", "\"env\" \"memory\""),
        IMPORTED_MEMORY.replace("\"somewhere\" \"a memory\"", "\"\" \"\""),
    ] {
        let pool = build(small(module));
        let first = call(&pool, &Job::block(1, key_value_flush(&[b"k", b"1"])));
        assert_eq!(pairs(&first), [(b"k".to_vec(), b"1".to_vec())], "{first:?}");
        // It traps unless its memory is new.
        let second = call(&pool, &Job::block(2, key_value_flush(&[b"k", b"2"])));
        assert_eq!(pairs(&second), [(b"k".to_vec(), b"2".to_vec())], "{second:?}");
        assert_eq!(second.worker, first.worker);
    }
}

#[test]
fn a_memory_exported_under_another_name_is_found() {
    let pool = build(small(SCRIPT.replace("(memory (export \"memory\") 2)", "(memory (export \"mem\") 2)")));
    assert_verdict(&pool, Act::Unreachable, GuestVerdict::Trap);
}

#[test]
fn a_start_section_finds_a_memory_exported_under_another_name() {
    let module = START_USES_JOB.replace("(memory (export \"memory\") 1)", "(memory (export \"mem\") 1)");
    let pool = build(small(module));
    let (values, _) = flushed_words(&pool, &Job::block(7, vec![0; 6]));
    assert_eq!(values, [10, 7, 1]);
}

#[test]
fn what_no_worker_can_run_is_refused_with_a_sentence() {
    for (module, sentence) in [
        ("(module (memory 1) (memory 1))", "has 2 memories"),
        ("(module (import \"a\" \"b\" (memory 1)) (memory 1))", "has 2 memories"),
        ("(module (memory i64 1))", "64-bit"),
        ("(module (memory 1 2 shared))", "shared"),
        ("(module (import \"a\" \"b\" (memory 1 2 shared)))", "shared"),
        ("(module (import \"a\" \"b\" (global i32)))", "imports the global `a.b`"),
        ("(module (import \"a\" \"b\" (table 1 funcref)))", "imports the table `a.b`"),
        ("(module (table 2000000 funcref))", "2000000 elements"),
        ("(component)", "component"),
        (
            "(module (import \"env\" \"__flush\" (func (param i64))))",
            "imports `env.__flush` with the type (i64) -> (): the indexer ABI gives it the type (i32) -> ()",
        ),
        (
            "(module (import \"env\" \"__host_len\" (func)))",
            "imports `env.__host_len` with the type () -> (): the indexer ABI gives it the type () -> (i32)",
        ),
    ] {
        let refusal = refusal(module);
        assert!(refusal.contains(sentence), "{module}: {refusal}");
    }
}

#[test]
fn a_minimum_above_the_limit_is_refused_with_both_numbers() {
    let refused = refusal("(module (memory 65536))");
    assert!(refused.contains("65536 pages (4294967296 bytes)"), "{refused}");
    assert!(refused.contains(&format!("limit of {MEMORY} bytes")), "{refused}");
    let refused = refusal("(module (memory 257))");
    assert!(refused.contains("257 pages (16842752 bytes)"), "{refused}");
    let pool = build(small(GROWS.replace("\"memory\") 1)", "\"memory\") 256)")));
    assert_eq!(flushed_words(&pool, &Job::block(0, Vec::new())).0, [256], "exactly the limit is no refusal");
}

#[test]
fn what_is_no_module_is_refused() {
    let garbage: [&[u8]; 8] = [
        b"",
        b"hello",
        b"\0asm",
        b"\0asm\x01\0\0\0\xff",
        b"\0asm\x0d\0\x01\0",
        b"\xff\xfe\0\0",
        b"(module (func (result i32)))",
        b"(module (memory 65537))",
    ];
    for bytes in garbage {
        refusal(bytes);
    }
    // An instruction set that is off: the compiler refuses, in its own process.
    let threads = "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))";
    assert!(matches!(small(threads).build(), Err(PoolError::Artifact(_))));
    let mut binary = wat::parse_str(SCRIPT).unwrap();
    let half = binary.len() / 2;
    binary.truncate(half);
    refusal(binary);
}

#[test]
fn a_maximum_below_the_limit_is_honoured_and_one_above_it_is_not_needed() {
    for (memory, pages) in [("1 9", 9), ("1 256", 256), ("1 65536", 256), ("1", 256), ("9 9", 9)] {
        let module = GROWS
            .replace("(memory (export \"memory\") 1)", &format!("(memory (export \"memory\") {memory})"));
        let pool = build(small(module));
        let (values, result) = flushed_words(&pool, &Job::block(0, Vec::new()));
        assert_eq!((values, result.memory_bytes), (vec![pages], u64::from(pages) << 16), "{memory}");
    }
}

#[test]
fn text_and_binary_are_the_same_module() {
    let binary = wat::parse_str(SCRIPT).unwrap();
    let (text, binary) = (build(small(SCRIPT)), build(small(binary)));
    assert_eq!(text.profile(), binary.profile());
    assert_good_block(&text, 3);
    assert_good_block(&binary, 3);
}

#[test]
fn a_start_section_that_calls_an_import_runs_with_its_job_once() {
    let pool = build(small(START_USES_JOB));
    for (height, length) in [(7, 0), (8, 100), (0, 1)] {
        let (values, result) = flushed_words(&pool, &Job::block(height, vec![1; length]));
        assert_eq!(values, [u32::try_from(length).unwrap() + 4, height, 1], "{result:?}");
    }
    assert_eq!(pool.health().deaths(), 0);
}

#[test]
fn a_start_section_that_only_computes_runs_once_a_job_and_its_fuel_counts() {
    let pool = build(small(START_ONLY_COMPUTES).limits(Limits { fuel: Some(1 << 20), ..Limits::default() }));
    let runs: Vec<_> = (0..3).map(|height| flushed_words(&pool, &Job::block(height, vec![1]))).collect();
    for (values, result) in &runs {
        assert_eq!(values, &[1, 1000 * 999 / 2]);
        assert_eq!(result.fuel_used, runs[0].1.fuel_used);
        assert!(result.fuel_used.unwrap() > 10_000, "{:?}", result.fuel_used);
    }
}

#[test]
fn a_start_section_that_traps_is_the_verdict_of_every_block() {
    let trap = assert_always(&build(small(START_TRAPS)), b"block", GuestVerdict::Trap);
    assert!(trap.detail.contains("unreachable"), "{}", trap.detail);
}

#[test]
fn a_data_segment_outside_the_memory_is_a_trap() {
    let trap = assert_always(&build(small(SEGMENT_OUTSIDE)), b"block", GuestVerdict::Trap);
    assert!(trap.detail.contains("out of bounds"), "{}", trap.detail);
}

#[test]
fn every_job_finds_the_module_as_it_was_defined() {
    let pool = build(small(PRISTINE));
    let (first, _) = flushed_words(&pool, &Job::block(0, Vec::new()));
    let text = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    assert_eq!(first, [text(b"data"), 0, 7, 2, 1, 2, text(b"segm")]);
    for height in 1..10 {
        let (again, result) = flushed_words(&pool, &Job::block(height, vec![9; 100]));
        assert_eq!(again, first, "{result:?}");
    }
}

#[test]
fn imports_that_this_host_lacks_do_no_harm_until_they_are_called() {
    let imports = "(module
      (import \"env\" \"nobody_knows\" (func (param i64 f64) (result f32)))
      (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
      (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
      (import \"elsewhere\" \"__flush\" (func $not_ours (param i32)))";
    let pool = build(small(SCRIPT.replacen("(module", imports, 1)));
    assert_verdict(&pool, Act::Return, GuestVerdict::Incomplete);
    // A name of the ABI in another module is not the ABI.
    let module = SCRIPT
        .replacen("(module", imports, 1)
        .replace("(func $act_return)", "(func $act_return (call $not_ours (i32.const 48)))");
    let result = assert_verdict(&build(small(module)), Act::Return, GuestVerdict::Trap);
    assert!(result.detail.contains("`elsewhere.__flush`"), "{}", result.detail);
}

/// The one entry of a cache.
fn entry(cache: &Path) -> PathBuf {
    let listed = fs::read_dir(cache).expect("the cache was made");
    let entries: Vec<_> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let [entry] = entries.as_slice() else { panic!("one entry: {entries:?}") };
    entry.clone()
}

/// Builds a pool with this cache, checks that it works, and says where its compiled module came from.
fn origin(cache: &Path) -> ArtifactOrigin {
    let pool = build(small(SCRIPT).cache(Some(cache.to_owned())));
    assert_good_block(&pool, 1);
    pool.artifact_origin()
}

#[test]
fn a_compiled_module_is_kept_and_a_damaged_one_is_made_again() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("made by the pool");
    assert_eq!(origin(&cache), ArtifactOrigin::Compiled);
    assert_eq!(origin(&cache), ArtifactOrigin::Cached);
    let entry = entry(&cache);
    let intact = fs::read(&entry).unwrap();
    // In the header, its hash, the machine code; torn off; empty.
    let flip = |at: usize| {
        let mut damaged = intact.clone();
        damaged[at] ^= 0x10;
        damaged
    };
    let damages =
        [flip(0), flip(30), flip(intact.len() / 2), intact[..intact.len() / 2].to_vec(), Vec::new()];
    for damaged in damages {
        fs::write(&entry, &damaged).unwrap();
        assert_eq!(origin(&cache), ArtifactOrigin::Compiled);
        assert_eq!(origin(&cache), ArtifactOrigin::Cached, "and kept again");
    }
}

#[test]
fn what_was_compiled_for_one_setting_is_not_used_for_another() {
    let cache = tempfile::tempdir().unwrap();
    let origin = |module: &str, fuel, memory| {
        let builder = small(module).memory(memory).cache(Some(cache.path().to_owned()));
        let pool = build(builder.limits(Limits { fuel, ..Limits::default() }));
        assert_eq!(pairs(&call(&pool, &good_block(1))), [good_pair(1)]);
        pool.artifact_origin()
    };
    assert_eq!(origin(SCRIPT, None, MEMORY), ArtifactOrigin::Compiled);
    assert_eq!(origin(SCRIPT, Some(1 << 30), MEMORY), ArtifactOrigin::Compiled, "fuel is compiled in");
    assert_eq!(origin(&SCRIPT.replace("no_function", "none"), None, MEMORY), ArtifactOrigin::Compiled);
    // Neither the limit of memory nor that of fuel is.
    assert_eq!(origin(SCRIPT, None, 2 * MEMORY), ArtifactOrigin::Cached);
    assert_eq!(origin(SCRIPT, Some(1 << 31), MEMORY), ArtifactOrigin::Cached);
}

#[test]
fn a_pool_without_a_cache_compiles_every_time() {
    for _ in 0..2 {
        let pool = build(small(SCRIPT).cache(None));
        assert_eq!(pool.artifact_origin(), ArtifactOrigin::Compiled);
        assert_good_block(&pool, 1);
    }
}
