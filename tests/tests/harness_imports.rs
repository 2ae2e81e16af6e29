//! Imports that a test supplies: how they are called, what their failures come to, what they do to the profile, and how
//! modules that they make non-deterministic are found out.

use std::fs::File;
use std::os::unix::process::parent_id;
use std::process::Command;

use cofferdam::harness::{Aspect, Harness, HarnessError, HostImport, ImportError, Session, Value};
use cofferdam::pool::Pool;
use cofferdam::verdict::{GuestVerdict, HostVerdict};
use cofferdam_test_skips::skip;
use cofferdam_tests::support::guests::{IMPORTS, SCRIPT, START_USES_IMPORT};
use cofferdam_tests::support::pool::MEMORY;

cofferdam::enable_test_support!(imports: [
    HostImport::new("test", "sum", sum),
    HostImport::new("test", "fill", fill),
    HostImport::new("test", "fails", |_, _| Err("the station is closed".to_owned())),
    HostImport::new("test", "wrong", |_, _| Ok(vec![Value::F32(1.0)])),
    HostImport::new("test", "pid", |_, _| Ok(vec![Value::I32(std::process::id().cast_signed())])),
    HostImport::new("test", "first", first),
    HostImport::new("test", "eat", eat),
]);

fn sum(_memory: &mut [u8], arguments: &[Value]) -> Result<Vec<Value>, String> {
    let [Value::I32(a), Value::I64(5), Value::F32(c), Value::F64(d)] = *arguments else {
        return Err(format!("{arguments:?}"));
    };
    Ok(vec![Value::F64(f64::from(a) + 5.0 + f64::from(c) + d)])
}

fn fill(memory: &mut [u8], arguments: &[Value]) -> Result<Vec<Value>, String> {
    let [Value::I32(at), Value::I32(length)] = *arguments else { return Err(format!("{arguments:?}")) };
    let [at, length] = [at, length].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    let place = memory.get_mut(at..).and_then(|rest| rest.get_mut(..length));
    place.ok_or("outside the memory")?.fill(b'!');
    Ok(Vec::new())
}

/// 1 for the first worker of this test binary that asks, 0 for every one after it.
fn first(_memory: &mut [u8], _arguments: &[Value]) -> Result<Vec<Value>, String> {
    let mark = std::env::temp_dir().join(format!("cofferdam-first-{}", parent_id()));
    let made = File::options().write(true).create_new(true).open(mark).is_ok();
    Ok(vec![Value::I32(made.into())])
}

/// Takes more memory than its host has.
fn eat(_memory: &mut [u8], _arguments: &[Value]) -> Result<Vec<Value>, String> {
    std::hint::black_box(vec![1u8; 256 << 20]);
    Ok(Vec::new())
}

fn imports() -> Harness {
    Harness::new(IMPORTS).memory(MEMORY)
}

fn start(harness: &Harness) -> Session {
    harness.start().expect("a small session starts")
}

#[test]
fn numbers_go_in_and_come_back() {
    start(&imports()).block("s").assert_writes(&[(b"k", &4.75f64.to_le_bytes())]);
}

#[test]
fn the_guests_memory_can_be_written() {
    start(&imports()).block("m").assert_writes(&[(b"k", b"!!!!!!!!")]);
}

#[test]
fn a_start_section_may_call_them_once_there_is_a_job() {
    let mut session = start(&Harness::new(START_USES_IMPORT).memory(MEMORY));
    for _ in 0..2 {
        session.block("").assert_writes(&[(b"k", b"!!!!!!!!")]);
    }
}

#[test]
fn what_is_wrong_with_one_is_a_trap_in_words() {
    let mut session = start(&imports());
    let failed = session.block("f").assert_verdict(GuestVerdict::Trap);
    assert_eq!(failed.result.detail, "the host import `test.fails` failed: the station is closed");
    let wrong = session.block("w").assert_verdict(GuestVerdict::Trap);
    let detail = "it returned (f32), and the module imports it with the results (i64)";
    assert_eq!(wrong.result.detail, format!("the host import `test.wrong` failed: {detail}"));
    session.block("s").assert_completed();
    assert_eq!(session.pool().health().deaths(), 0);
}

#[test]
fn what_is_not_registered_is_absent_as_ever() {
    let module = IMPORTS.replace("\"sum\"", "\"product\"");
    let absent = start(&Harness::new(module).memory(MEMORY)).block("s").assert_verdict(GuestVerdict::Trap);
    assert!(absent.result.detail.contains("`test.product`, which this host does not provide"), "{absent}");
}

#[test]
fn the_abi_cannot_be_replaced_and_nothing_can_be_registered_later() {
    let import = |module, name| HostImport::new(module, name, |_, _| Ok(Vec::new()));
    let abi = cofferdam::init_with(vec![import("env", "__get_len")]).unwrap_err();
    assert_eq!(abi, ImportError::Abi { module: "env", name: "__get_len" });
    let late = cofferdam::init_with(vec![import("env", "now")]).unwrap_err();
    assert_eq!(late, ImportError::Late);
}

#[test]
fn they_are_part_of_the_profile() {
    let profile = Pool::builder(SCRIPT).profile().unwrap();
    let names = r#" host-imports="test"."eat","test"."fails","test"."fill","test"."first","test"."pid","test"."sum","test"."wrong""#;
    assert!(profile.engine.ends_with(names), "{}", profile.engine);
    let mut without = profile.clone();
    without.engine = profile.engine.replace(names, "");
    assert_ne!(profile.hash(), without.hash());
}

#[test]
fn a_module_that_goes_another_way_is_found_out_by_its_fuel() {
    let error = imports().fuel(1 << 40).compare_runs(2, &["p"]).unwrap_err();
    let HarnessError::NotDeterministic(difference) = error else { panic!("{error}") };
    assert!(matches!(difference.what, Aspect::Fuel([Some(_), Some(_)])), "{difference}");
    assert_eq!(difference.runs[0].digest, difference.runs[1].digest, "nothing else shows it");
}

#[test]
fn different_verdicts_are_reported_with_both() {
    let error = imports().compare_runs(3, &["s", "o"]).unwrap_err();
    let _ =
        std::fs::remove_file(std::env::temp_dir().join(format!("cofferdam-first-{}", std::process::id())));
    let words = error.to_string();
    for part in [
        "the module is not deterministic: run 1 and run 2 differ at block 1 (1 bytes)\n",
        "the first difference: the verdicts differ\n    run 1: completed, the call completed\n    run 2: trap, the guest trapped: wasm trap",
        "the settings of the pools, which must not matter\n    run 1: commit populate, huge pages, reset adaptive, 1 worker",
        "run 2: commit touch, 4 KiB pages",
    ] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
}

#[test]
fn a_host_that_is_too_small_for_a_block_kills_the_worker() {
    // Enough for a worker with its arenas, and not for what the block takes.
    let mut session = match imports().host_memory(384 << 20).start() {
        Err(error) if error.is_no_host_limit() => return skip(error),
        started => started.expect("a worker fits"),
    };
    let outcome = session.block("e").assert_verdict(HostVerdict::OomKilled);
    assert!(outcome.result.detail.contains("SIGKILL"), "{outcome}");
    session.block("s").assert_completed();
}

#[test]
fn a_binary_with_a_refused_import_ends_with_a_sentence() {
    // The macro hands over to this function; here it is called in a process of its own, started for it.
    const CHILD: &str = "COFFERDAM_TEST_REFUSED_IMPORT";
    let import = HostImport::new("env", "__flush", |_, _| Ok(Vec::new()));
    if std::env::var_os(CHILD).is_some() {
        cofferdam::harness::__init_test(vec![import]);
        unreachable!("the import is refused");
    }
    let test = "a_binary_with_a_refused_import_ends_with_a_sentence";
    let this = std::env::current_exe().expect("a test knows its own path");
    let child = Command::new(this).args([test, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let child = child.expect("a test can be started again");
    assert_eq!(child.status.code(), Some(2));
    let words = String::from_utf8_lossy(&child.stderr);
    assert!(
        words.contains("enable_test_support!: the import `env.__flush` is part of the indexer ABI"),
        "{words}"
    );
}
