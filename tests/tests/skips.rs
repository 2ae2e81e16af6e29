//! `scripts/skips`, which ends a run of the tests: every skip is printed and counted, and with `CI=true` one that is not on
//! the list is a failure.

use std::path::PathBuf;
use std::process::{Command, Output};

use cofferdam_tests::support::command::{Files, repository};

const EXPECTED: &str = "# A reason.\n\nscripts/test: cargo-[a-z]+ is not installed.*\n";

fn skips(noted: &str, ci: bool) -> Output {
    let files = Files::new();
    let (noted, expected) = (files.add("noted", noted), files.add("expected", EXPECTED));
    run(&[noted, expected], ci)
}

fn run(arguments: &[PathBuf], ci: bool) -> Output {
    let mut command = Command::new(repository().join("scripts/skips"));
    command.args(arguments).env_remove("CI");
    if ci {
        command.env("CI", "true");
    }
    command.output().expect("bash is there")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn each_skip_is_printed_once_and_counted() {
    let output = skips("b::t: no disk\na::t: no cgroup\nb::t: no disk\n", false);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        said(&output),
        "skipped: a::t: no cgroup\nskipped: b::t: no disk\nskips: 2, not expected: 2\n"
    );
}

#[test]
fn with_ci_only_what_is_expected_may_be_skipped() {
    let expected = "scripts/test: cargo-deny is not installed (cargo install cargo-deny)\n";
    let output = skips(expected, true);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("skips: 1, not expected: 0"), "{}", said(&output));

    // A pattern is for the whole line.
    for other in ["verdicts::t: no cgroup\n", "x::y: scripts/test: cargo-deny is not installed\n"] {
        let output = skips(&format!("{expected}{other}"), true);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(&format!("not expected with CI=true: {other}")), "{}", said(&output));
    }
}

#[test]
fn a_run_without_skips_is_a_success() {
    let output = skips("", true);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), "skips: 0, not expected: 0\n"));
}

#[test]
fn a_file_of_skips_that_is_not_there_is_an_error() {
    let output = run(&[PathBuf::from("/dev/null/skips")], true);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
