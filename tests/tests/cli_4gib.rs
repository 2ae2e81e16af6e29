//! The figures of the request, at full size: 4 GiB committed, proven by the kernel's own count before the first block and
//! after the last, and 137 within seconds where they do not fit. One worker at a time, one test at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use cofferdam_test_skips::skip;
use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Output, cut_records, exclusively, number, record,
};
use cofferdam_tests::support::pool::resident_bytes;
use nix::unistd::{SysconfVar, sysconf};

const FOUR_GIB: u64 = 1 << 32;

/// Holds every other test of 4 GiB off, in this process and in others. None, with a skip that says why, if this machine has
/// no room for one, or if `scripts/test --quick` asked to leave them out.
fn room(needed: u64) -> Option<std::fs::File> {
    if std::env::var_os("COFFERDAM_SKIP_4GIB").is_some() {
        skip("COFFERDAM_SKIP_4GIB is set: nothing of 4 GiB is committed");
        return None;
    }
    let lock = exclusively("4gib");
    let of = |what| sysconf(what).ok().flatten().and_then(|number| u64::try_from(number).ok());
    let memory =
        of(SysconfVar::_AVPHYS_PAGES).zip(of(SysconfVar::PAGE_SIZE)).map(|(pages, size)| pages * size);
    if memory >= Some(needed) {
        return Some(lock);
    }
    skip(format_args!("{needed} bytes of free memory are needed, and there are {memory:?}"));
    None
}

/// What one worker with default settings needs, and some more for the test beside it.
const ONE_WORKER: u64 = 5 << 30;

fn cgroup(gib: u64) -> Option<ChildCgroup> {
    ChildCgroup::limited_to(gib << 30)
}

fn assert_committed(output: &Output) {
    let summary = output.summary();
    let workers = summary["workers"].as_array().expect("a list");
    assert!(!workers.is_empty(), "{summary}");
    for worker in workers {
        assert!(number(worker, "resident_bytes") >= FOUR_GIB, "{worker}");
        if let Some(now) = worker["resident_now_bytes"].as_u64() {
            assert!(now >= FOUR_GIB, "at the end of the run: {worker}");
        }
    }
}

#[test]
fn in_512_mib_it_ends_with_137_within_seconds() {
    let _lock = exclusively("4gib");
    for command in ["run", "probe"] {
        for arguments in ["", "--skip-admission"] {
            let Some(cgroup) = ChildCgroup::limited_to(512 << 20) else { return };
            let started = Instant::now();
            let command = Cofferdam::new([command]).with(arguments).within(&cgroup);
            let output = command.output().expect_code(137);
            // Not about speed: it must not grind on for as long as a deadline or a start takes.
            assert!(started.elapsed() < Duration::from_mins(1), "{output}");
            let place = cgroup.directory().display().to_string();
            assert!(output.reason().contains(&place), "{output}");
            if arguments.is_empty() {
                assert!(output.reason().contains("allows 512 MiB"), "{output}");
                assert_eq!(cgroup.oom_kills(), 0, "{output}");
            } else {
                assert!(output.reason().contains("killed by the kernel"), "{output}");
                assert!(cgroup.oom_kills() >= 1, "{output}");
            }
        }
    }
}

#[test]
fn in_8_gib_everything_runs_with_default_settings() {
    let Some(_lock) = room(ONE_WORKER) else { return };
    let Some(cgroup) = cgroup(8) else { return };
    let output = Cofferdam::new(["run", "--json"]).within(&cgroup).output().expect_code(0);
    assert_eq!(number(&output.summary(), "completed"), 440, "{output}");
    assert_eq!(output.summary()["workers"].as_array().map(Vec::len), Some(1), "8 GiB are for one worker");
    assert_committed(&output);
    assert_eq!(cgroup.oom_kills(), 0);
}

/// The kernel's count of a worker's own memory; none, loudly, if this user may not read it.
fn resident(worker: u32) -> Option<u64> {
    if std::fs::read(Path::new("/proc").join(worker.to_string()).join("smaps_rollup")).is_err() {
        skip("the kernel does not show this user the memory of its workers");
        return None;
    }
    Some(resident_bytes(worker))
}

#[test]
fn the_memory_stays_committed_from_the_first_block_to_the_last() {
    let Some(_lock) = room(ONE_WORKER) else { return };
    let mut run = Cofferdam::new(["run", "--json", "--spares", "0", "--blocks", "-"]).open_stdin().start();
    let blocks = cut_records(EARLY_RECORDS);
    let mut looks = Vec::new();
    for (height, block) in blocks[..200].iter().enumerate() {
        run.feed(&record(block));
        let line = run.next_line();
        assert_eq!(line["verdict"], "completed", "{line}");
        if [0, 1, 100, 199].contains(&height) {
            let worker = u32::try_from(number(&line, "worker_pid")).expect("a process id");
            assert_eq!(run.workers(), [worker]);
            looks.extend(resident(worker).map(|bytes| (height, bytes)));
        }
    }
    let output = run.finish().expect_code(0);
    assert_committed(&output);
    assert!(looks.iter().all(|(_, bytes)| *bytes >= FOUR_GIB), "height, bytes: {looks:?}");
    // A guest uses little of it, so what is there beside it is little too.
    assert!(looks.iter().all(|(_, bytes)| *bytes < FOUR_GIB + (128 << 20)), "height, bytes: {looks:?}");
}

#[test]
fn a_probe_commits_4_gib() {
    let Some(_lock) = room(ONE_WORKER) else { return };
    let report = Cofferdam::new(["probe", "--json"]).output().expect_code(0).object();
    assert_eq!(number(&report, "memory_bytes"), FOUR_GIB, "{report}");
    assert!(number(&report, "resident_bytes") >= FOUR_GIB, "{report}");
}
