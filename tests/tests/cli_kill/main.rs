//! Processes are killed while blocks are indexed, and the result is to the last bit that of a quiet run: every block
//! once, on the state of the one before it, and nothing left behind.

mod faults;
mod supervisor;
mod workers;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cofferdam_tests::support::command::{
    Cofferdam, Files, Output, Running, content, guest, number, record, send, sums_blocks, text, wait_until,
};
use cofferdam_tests::support::random::Random;
use nix::sys::signal::Signal;
use serde_json::Value;

/// A second or so of work in one block of `cli_sums.wat`: long enough to find out who does it, and to kill that one.
const LONG: u32 = 600_000_000;
/// Some milliseconds.
const SHORT: u32 = 5_000_000;

fn sums(db: &Path) -> Cofferdam<'static> {
    let run = Cofferdam::new(["run", "--json", "--memory", "16MiB", "--opaque"]);
    run.path("--module", &guest("cli_sums.wat")).path("--db-path", db)
}

/// Blocks as they go through a pipe.
fn records(blocks: &[Vec<u8>]) -> Vec<u8> {
    blocks.iter().flat_map(|block| record(block)).collect()
}

/// A run over the blocks in which nothing happens.
fn quiet(blocks: &[Vec<u8>]) -> (String, String) {
    let files = Files::new();
    let run = sums(&files.at("db")).with("--spares 0 --blocks -").stdin(records(blocks));
    let output = run.output().expect_code(0);
    assert_eq!(number(&output.summary(), "completed"), blocks.len() as u64);
    assert_eq!(number(&output.summary(), "deaths"), 0);
    (output.digest(), content(&files.at("db"), &output))
}

/// Checks that every block completed once, in order, and that the whole is what a quiet run makes of the same blocks.
fn assert_as_if_quiet(output: &Output, db: &Path, blocks: &[Vec<u8>]) {
    assert_eq!(output.heights(), (0..blocks.len() as u64).collect::<Vec<_>>(), "{output}");
    for line in output.blocks() {
        assert_eq!((text(&line, "verdict").as_str(), &line["committed"]), ("completed", &Value::from(true)));
    }
    assert_eq!((output.digest(), content(db, output)), quiet(blocks), "{output}");
}

/// Processor time that a process has used so far, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The worker that works, and the others.
fn busy_and_idle(workers: &[u32]) -> (u32, Vec<u32>) {
    const PROOF: u64 = 20;
    let before: Vec<_> = workers.iter().map(|pid| ticks(*pid)).collect();
    let busy = wait_until("a worker works", || {
        let mut after = workers.iter().zip(&before);
        after.find(|(pid, before)| ticks(**pid) >= *before + PROOF).map(|(pid, _)| *pid)
    });
    (busy, workers.iter().copied().filter(|pid| *pid != busy).collect())
}

/// What a test does to a run while its long block is being indexed: it is given the worker that does it and the others,
/// and says whom it killed.
type Disturbance = fn(u32, &[u32]) -> Vec<u32>;

/// A run that is disturbed in the middle of its sixth block, with `workers` processes in all. Returns what it printed,
/// and the long block's line.
fn disturbed(arguments: &str, workers: usize, disturb: Disturbance) -> (Output, Value, Vec<u32>) {
    let mut blocks = sums_blocks(11, 0);
    blocks[5][..4].copy_from_slice(&LONG.to_le_bytes());
    let files = Files::new();
    let db = files.at("db");
    let mut run = sums(&db).with(arguments).with("--blocks -").open_stdin().start();
    run.feed(&records(&blocks[..5]));
    run.next_lines(5);
    let first = run.await_workers(workers);
    let descriptors = run.descriptors();
    run.feed(&records(&blocks[5..6]));
    let (busy, idle) = busy_and_idle(&first);
    let killed = disturb(busy, &idle);
    let line = run.next_line();
    run.feed(&records(&blocks[6..]));
    run.next_lines(5);
    await_replacements(&run, workers, &killed);
    wait_until("the supervisor has as many descriptors as before", || {
        (run.descriptors() == descriptors).then_some(())
    });
    let output = run.finish().expect_code(0);
    assert_eq!(number(&output.summary(), "deaths"), killed.len() as u64, "{output}");
    assert_as_if_quiet(&output, &db, &blocks);
    (output, line, killed)
}

fn await_replacements(run: &Running, workers: usize, killed: &[u32]) {
    wait_until("the killed workers are replaced", || {
        let now = run.workers();
        (now.len() == workers && now.iter().all(|pid| !killed.contains(pid))).then_some(())
    });
}

fn kill(pid: u32) {
    send(pid, Signal::SIGKILL).expect("the worker is there");
}
