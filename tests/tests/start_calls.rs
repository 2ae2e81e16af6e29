//! Each system call of the start, refused as a seccomp profile refuses it: it is done without, or it is named.

use std::process::{Command, Output};

use cofferdam_tests::support::command::cofferdam;
use cofferdam_tests::support::seccomp::Refused;
use nix::errno::Errno;
use nix::libc;
use serde_json::Value;

/// What becomes of a start without a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// It does without.
    Works,
    /// It fails, and its reason names this.
    Names(&'static str),
}
use Start::{Names, Works};

/// Flags of `std::fs::write`, which is how the OOM score is written, and nothing else of a start.
const WRITE_FLAGS: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
/// `PAGEMAP_SCAN` of linux/fs.h.
const PAGEMAP_SCAN: u32 = 0xc060_6610;

const fn low(value: i32) -> u32 {
    value.cast_unsigned()
}

fn calls() -> Vec<(&'static str, Refused, Start)> {
    let call = Refused::call;
    let with = Refused::with;
    vec![
        ("close_range", call(libc::SYS_close_range), Works),
        ("populating memory for writes", with(libc::SYS_madvise, 2, low(libc::MADV_POPULATE_WRITE)), Works),
        ("populating memory for reads", with(libc::SYS_madvise, 2, low(libc::MADV_POPULATE_READ)), Works),
        ("asking for huge pages", with(libc::SYS_madvise, 2, low(libc::MADV_HUGEPAGE)), Works),
        ("forbidding to merge pages", with(libc::SYS_madvise, 2, low(libc::MADV_UNMERGEABLE)), Works),
        ("all advice", call(libc::SYS_madvise), Works),
        ("mincore", call(libc::SYS_mincore), Works),
        ("userfaultfd", call(libc::SYS_userfaultfd), Works),
        ("scanning the page map", with(libc::SYS_ioctl, 1, PAGEMAP_SCAN), Works),
        ("robust futexes", call(libc::SYS_set_robust_list), Works),
        ("writing the OOM score", with(libc::SYS_openat, 2, low(WRITE_FLAGS)), Works),
        ("the number of processors", call(libc::SYS_sched_getaffinity), Works),
        ("random numbers", call(libc::SYS_getrandom), Works),
        ("statx", call(libc::SYS_statx), Works),
        ("waitid", call(libc::SYS_waitid), Works),
        ("rseq", call(libc::SYS_rseq), Works),
        ("membarrier", call(libc::SYS_membarrier), Works),
        ("memfd_create", call(libc::SYS_memfd_create), Names("memfd_create")),
        ("seals", with(libc::SYS_fcntl, 1, low(libc::F_ADD_SEALS)), Names("F_ADD_SEALS")),
        ("pipe2", call(libc::SYS_pipe2), Names("pipe2")),
        ("eventfd2", call(libc::SYS_eventfd2), Names("eventfd2")),
        ("prctl", call(libc::SYS_prctl), Names("prctl")),
        ("prlimit64", call(libc::SYS_prlimit64), Names("prlimit64")),
    ]
}

fn run(refused: &Refused, errno: Errno, arguments: &[&str]) -> Output {
    let mut command = Command::new(cofferdam());
    command.args(arguments).env_remove("COFFERDAM_CACHE_DIR");
    refused.by(errno, &mut command).output().expect("it starts")
}

#[test]
fn a_refused_call_is_done_without_or_named_and_the_doctor_agrees() {
    let mut wrong = Vec::new();
    for (name, refused, expected) in calls() {
        for errno in [Errno::EPERM, Errno::ENOSYS] {
            let probe = run(&refused, errno, &["probe", "--memory", "16MiB"]);
            let reason = String::from_utf8_lossy(&probe.stderr).into_owned();
            let as_expected = match expected {
                Works => probe.status.success(),
                Names(part) => probe.status.code().is_some_and(|code| code != 0) && reason.contains(part),
            };
            if !as_expected {
                wrong.push(format!("{name}, {errno}: {expected:?}, but probe: {}: {reason}", probe.status));
            }
            let doctor = run(&refused, errno, &["doctor", "--memory", "16MiB", "--workers", "1", "--json"]);
            let report: Value = serde_json::from_slice(&doctor.stdout).unwrap_or_default();
            let bad =
                report["findings"].as_array().into_iter().flatten().any(|finding| finding["level"] == "bad");
            if report.is_null() || bad == (expected == Works) {
                wrong.push(format!("{name}, {errno}: {expected:?}, but doctor: {}: {report}", doctor.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// glibc falls back to clone only where clone3 is unknown (ENOSYS); the profiles of Docker before 20.10.10 say EPERM.
#[test]
fn without_clone3_it_starts_or_says_that_no_thread_can_be_made() {
    let refused = Refused::call(libc::SYS_clone3);
    let arguments = ["probe", "--memory", "16MiB"];
    assert!(run(&refused, Errno::ENOSYS, &arguments).status.success());
    let probe = run(&refused, Errno::EPERM, &arguments);
    let reason = String::from_utf8_lossy(&probe.stderr).into_owned();
    assert!(probe.status.code().is_some_and(|code| code != 0) && reason.contains("clone3"), "{reason}");
    let doctor = run(&refused, Errno::EPERM, &["doctor", "--memory", "16MiB", "--workers", "1"]);
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.code() == Some(1) && report.contains("refused: clone3"), "{report}");
}

/// `ulimit -v`: what is reserved is named, with the limit.
#[test]
fn a_limit_on_addresses_is_named_by_everything_that_reserves_some() {
    let blocks = tempfile::tempdir().expect("a directory");
    let store = blocks.path().join("store");
    let store = store.to_str().expect("a path in UTF-8");
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/chain.wat");
    let limited = |kilobytes: u64, arguments: &[&str]| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -v {kilobytes}; exec \"$@\"");
        command.args(["-c", &script, "sh"]).arg(cofferdam()).args(arguments).output().expect("it starts")
    };
    let small = ["--memory", "16MiB", "--spares", "0"];
    for (kilobytes, arguments) in [
        (4 << 20, vec!["probe", "--memory", "16MiB"]),
        (4 << 20, [&["run"][..], &small].concat()),
        (16 << 20, [&["run", "--db-path", store][..], &small].concat()),
        (4 << 20, [&["serve", module, "--listen", "127.0.0.1:0"][..], &small].concat()),
        (
            16 << 20,
            vec!["node", "--indexer", module, "--db-path", store, "--daemon-rpc-url", "http://127.0.0.1:1"],
        ),
    ] {
        let output = limited(kilobytes, &arguments);
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|code| code != 0), "{arguments:?}: {reason}");
        assert!(reason.contains("RLIMIT_AS") && reason.contains("ulimit -v"), "{arguments:?}: {reason}");
    }
    for kilobytes in [4 << 20, 16 << 20] {
        let doctor = limited(kilobytes, &["doctor", "--memory", "16MiB", "--workers", "1"]);
        let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(doctor.status.code() == Some(1) && report.contains("RLIMIT_AS"), "{report}");
    }
    // What reserves no more than it may still runs.
    let enough = limited(16 << 20, &["probe", "--memory", "16MiB"]);
    assert!(enough.status.success(), "{}", String::from_utf8_lossy(&enough.stderr));
}
