//! `cofferdam run` over the bundled blocks: what it prints is what is documented, the digest is what its definition says,
//! and nothing about the machine or the pool shows in it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use bitcoin::consensus::deserialize;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cache, cofferdam, cut_records, extend_digest, number, text,
};
use serde_json::Value;

const BLOCK_FIELDS: [&str; 15] = [
    "height",
    "hash",
    "block_bytes",
    "verdict",
    "detail",
    "attempts",
    "worker_pid",
    "writes",
    "writes_sha256",
    "digest",
    "exec_us",
    "overhead_us",
    "reset_us",
    "memory_bytes",
    "dirty_bytes",
];
const SUMMARY_FIELDS: [&str; 8] =
    ["blocks", "completed", "failed", "digest", "profile", "workers", "overhead_us", "deaths"];
const WORKER_FIELDS: [&str; 4] = ["pid", "commit_ms", "resident_bytes", "commit"];

fn bundled(arguments: &str) -> Output {
    Cofferdam::new(["run", "--json", "--memory", "64MiB"]).with(arguments).output().expect_code(0)
}

fn assert_fields(object: &Value, expected: &[&str]) {
    let fields: BTreeSet<_> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    let missing: Vec<_> = expected.iter().filter(|field| !fields.contains(*field)).collect();
    assert!(missing.is_empty(), "{missing:?} missing in {object}");
}

/// Every bundled block, in order.
fn bundled_blocks() -> Vec<Vec<u8>> {
    let mut blocks = cut_records(EARLY_RECORDS);
    let late = cofferdam::blocks::bundled().expect("the bundled blocks are there").last();
    blocks.push(late.expect("there is a last one").expect("it is intact").bytes);
    blocks
}

#[test]
fn every_bundled_block_completes_and_is_reported_in_full() {
    let output = bundled("");
    let (lines, summary) = (output.blocks(), output.summary());
    assert_eq!(output.heights(), (0..439).chain([702_861]).collect::<Vec<_>>());
    for line in &lines {
        assert_fields(line, &BLOCK_FIELDS);
        assert_eq!((text(line, "verdict").as_str(), number(line, "attempts")), ("completed", 1), "{line}");
        assert_eq!(text(line, "detail"), "", "{line}");
        assert!(number(line, "writes") > 0 && number(line, "worker_pid") > 0, "{line}");
        assert!(line["exec_us"].as_f64() > Some(0.0) && line["overhead_us"].as_f64() > Some(0.0), "{line}");
        assert!(number(line, "memory_bytes") >= 1 << 16, "{line}");
    }
    // The last reports may be overtaken by the end of the run; most are not.
    assert!(lines.iter().filter(|line| line["reset_us"].is_f64()).count() > 400, "{output}");
    let dirty: Vec<_> = lines.iter().filter_map(|line| line["dirty_bytes"].as_u64()).collect();
    assert!(dirty.iter().any(|bytes| *bytes > 0), "no block is said to have written memory: {output}");

    assert_fields(&summary, &SUMMARY_FIELDS);
    let counts = ["blocks", "completed", "failed", "deaths", "skipped"].map(|field| number(&summary, field));
    assert_eq!(counts, [440, 440, 0, 0, 0]);
    assert_eq!((&summary["tip"], &summary["interrupted"]), (&Value::from(702_861), &Value::from(false)));
    let overhead = ["p50", "p99", "max"].map(|field| summary["overhead_us"][field].as_f64());
    assert!(overhead[0] > Some(0.0) && overhead.is_sorted(), "{summary}");
    let workers = summary["workers"].as_array().expect("a list");
    assert!(!workers.is_empty(), "{summary}");
    for worker in workers {
        assert_fields(worker, &WORKER_FIELDS);
        assert!(number(worker, "resident_bytes") >= 64 << 20, "{worker}");
    }
    let known: BTreeSet<_> = workers.iter().map(|worker| number(worker, "pid")).collect();
    let seen: BTreeSet<_> = lines.iter().map(|line| number(line, "worker_pid")).collect();
    assert!(seen.is_subset(&known), "{seen:?} did the blocks, of {known:?}");
}

#[test]
fn the_digest_is_what_its_definition_says() {
    let output = bundled("--spares 0");
    let summary = output.summary();
    let (lines, blocks) = (output.blocks(), bundled_blocks());
    assert_eq!(lines.len(), blocks.len());
    let mut digest = text(&summary, "profile");
    for (line, bytes) in lines.iter().zip(&blocks) {
        let block: bitcoin::Block = deserialize(bytes).expect("a block");
        assert_eq!(text(line, "hash"), block.block_hash().to_string());
        assert_eq!(number(line, "block_bytes"), bytes.len() as u64);
        digest = extend_digest(&digest, bytes, line);
        assert_eq!(text(line, "digest"), digest, "at height {}", line["height"]);
    }
    assert_eq!(text(&summary, "digest"), digest);
}

#[test]
fn the_digest_depends_on_nothing_about_the_pool() {
    let expected = bundled("--spares 0");
    let variants = [
        "--workers 4 --spares 0",
        "--commit populate --spares 1",
        "--commit touch --spares 0",
        "--huge-pages off --spares 0",
        "--commit touch --huge-pages off --spares 2 --workers 2",
        "--spares 2 --no-cache",
    ];
    for arguments in variants {
        let output = bundled(arguments);
        assert_eq!(output.digest(), expected.digest(), "{arguments}");
        let digests = |output: &Output| -> Vec<_> {
            output.blocks().iter().map(|line| (text(line, "digest"), text(line, "writes_sha256"))).collect()
        };
        assert_eq!(digests(&output), digests(&expected), "{arguments}");
    }
    // The limit is part of the profile, so it must show.
    let other = Cofferdam::run().with("--memory 128MiB").output();
    assert_eq!(other.code(), 2, "an option given twice: {other}");
    let other =
        Cofferdam::new(["run", "--json", "--memory", "128MiB", "--spares", "0"]).output().expect_code(0);
    assert_ne!(other.digest(), expected.digest());
}

#[test]
fn the_number_of_workers_does_not_show_in_the_digest() {
    let output = bundled("--workers 4 --spares 0");
    assert_eq!(output.digest(), bundled("--spares 0").digest());
}

#[test]
fn people_get_a_table() {
    let output = Cofferdam::new(["run", "--memory", "64MiB", "--spares", "0"]).output().expect_code(0);
    let digest = bundled("--spares 0").digest();
    let table = output.stdout();
    for part in
        ["worker", "resident", "67108864", "p50", "p99", "overhead", "440 completed", "702861", &digest]
    {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
    assert!(!table.contains('{'), "no JSON: {table}");
}

/// Starts a command of which nobody reads more than the first `lines` lines.
fn read_only(lines: usize, arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(cofferdam())
        .args(arguments)
        .env("COFFERDAM_CACHE_DIR", cache())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    for _ in 0..lines {
        let mut line = String::new();
        assert!(stdout.read_line(&mut line).expect("text") > 1, "a whole line");
    }
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_closed_standard_output_fails_only_what_it_cuts_short() {
    let run = ["run", "--memory", "16MiB", "--spares", "0"];
    let probe = ["probe", "--memory", "16MiB"];
    let json = [run.as_slice(), &["--json"]].concat();
    let cases: [(usize, &[&str], i32); 6] = [
        (1, &json, 1),
        (0, &json, 1),
        (0, &run, 0),
        (0, &probe, 0),
        (0, &["completions", "bash"], 0),
        (1, &["completions", "zsh"], 0),
    ];
    for (lines, arguments, expected) in cases {
        let (code, stderr) = read_only(lines, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn shells_get_their_completions() {
    for (shell, word) in
        [("bash", "complete"), ("zsh", "#compdef cofferdam"), ("fish", "complete -c cofferdam")]
    {
        let script = Cofferdam::new(["completions", shell]).output().expect_code(0).stdout();
        assert!(script.contains(word) && script.contains("on-guest-failure"), "{shell}:\n{script}");
    }
    Cofferdam::new(["completions", "nonesuch"]).output().expect_code(2);
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let cases = [
        "",
        "nonesuch",
        "run --nonesuch",
        "run --workers x",
        "run --workers 0",
        "run --memory 5GiB",
        "run --memory 100000",
        "run --memory much",
        "run --memory 0",
        "run --deadline soon",
        "run --commit maybe",
        "run --huge-pages on",
        "run --on-guest-failure shrug",
        "run --opaque --check-chain",
        "run --max-block-bytes 3GiB",
        "run --max-output-bytes 5GiB",
        "run --plant-fault 7:flood",
        "run --log =",
        "probe --memory 5GiB",
        "doctor --memory much",
    ];
    for arguments in cases {
        let output = Cofferdam::new(arguments.split_whitespace()).output();
        assert_eq!(output.code(), 2, "{output}");
        assert!(!output.stderr.is_empty() && !output.stderr.contains("panicked"), "{output}");
    }
}

#[test]
fn the_help_is_no_failure() {
    for arguments in ["--help", "run --help", "--version"] {
        let output = Cofferdam::new(arguments.split_whitespace()).output().expect_code(0);
        assert!(output.stdout().contains("cofferdam"), "{output}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let files = Files::new();
    let (module, blocks) = (files.at("none.wasm"), files.at("none.blk"));
    let output = Cofferdam::run().path("--module", &module).output().expect_code(1);
    assert!(output.reason().contains(&module.display().to_string()), "{output}");
    let output = Cofferdam::run().path("--blocks", &blocks).output().expect_code(1);
    assert!(output.reason().contains(&blocks.display().to_string()), "{output}");
    assert!(output.stdout().is_empty(), "{output}");
}

#[test]
fn what_is_no_module_is_refused_before_any_block() {
    let files = Files::new();
    for (name, bytes) in
        [("empty.wasm", b"".as_slice()), ("torn.wasm", b"\0asm\x01\0"), ("x.wat", b"(module")]
    {
        let output = Cofferdam::run().path("--module", &files.add(name, bytes)).output().expect_code(1);
        assert!(output.reason().contains("module"), "{output}");
        assert!(output.stdout().is_empty(), "{output}");
    }
}
