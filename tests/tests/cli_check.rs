//! `cofferdam check` as a user starts it: real limits of host memory, one digest where memory is committed, and a death
//! in the middle of a block where it is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_test_skips::skip;
use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::{Cofferdam, Output, cofferdam, number, text};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A module that uses so many bytes of its memory, in a directory with two blocks for it.
struct Case {
    directory: TempDir,
}

impl Case {
    fn using(bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let module = include_str!("../guests/three_gib.wat")
            .replace("49151", &(bytes / 65536 - 1).to_string())
            .replace("0xc0000000", &bytes.to_string());
        let case = Self { directory };
        fs::write(case.path("module.wat"), module).expect("it can be written");
        for block in [1u32, 2] {
            fs::write(case.path(&block.to_string()), block.to_le_bytes()).expect("it can be written");
        }
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn check(&self) -> Cofferdam<'static> {
        let check = Cofferdam::new(["check"]).arg(self.path("module.wat"));
        let check = check.with("--opaque --memory 128MiB").arg("--blocks").arg(self.path("1"));
        check.arg(self.path("2"))
    }
}

const MIB: u64 = 1 << 20;

/// Whether limits can be made here at all; says loudly if not.
fn limits_can_be_made() -> bool {
    ChildCgroup::limited_to(64 * MIB).is_some()
}

/// What became of the cell with this limit in this column.
fn cell<'a>(report: &'a Value, host: u64, pool: &str) -> &'a Value {
    let cells = report["cells"].as_array().expect("cells");
    let is_it = |cell: &&Value| number(cell, "host_memory_bytes") == host && text(cell, "pool") == pool;
    cells.iter().find(is_it).unwrap_or_else(|| panic!("no cell {host} {pool}: {report}"))
}

#[test]
fn committed_memory_gives_one_digest_or_137_at_start() {
    if !limits_can_be_made() {
        return;
    }
    let case = Case::using(96 * MIB);
    for decided_by in ["", "--skip-admission"] {
        let check = case.check().with("--json --host-memory 80MiB,1GiB").with(decided_by);
        let report = check.output().expect_code(0).object();
        assert_eq!((&report["agreed"], &report["complete"]), (&Value::from(true), &Value::from(true)));
        let cells = report["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), 6, "two limits, three settings: {report}");
        for cell in cells {
            match number(cell, "host_memory_bytes") / MIB {
                80 => assert_eq!(text(cell, "outcome"), "not-committed", "{cell}"),
                _ => {
                    assert_eq!(text(cell, "outcome"), "indexed", "{cell}");
                    assert_eq!(cell["verdicts"]["completed"], Value::from(2), "{cell}");
                    assert_eq!(cell["digest"], report["digest"], "{cell}");
                }
            }
        }
        // That the limit was real, the kernel says: without the budget it had to kill.
        let killed = number(cell(&report, 80 * MIB, "workers=1,spares=0"), "oom_kills") > 0;
        assert_eq!(killed, !decided_by.is_empty(), "{report}");
    }
}

#[test]
fn memory_that_is_not_committed_dies_in_the_middle_of_a_block() {
    if !limits_can_be_made() {
        return;
    }
    let case = Case::using(96 * MIB);
    let junit = case.path("junit.xml");
    let check = || case.check().with("--uncommitted --host-memory 80MiB,1GiB --pool workers=1,spares=0");
    let report = check().with("--json").path("--junit", &junit).output().expect_code(1).object();
    assert_eq!(report["agreed"], Value::from(false));
    let died = cell(&report, 80 * MIB, "uncommitted");
    assert_eq!((text(died, "outcome").as_str(), number(died, "height")), ("in-block", 0), "{died}");
    assert!(text(died, "reason").contains("SIGKILL, by the kernel"), "{died}");
    let cure = cell(&report, 80 * MIB, "workers=1,spares=0");
    assert_eq!(text(cure, "outcome"), "not-committed", "{cure}");
    // Where there is memory, there is no difference.
    let (ours, theirs) =
        (cell(&report, 1024 * MIB, "workers=1,spares=0"), cell(&report, 1024 * MIB, "uncommitted"));
    assert_eq!((&ours["digest"], text(ours, "outcome").as_str()), (&theirs["digest"], "indexed"), "{report}");

    let xml = fs::read_to_string(&junit).expect("the report was written");
    assert!(xml.contains(r#"tests="5" skipped="0" failures="2""#) && xml.contains("not agreed"), "{xml}");
    assert!(
        xml.contains(r#"name="80 MiB, uncommitted""#) && xml.contains("died in the middle of block 0"),
        "{xml}"
    );

    let output = check().output().expect_code(1);
    let printed = output.stdout();
    for part in ["137 at start", "DIED IN BLOCK 0", "2 completed", "NOT agreed"] {
        assert!(printed.contains(part), "no {part:?} in {printed}");
    }
}

#[test]
fn the_uncommitted_way_gives_the_same_result_where_memory_is_there() {
    let ordinary =
        Cofferdam::new(["run", "--json", "--uncommitted", "--memory", "16MiB"]).output().expect_code(0);
    let pool = Cofferdam::run().output().expect_code(0);
    assert_eq!(ordinary.digest(), pool.digest());
    assert_eq!(number(&ordinary.summary(), "completed"), 440);
    // And at the limit of the module's memory, where no host plays a part.
    let grows = Case::using(96 * MIB);
    let exhausted = |arguments: &str| -> Output {
        let run = Cofferdam::new(["run", "--json", "--opaque", "--memory", "64MiB"]).with(arguments);
        run.path("--module", &grows.path("module.wat"))
            .path("--blocks", &grows.path("1"))
            .output()
            .expect_code(1)
    };
    for arguments in ["--uncommitted", "--spares 0"] {
        let output = exhausted(arguments);
        assert_eq!(output.summary()["verdicts"]["memory-exhausted"], Value::from(1), "{output}");
    }
}

#[test]
fn where_nothing_could_be_checked_it_does_not_pass() {
    if !limits_can_be_made() {
        return;
    }
    let case = Case::using(MIB);
    let junit = case.path("junit.xml");
    let check = case.check().with("--host-memory 64MiB").path("--junit", &junit);
    let output = check.output().expect_code(137);
    assert!(output.stdout().contains("nothing was checked"), "{output}");
    let xml = fs::read_to_string(&junit).expect("the report was written");
    assert!(xml.contains(r#"failures="1""#) && xml.contains("nothing was checked"), "{xml}");
}

#[test]
fn a_block_that_cannot_be_read_is_no_agreement() {
    if !limits_can_be_made() {
        return;
    }
    let case = Case::using(MIB);
    let blocks =
        cofferdam::blocks::bundled().expect("the bundled blocks").map(|block| block.expect("a good block"));
    let mut check = Cofferdam::new(["check"]).arg(case.path("module.wat"));
    check = check.with("--json --memory 128MiB --host-memory 1GiB --check-chain --blocks");
    // One is missing before the last: found out when its turn comes.
    for block in blocks.take(4).filter(|block| block.height != 2) {
        let path = case.path(&format!("block-{}", block.height));
        fs::write(&path, &block.bytes).expect("it can be written");
        check = check.arg(path);
    }
    let report = check.output().expect_code(1).object();
    assert_eq!(report["agreed"], Value::from(false), "{report}");
    let cell = cell(&report, 1024 * MIB, "workers=1,spares=0");
    assert_eq!(text(cell, "outcome"), "failed", "{cell}");
    assert!(text(cell, "reason").contains("as the block before it"), "{cell}");
}

#[test]
fn where_no_cgroup_can_be_made_it_says_so_and_ends_with_2() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can become somebody who may make no cgroup");
    }
    // Where anybody can read it.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let binary = directory.path().join("cofferdam");
    fs::copy(cofferdam(), &binary).expect("the binary can be copied");
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), world).expect("it is ours");
    let run =
        Command::new("setpriv").args(["--reuid=65534", "--clear-groups"]).arg(&binary).arg("check").output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return skip(format_args!("setpriv (util-linux) cannot be started: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("a memory cgroup with a limit cannot be made here"), "{said}");
    assert!(output.stdout.is_empty(), "no matrix is pretended");
}

#[test]
fn what_cannot_be_checked_is_refused_before_anything_is_run() {
    let wrong = |arguments: &str| Cofferdam::new(["check"]).with(arguments).output();
    assert!(wrong("--blocks -").expect_code(2).reason().contains("standard input can be read only once"));
    assert!(wrong("--pool memory=1GiB").expect_code(2).stderr.contains("huge-pages"));
    wrong("--host-memory much").expect_code(2);
    wrong("/nonexistent.wasm").expect_code(1);
    wrong("--blocks /nonexistent").expect_code(1);
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    if !limits_can_be_made() {
        return;
    }
    let case = Case::using(96 * MIB);
    let spin = "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l (br $l))))";
    fs::write(case.path("module.wat"), spin).expect("it can be written");
    let running = case.check().with("--json --host-memory 1GiB").start();
    running.await_workers(1);
    running.signal(Signal::SIGTERM);
    let report = running.finish().expect_code(1).object();
    assert_eq!((&report["complete"], &report["agreed"]), (&Value::from(false), &Value::from(false)));
    assert_eq!(leftovers(), Vec::<PathBuf>::new());
}

/// Cgroups of commands that have ended.
fn leftovers() -> Vec<PathBuf> {
    let Ok(own) = cofferdam::host::cgroup::Cgroup::discover() else { return Vec::new() };
    // On v2 they may have been made beside it.
    let places = [Some(own.dir()), own.dir().parent()].into_iter().flatten();
    let entries = places.filter_map(|place| fs::read_dir(place).ok()).flatten();
    let left = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pid = name.strip_prefix("cofferdam-").and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(left).collect()
}
