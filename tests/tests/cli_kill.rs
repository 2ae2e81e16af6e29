//! Processes are killed while blocks are indexed, and the result is to the last bit that of a quiet run: every block
//! once, on the state of the one before it, and nothing left behind.

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

#[test]
fn the_busy_worker_is_killed() {
    let (_, line, killed) = disturbed("--spares 1", 2, |busy, _| {
        kill(busy);
        vec![busy]
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
    let lost = &line["lost"][0];
    assert_eq!((text(lost, "verdict").as_str(), number(lost, "worker_pid")), ("killed", killed[0].into()));
    assert!(text(lost, "detail").contains("SIGKILL"), "{lost}");
    assert_ne!(number(&line, "worker_pid"), u64::from(killed[0]));
}

#[test]
fn the_only_worker_is_killed() {
    let (_, line, _) = disturbed("--spares 0", 1, |busy, _| {
        kill(busy);
        vec![busy]
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
}

#[test]
fn an_idle_worker_is_killed() {
    let (_, line, _) = disturbed("--spares 1", 2, |_, idle| {
        kill(idle[0]);
        vec![idle[0]]
    });
    assert_eq!(number(&line, "attempts"), 1, "the block was not its: {line}");
}

#[test]
fn every_worker_is_killed_at_once() {
    let (_, line, _) = disturbed("--workers 2 --spares 1", 3, |busy, idle| {
        let all: Vec<_> = idle.iter().copied().chain([busy]).collect();
        for pid in &all {
            kill(*pid);
        }
        all
    });
    assert_eq!(number(&line, "attempts"), 2, "{line}");
}

#[test]
fn workers_are_killed_ten_times_in_the_middle_of_blocks() {
    const KILLS: usize = 10;
    let mut random = Random::seeded();
    let blocks = sums_blocks(300, SHORT);
    let files = Files::new();
    let db = files.at("db");
    // More retries than kills: how many attempts one unlucky block may take is not what is tested.
    let run = sums(&db).with("--workers 1 --spares 1 --retries 20 --blocks -").open_stdin();
    let mut run = run.start();
    run.feed(&records(&blocks[..10]));
    run.next_lines(10);
    run.await_workers(2);
    let descriptors = run.descriptors();
    let mut killed = BTreeSet::new();
    let mut rest = &blocks[10..];
    while killed.len() < KILLS {
        // Of these blocks some are done when a worker is killed, and some are not: the last has not been fed yet.
        let (now, later) = rest.split_at(2 + below(&mut random, 20));
        rest = later;
        let (last, first) = now.split_last().expect("two or more");
        run.feed(&records(first));
        let read = below(&mut random, first.len());
        run.next_lines(read);
        let victim = wait_until("there is a worker that was not killed before", || {
            let alive: Vec<_> = run.workers().into_iter().filter(|pid| !killed.contains(pid)).collect();
            let victim = *alive.get(below(&mut random, alive.len().max(1)))?;
            send(victim, Signal::SIGKILL).ok().map(|()| victim)
        });
        killed.insert(victim);
        run.feed(&record(last));
        run.next_lines(now.len() - read);
    }
    run.feed(&records(rest));
    run.next_lines(rest.len());
    await_replacements(&run, 2, &killed.iter().copied().collect::<Vec<_>>());
    wait_until("the supervisor has as many descriptors as before", || {
        (run.descriptors() == descriptors).then_some(())
    });
    let output = run.finish().expect_code(0);
    assert_eq!(number(&output.summary(), "deaths"), KILLS as u64, "{output}");
    assert_as_if_quiet(&output, &db, &blocks);
}

/// A number from 0 to below `end`, which is small.
fn below(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(end as u64)).expect("a small number")
}

#[test]
fn sigterm_finishes_the_block_and_the_next_run_goes_on() {
    let blocks = sums_blocks(200, SHORT);
    let files = Files::new();
    let db = files.at("db");
    for (number, block) in blocks.iter().enumerate() {
        files.add(&format!("blocks/{number}.bin"), block);
    }
    let start = || sums(&db).with("--spares 1").path("--blocks", &files.at("blocks")).start();
    let mut run = start();
    run.next_lines(20);
    run.signal(Signal::SIGTERM);
    let first = run.finish().expect_code(1);
    let (summary, done) = (first.summary(), first.heights());
    assert_eq!(summary["interrupted"], Value::from(true), "{first}");
    assert!((20..200).contains(&done.len()), "{first}");
    assert_eq!(done, (0..done.len() as u64).collect::<Vec<_>>());
    assert!(first.blocks().iter().all(|line| line["committed"] == true), "{first}");
    assert_eq!(number(&summary, "tip") + 1, done.len() as u64);
    assert_eq!((number(&summary, "failed"), number(&summary, "deaths")), (0, 0), "{first}");

    let second = start().finish().expect_code(0);
    assert_eq!(number(&second.summary(), "skipped"), done.len() as u64);
    assert_eq!(second.heights(), (done.len() as u64..200).collect::<Vec<_>>(), "each block is run once");
    assert_eq!((second.digest(), content(&db, &second)), quiet(&blocks));
}

#[test]
fn sigint_and_sigterm_end_a_run_that_waits_for_blocks() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let files = Files::new();
        let mut run = sums(&files.at("db")).with("--spares 1 --blocks -").open_stdin().start();
        run.feed(&records(&sums_blocks(2, 0)));
        run.next_lines(2);
        run.signal(signal);
        // Its standard input stays open: it must not take the end of that to end it.
        wait_until("it ends", || (!run.is_running()).then_some(()));
        let output = run.finish().expect_code(1);
        assert_eq!(output.summary()["interrupted"], Value::from(true), "{output}");
        assert_eq!(output.heights(), [0, 1]);
    }
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let files = Files::new();
    let db = files.at("db");
    let mut blocks = sums_blocks(2, 0);
    blocks[1][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut run = sums(&db).with("--spares 0 --blocks -").open_stdin().start();
    run.feed(&records(&blocks));
    run.next_line();
    let workers = run.await_workers(1);
    busy_and_idle(&workers);
    run.signal(Signal::SIGTERM);
    // Two signals at once would count as one: the supervisor says when it has seen the first.
    run.await_stderr("a second SIGINT or SIGTERM ends it at once");
    run.signal(Signal::SIGTERM);
    let output = run.finish().expect_code(128 + 15);
    assert_eq!(output.heights(), [0], "{output}");
}

#[test]
fn the_supervisor_is_killed_and_the_next_run_goes_on() {
    let blocks = sums_blocks(120, SHORT);
    let files = Files::new();
    let db = files.at("db");
    let input = files.add("blocks.records", records(&blocks));
    let mut done = 0;
    // More than once: the second time it is killed while it goes on.
    for _ in 0..2 {
        let mut run = sums(&db).with("--workers 2 --spares 1 --blocks -").open_stdin().start();
        run.feed(&fs::read(&input).expect("it was written"));
        let line = run.next_lines(25).pop().expect("the last of them");
        run.await_workers(3);
        run.signal(Signal::SIGKILL);
        // `finish` sees to it that the workers are gone.
        let output = run.finish();
        assert_eq!(output.signal(), Some(9), "{output}");
        assert!(number(&line, "height") >= done + 24, "what was committed is not run again: {line}");
        done = number(&line, "height") + 1;
    }
    let last = sums(&db).with("--spares 0 --blocks -").stdin(records(&blocks)).output().expect_code(0);
    let skipped = number(&last.summary(), "skipped");
    assert!(skipped >= done, "{done} blocks were reported as committed, and {skipped} are there: {last}");
    assert_eq!((last.digest(), content(&db, &last)), quiet(&blocks));
}

#[test]
fn the_supervisor_is_killed_while_blocks_run_ahead_of_their_commits() {
    /// How many blocks are ahead: a run that commits each block before the next one starts is not so far ahead.
    const AHEAD: u64 = 8;
    let blocks = sums_blocks(300, SHORT);
    let files = Files::new();
    let db = files.at("db");
    for (number, block) in blocks.iter().enumerate() {
        files.add(&format!("blocks/{number}.bin"), block);
    }
    let run = |arguments: &str| sums(&db).with(arguments).path("--blocks", &files.at("blocks"));
    let mut committed = 0;
    for _ in 0..3 {
        let mut run = run("--spares 1 --announce").start();
        let before = committed;
        let mut begun = 0;
        // Some blocks are committed, and later ones run.
        while committed == before || begun < committed + AHEAD {
            let line = run.next_line();
            match line["running"].as_u64() {
                Some(height) => begun = height,
                None => {
                    assert_eq!(line["committed"], true, "{line}");
                    assert!(number(&line, "height") >= before, "{line} was committed before");
                    committed = number(&line, "height") + 1;
                }
            }
        }
        run.signal(Signal::SIGKILL);
        assert_eq!(run.finish().signal(), Some(9));
    }
    let last = run("--spares 0").output().expect_code(0);
    let skipped = number(&last.summary(), "skipped");
    assert!(
        skipped >= committed,
        "{committed} blocks were reported as committed, and {skipped} are there: {last}"
    );
    assert_eq!(last.heights(), (skipped..300).collect::<Vec<_>>());
    assert_eq!((last.digest(), content(&db, &last)), quiet(&blocks));
}

#[test]
fn whatever_a_worker_does_wrong_the_block_is_done_by_another() {
    const FAULTS: [(&str, &str); 10] = [
        ("kill", "killed"),
        ("segv", "crashed"),
        ("abort", "crashed"),
        ("exit=9", "exited"),
        ("garbage", "protocol-violation"),
        ("long-frame", "protocol-violation"),
        ("wrong-span", "protocol-violation"),
        ("wrong-job", "protocol-violation"),
        ("wrong-pairs", "protocol-violation"),
        ("hang", "deadline"),
    ];
    let blocks = sums_blocks(12, 0);
    let expected = quiet(&blocks);
    for (kind, verdict) in FAULTS {
        let files = Files::new();
        let db = files.at("db");
        let run = sums(&db).with("--spares 1 --deadline 2s --blocks -").stdin(records(&blocks));
        let output = run.arg("--plant-fault").arg(format!("5:{kind}")).output().expect_code(0);
        assert_eq!(number(&output.summary(), "deaths"), 1, "{kind}: {output}");
        let line = &output.blocks()[5];
        assert_eq!(number(line, "attempts"), 2, "{kind}: {line}");
        assert_eq!(text(&line["lost"][0], "verdict"), verdict, "{kind}: {line}");
        assert!(!text(&line["lost"][0], "detail").is_empty(), "{kind}: {line}");
        assert_eq!((output.digest(), content(&db, &output)), expected, "{kind}");
    }
}

#[test]
fn a_block_that_takes_every_worker_with_it_is_given_up_and_not_committed() {
    let blocks = sums_blocks(8, 0);
    let files = Files::new();
    let db = files.at("db");
    let run = || sums(&db).with("--spares 0 --blocks -").stdin(records(&blocks));
    let output = run().with("--retries 2 --plant-fault 5x3:segv").output().expect_code(1);
    let lines = output.blocks();
    let line = lines.last().expect("six lines");
    assert_eq!((number(line, "height"), number(line, "attempts")), (5, 3), "{output}");
    assert_eq!(text(line, "verdict"), "crashed");
    assert_eq!((&line["digest"], &line["committed"]), (&Value::Null, &Value::from(false)), "{line}");
    assert_eq!(line["lost"].as_array().map(Vec::len), Some(3), "{line}");
    let summary = output.summary();
    assert_eq!((number(&summary, "tip"), number(&summary, "failed")), (4, 1), "{summary}");
    assert_eq!(summary["digest"], lines[4]["digest"]);
    // A host failure is nobody's verdict about the block: the next run takes it up again.
    let next = run().output().expect_code(0);
    assert_eq!(next.heights(), [5, 6, 7]);
    assert_eq!((next.digest(), content(&db, &next)), quiet(&blocks));
}

#[test]
fn a_worker_that_never_lives_long_is_given_up_with_69() {
    // The default policy bears twenty deaths of idle workers within a minute.
    const BORNE: usize = 20;
    let blocks = sums_blocks(30, 0);
    let files = Files::new();
    let db = files.at("db");
    let mut run = sums(&db).with("--spares 0 --blocks -").open_stdin().start();
    for (deaths, block) in (1..).zip(&blocks[..=BORNE]) {
        // A block for each of them: a worker that has done something is replaced at once.
        run.feed(&record(block));
        run.next_line();
        let worker = run.await_workers(1)[0];
        kill(worker);
        if deaths <= BORNE {
            await_replacements(&run, 1, &[worker]);
        } else {
            // Reaped, so that it is not given another block.
            let entry = Path::new("/proc").join(worker.to_string());
            wait_until("its death was noticed", || (!entry.exists()).then_some(()));
        }
    }
    run.feed(&record(&blocks[BORNE + 1]));
    let output = run.finish().expect_code(69);
    assert!(output.reason().contains("no healthy worker"), "{output}");
    let summary = output.summary();
    assert_eq!(number(&summary, "deaths"), BORNE as u64 + 1, "{summary}");
    assert_eq!(number(&summary, "tip"), BORNE as u64, "{summary}");
    // The store is none the worse for it.
    let next = sums(&db).with("--spares 0 --blocks -").stdin(records(&blocks)).output().expect_code(0);
    assert_eq!((next.digest(), content(&db, &next)), quiet(&blocks));
}
