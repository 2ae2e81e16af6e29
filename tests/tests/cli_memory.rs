//! Too little memory, as a container has it: a small memory cgroup, and workers that want more than it allows. Whoever
//! refuses, the budget beforehand or the kernel in the middle, the command ends with 137 and says why, and the kernel
//! never kills the supervisor.

use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::{Cofferdam, Output, number, text};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// The two commands that commit memory.
fn commands(memory: &str) -> [Cofferdam<'static>; 2] {
    let run = Cofferdam::new(["run", "--json"]).with("--spares 0 --memory").arg(memory);
    [run, Cofferdam::new(["probe", "--memory"]).arg(memory)]
}

/// Has the sample indexer compiled and kept, so that it is not the compiler that runs out of memory.
fn compile() {
    Cofferdam::run().output().expect_code(0);
}

fn assert_reason(output: &Output, parts: &[&str]) {
    let reason = output.reason();
    for part in parts {
        assert!(reason.contains(part), "no {part:?} in {reason:?}\n{output}");
    }
    assert!(output.stdout().is_empty(), "nothing was indexed: {output}");
}

#[test]
fn the_budget_refuses_what_the_cgroup_does_not_allow() {
    let Some(cgroup) = ChildCgroup::limited_to(128 * MIB) else { return };
    for command in commands("512MiB") {
        let output = command.within(&cgroup).output().expect_code(137);
        let place = cgroup.directory().display().to_string();
        assert_reason(
            &output,
            &["1 worker needs", "512 MiB committed", &place, "allows 128 MiB", "--memory"],
        );
    }
    assert_eq!(cgroup.oom_kills(), 0, "it was known beforehand");
}

#[test]
fn without_the_budget_the_kernel_kills_the_worker_and_nobody_else() {
    compile();
    for commit in ["populate", "touch"] {
        for (number, command) in commands("512MiB").into_iter().enumerate() {
            let Some(cgroup) = ChildCgroup::limited_to(128 * MIB) else { return };
            let command = command.with("--skip-admission --commit").arg(commit).within(&cgroup);
            // The exit code of a process that ended by itself: one that was killed has none.
            let output = command.output().expect_code(137);
            let place = cgroup.directory().display().to_string();
            assert_reason(&output, &["memory not committed", "killed by the kernel", "SIGKILL", &place]);
            // The kernel's log where it may be read, else the count.
            let is_proven = ["Memory cgroup out of memory: Killed process", "oom_kill"];
            assert!(is_proven.iter().any(|words| output.reason().contains(words)), "{output}");
            assert!(cgroup.oom_kills() >= 1, "{commit}, command {number}: {output}");
        }
    }
}

#[test]
fn one_worker_too_many_is_one_too_many() {
    compile();
    let Some(cgroup) = ChildCgroup::limited_to(900 * MIB) else { return };
    let run = |arguments: &str| {
        let run = Cofferdam::new(["run", "--json", "--memory", "128MiB"]).with(arguments);
        run.within(&cgroup).output()
    };
    let refused = run("--workers 3 --spares 0").expect_code(137);
    assert_reason(&refused, &["3 workers need", "allows 900 MiB", "fewer workers"]);
    // Spares are for a host that has room for them: by default there are none where there is none.
    let output = run("").expect_code(0);
    assert_eq!(output.summary()["workers"].as_array().map(Vec::len), Some(1), "{output}");
    assert_eq!(cgroup.oom_kills(), 0);
}

#[test]
fn within_a_sufficient_limit_all_is_well() {
    compile();
    let Some(cgroup) = ChildCgroup::limited_to(1024 * MIB) else { return };
    let [run, probe] = commands("64MiB");
    let output = run.within(&cgroup).output().expect_code(0);
    assert_eq!(number(&output.summary(), "completed"), 440);
    let elsewhere = Cofferdam::new(["run", "--json", "--spares", "0", "--memory", "64MiB"]).output();
    assert_eq!(output.digest(), elsewhere.digest(), "a cgroup is no part of a result");
    probe.within(&cgroup).output().expect_code(0);
    assert_eq!(cgroup.oom_kills(), 0);
}

#[test]
fn a_probe_says_what_it_found() {
    let output = Cofferdam::new(["probe", "--json", "--memory", "64MiB"]).output().expect_code(0);
    let report = output.object();
    assert_eq!((&report["committed"], &report["reason"]), (&Value::from(true), &Value::Null));
    assert_eq!(number(&report, "memory_bytes"), 64 * MIB);
    assert!(number(&report, "resident_bytes") >= 64 * MIB, "{report}");
    let text_output =
        Cofferdam::new(["probe", "--memory", "64MiB", "--commit", "touch"]).output().expect_code(0);
    assert!(text_output.stdout().contains("bytes resident"), "{text_output}");

    let Some(cgroup) = ChildCgroup::limited_to(64 * MIB) else { return };
    let refused = Cofferdam::new(["probe", "--json", "--memory", "512MiB"]).within(&cgroup).output();
    let report = refused.expect_code(137).object();
    assert_eq!((&report["committed"], number(&report, "resident_bytes")), (&Value::from(false), 0));
    assert!(text(&report, "reason").contains("allows 64 MiB"), "{report}");
}

#[test]
fn the_doctor_says_how_many_workers_fit() {
    let Some(cgroup) = ChildCgroup::limited_to(900 * MIB) else { return };
    let ask = |arguments: &str| Cofferdam::new(["doctor"]).with(arguments).within(&cgroup).output();
    let fits = ask("--workers 1 --memory 64MiB --json");
    let report = fits.object();
    assert!(report.to_string().contains(&cgroup.directory().display().to_string()), "{report}");
    let too_many = ask("--workers 2 --memory 4GiB").expect_code(1);
    assert!(too_many.stdout().contains("900 MiB"), "{too_many}");
}
