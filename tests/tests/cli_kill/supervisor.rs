//! Signals to the supervisor, and a supervisor that is killed: whole blocks stay, and the next run continues.

use super::*;

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
    run.await_stderr("a second SIGINT or SIGTERM ends this process at once");
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
