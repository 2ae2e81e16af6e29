//! Faults that were found once by reading, each kept from coming back by one test.

use std::fs;
use std::time::Duration;

use cofferdam::pool::{ArtifactOrigin, Job, MAX_EXPORT_BYTES, PoolError};
use cofferdam::profile::Hash;
use cofferdam_tests::support::command::{Cofferdam, Files, guest, number};
use cofferdam_tests::support::guests::SCRIPT;
use cofferdam_tests::support::pool::{
    assert_good_block, assert_retried, build, call, limits, send, small, wait_until, workers,
};
use nix::sys::signal::Signal;

cofferdam::enable_test_support!();

/// A start that was repeated because the cache held what no worker loads left the pool without patience: the first
/// time that no worker was idle, it said that none would ever be.
#[test]
fn a_pool_that_had_to_compile_again_bears_the_death_of_its_worker() {
    let cache = tempfile::tempdir().unwrap();
    let pool = || build(small(SCRIPT).cache(Some(cache.path().to_owned())));
    drop(pool());
    let entry = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let artifact = b"intact by its hash, and no machine code".as_slice();
    fs::write(&entry, [b"cofferdam artifact 1\n".as_slice(), &Hash::of(artifact).0, artifact].concat())
        .unwrap();
    let pool = pool();
    assert_eq!(pool.artifact_origin(), ArtifactOrigin::Compiled);
    let first = workers(&pool)[0];
    send(first, Signal::SIGKILL);
    assert_good_block(&pool, 1);
    assert_ne!(workers(&pool)[0], first);
}

/// A name that fits no frame was taken for a worker's fault, and cost three workers.
#[test]
fn a_view_with_an_endless_name_costs_no_worker() {
    let pool = build(small(SCRIPT));
    let before = workers(&pool);
    let job = |bytes| Job::view("v".repeat(bytes), 1, Vec::new());
    let refused = pool.call(&job(MAX_EXPORT_BYTES + 1)).unwrap_err();
    assert!(matches!(refused, PoolError::ExportName { bytes } if bytes == MAX_EXPORT_BYTES + 1), "{refused}");
    assert_eq!(call(&pool, &job(MAX_EXPORT_BYTES)).verdict.name(), "no-such-export");
    assert_eq!(workers(&pool), before);
}

/// The last instant that a clock knows came before it.
#[test]
fn times_beyond_all_clocks_are_times() {
    let pool = build(small(SCRIPT).limits(limits(Duration::MAX, 0)).start_timeout(Duration::MAX));
    assert_good_block(&pool, 1);
    assert!(pool.drain(Duration::MAX));
}

/// Tables of references made the engine ask for a second memory, and every job killed its worker.
#[test]
fn a_module_with_a_table_of_references_runs() {
    let text = r#"(module (import "env" "__flush" (func $flush (param i32))) (memory (export "memory") 1)
        (table 8 externref) (func (export "_start")
          (table.set (i32.const 3) (ref.null extern)) (call $flush (i32.const 8))))"#;
    let pool = build(small(text));
    for height in 0..3 {
        let result = call(&pool, &Job::block(height, vec![0; 80]));
        assert!(result.verdict.is_completed() && result.attempts() == 1, "{result:?}");
    }
}

/// A flush was copied onto memory that nobody had committed, so that its size decided who could run it.
#[test]
fn a_flush_as_large_as_the_memory_takes_no_memory_of_the_worker() {
    // 48 MiB of fields without bytes: 24 Mi pairs' halves, of 8 bytes each in the output.
    let text = r#"(module (import "env" "__flush" (func $flush (param i32))) (memory (export "memory") 800)
        (func (export "_start") (local $at i32)
          (i32.store (i32.const 12) (i32.const 50331648))
          (local.set $at (i32.const 16))
          (loop $fill
            (i32.store16 (local.get $at) (i32.const 0x000a))
            (local.set $at (i32.add (local.get $at) (i32.const 2)))
            (br_if $fill (i32.lt_u (local.get $at) (i32.const 50331664))))
          (call $flush (i32.const 16))))"#;
    let pool = build(small(text).memory(64 << 20));
    let result = call(&pool, &Job::block(0, vec![0; 80]));
    assert_eq!((result.verdict.name(), result.attempts()), ("completed", 1), "{}", result.detail);
    assert_eq!(result.writes().count(), 12 << 20);
    let peak = fs::read_to_string(format!("/proc/{}/status", result.worker.pid)).unwrap();
    let peak =
        peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    // The memory, the arenas for input (32 MiB) and output (128 MiB), which are committed whole, and the program. A copy of the
    // fields would be 96 MiB more.
    assert!(peak.parse::<u64>().unwrap() < (64 + 32 + 128 + 72) * 1024, "{peak} kB at the peak");
}

/// Workers that had been killed while idle used up the attempts of the first block that met them.
#[test]
fn dead_idle_workers_are_no_attempts() {
    let pool = build(small(SCRIPT).spares(4).limits(limits(Duration::from_secs(60), 0)));
    for pid in workers(&pool) {
        send(pid, Signal::SIGKILL);
    }
    let result = assert_good_block(&pool, 1);
    assert_retried(&result, 0, cofferdam::verdict::HostVerdict::Killed);
}

/// A signal did not end the retries of a block that would have been retried for minutes.
#[test]
fn sigterm_ends_retries() {
    let scratch = Files::new();
    let blocks = ["a", "b"].map(|name| scratch.add(name, name));
    let mut run = Cofferdam::new(["run", "--json", "--opaque", "--memory", "16MiB", "--deadline", "3s"])
        .with("--spares 0 --retries 1000")
        .path("--module", &guest("loops_at_1.wat"))
        .path("--blocks", &blocks[0])
        .arg(&blocks[1])
        .start();
    assert_eq!(number(&run.next_line(), "height"), 0);
    wait_until("the second block runs", || (!run.workers().is_empty()).then_some(()));
    run.signal(Signal::SIGTERM);
    let output = run.finish().expect_code(1);
    let summary = output.summary();
    assert_eq!((number(&summary, "blocks"), &summary["interrupted"]), (1, &true.into()), "{output}");
}

/// A supervisor started with a small stack gave its workers one that they could not live on.
#[test]
fn a_small_stack_of_the_shell_is_not_the_workers() {
    let mut shell = std::process::Command::new("sh");
    let run = "ulimit -S -s 512 && exec \"$0\" run --json --memory 16MiB --spares 0";
    let output =
        shell.args(["-c", run]).arg(cofferdam_tests::support::command::cofferdam()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A program that ignores SIGCHLD cannot see its workers die.
#[test]
fn a_program_that_ignores_sigchld_is_told() {
    let output = std::process::Command::new("env")
        .arg("--ignore-signal=CHLD")
        .arg(cofferdam_tests::support::command::cofferdam())
        .args(["run", "--memory", "16MiB", "--spares", "0"])
        .output()
        .unwrap();
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && reason.contains("SIGCHLD"), "{:?}: {reason}", output.status);
}
