//! Workers that misbehave: another worker does the block, or the run gives the block up.

use super::*;

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
