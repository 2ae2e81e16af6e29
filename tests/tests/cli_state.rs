//! What a `--db-path` keeps: the chain that was indexed, whose it is, and what came of blocks that fail.

use std::path::Path;

use bitcoin::consensus::serialize;
use bitcoin::constants::genesis_block;
use bitcoin::p2p::Magic;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, content, cut_records, extend_digest, guest, number, record,
    shared_blocks, store, sums_blocks, text,
};
use serde_json::Value;

/// The first `count` blocks of mainnet, in one file.
fn chain(files: &Files, count: usize) -> std::path::PathBuf {
    let blocks = cut_records(EARLY_RECORDS);
    let bytes: Vec<u8> = blocks[..count].iter().flat_map(|block| record(block)).collect();
    files.add(&format!("first-{count}.blk"), bytes)
}

fn index(blocks: &Path, db: &Path) -> Cofferdam<'static> {
    Cofferdam::run().path("--blocks", blocks).path("--db-path", db)
}

#[test]
fn a_run_goes_on_where_the_last_one_ended() {
    let files = Files::new();
    let db = files.at("db");
    let (half, whole) = (chain(&files, 60), chain(&files, 100));
    let first = index(&half, &db).output().expect_code(0);
    assert_eq!(
        text(&first.summary(), "db_path"),
        db.canonicalize().expect("it was made").display().to_string()
    );
    let second = index(&whole, &db).output().expect_code(0);
    assert_eq!((number(&second.summary(), "skipped"), second.heights()), (60, (60..100).collect()));
    let third = index(&whole, &db).output().expect_code(0);
    assert_eq!((number(&third.summary(), "skipped"), number(&third.summary(), "blocks")), (100, 0));
    assert!(third.blocks().is_empty(), "{third}");
    let fresh = files.at("fresh");
    let at_once = index(&whole, &fresh).output().expect_code(0);
    for output in [&second, &third] {
        assert_eq!((output.digest(), number(&output.summary(), "tip")), (at_once.digest(), 99));
    }
    assert_eq!(content(&db, &third), content(&fresh, &at_once));
    // Fewer blocks than there are in the store are no reason to lose any.
    let fewer = index(&half, &db).output().expect_code(0);
    assert_eq!((fewer.digest(), number(&fewer.summary(), "skipped")), (at_once.digest(), 60));
}

#[test]
fn the_store_keeps_what_was_reported() {
    let files = Files::new();
    let db = files.at("db");
    let output = index(&chain(&files, 20), &db).output().expect_code(0);
    let store = store(&db, &output);
    for line in output.blocks() {
        let height = u32::try_from(number(&line, "height")).expect("a height");
        let record = store.block(height).expect("it can be read").expect("it was committed");
        assert_eq!(record.digest.to_string(), text(&line, "digest"));
        assert_eq!(record.writes_sha256.to_string(), text(&line, "writes_sha256"));
        assert_eq!(record.writes, number(&line, "writes"));
    }
    assert_eq!(store.tip().expect("it can be read").map(|tip| tip.height), Some(19));
}

#[test]
fn without_a_db_path_nothing_is_kept() {
    let files = Files::new();
    let blocks = chain(&files, 20);
    for _ in 0..2 {
        let output = Cofferdam::run().path("--blocks", &blocks).output().expect_code(0);
        assert_eq!((number(&output.summary(), "skipped"), &output.summary()["db_path"]), (0, &Value::Null));
    }
}

/// Checks that the refusal names both, and that not a block was run.
fn assert_refused(output: &Output, names: &[&str]) {
    assert_eq!(output.code(), 1, "{output}");
    for name in names {
        assert!(output.reason().contains(name), "no {name:?} in {:?}", output.reason());
    }
    assert!(output.stderr.lines().all(|line| !line.contains("panicked")), "{output}");
}

/// What makes a run another one.
type Variant = fn(Cofferdam<'static>) -> Cofferdam<'static>;

#[test]
fn results_of_another_profile_are_not_mixed_in() {
    let files = Files::new();
    let db = files.at("db");
    let blocks = chain(&files, 20);
    let first = index(&blocks, &db).output().expect_code(0);
    let stored = text(&first.summary(), "profile");
    let before = content(&db, &first);
    let other = |run: Cofferdam<'static>| {
        let fresh = run.path("--blocks", &blocks).output();
        let profile = text(&fresh.summary(), "profile");
        assert_ne!(profile, stored);
        profile
    };
    let small = || Cofferdam::new(["run", "--json", "--spares", "0"]);
    let variants: [(&str, Variant); 4] = [
        ("another memory", |run| run.with("--memory 32MiB")),
        ("another module", |run| run.with("--memory 16MiB").path("--module", &guest("cli_sums.wat"))),
        ("metered fuel", |run| run.with("--memory 16MiB --fuel 1000000000000")),
        ("another output limit", |run| run.with("--memory 16MiB --max-output-bytes 1MiB")),
    ];
    for (name, variant) in variants {
        // Its own profile is what its own run says.
        let wanted = other(variant(small()).with("--on-guest-failure skip"));
        let output = variant(small()).path("--blocks", &blocks).path("--db-path", &db).output();
        assert!(output.stdout().is_empty(), "{name}: {output}");
        assert_refused(&output, &[&stored, &wanted, "profile", "new directory"]);
    }
    assert_eq!(content(&db, &first), before);
    // How the memory is committed, and by how many, is no part of the profile.
    let same =
        index(&blocks, &db).with("--commit touch --huge-pages off --workers 2 --deadline 9s --retries 5");
    assert_eq!(number(&same.output().expect_code(0).summary(), "skipped"), 20);
}

/// Real blocks under heights of the test's choice.
fn at_heights(files: &Files, heights: &[(u32, usize)]) -> Cofferdam<'static> {
    let blocks = cut_records(EARLY_RECORDS);
    let named = |(height, number): &(u32, usize)| {
        format!("{height}={}", files.add(&format!("{number}.bin"), &blocks[*number]).display())
    };
    heights.iter().map(named).fold(Cofferdam::run().arg("--blocks"), Cofferdam::arg)
}

#[test]
fn another_chain_is_not_mixed_in() {
    let files = Files::new();
    let db = files.at("db");
    let first = at_heights(&files, &[(7, 7), (9, 9)]).with("--allow-gaps").path("--db-path", &db);
    let first = first.output().expect_code(0);
    let before = content(&db, &first);
    let hash = |number: usize| {
        let block: bitcoin::Block =
            bitcoin::consensus::deserialize(&cut_records(EARLY_RECORDS)[number]).expect("one");
        block.block_hash().to_string()
    };
    let other = at_heights(&files, &[(7, 7), (9, 10)]).path("--db-path", &db).output();
    assert_refused(&other, &["at height 9", &hash(9), &hash(10), "--db-path"]);
    let absent = at_heights(&files, &[(7, 7), (8, 8)]).path("--db-path", &db).output();
    assert_refused(&absent, &["no block at height 8", "at height 9 already"]);
    let branch = at_heights(&files, &[(10, 11)]).with("--check-chain").path("--db-path", &db).output();
    assert_refused(&branch, &["height 10", "does not follow", &hash(9)]);
    for output in [&other, &absent, &branch] {
        assert!(output.blocks().is_empty(), "not a block was run: {output}");
        assert_eq!(output.digest(), first.digest(), "the summary still says what is committed");
    }
    for option in ["", "--check-chain"] {
        let gap = at_heights(&files, &[(11, 11)]).with(option).path("--db-path", &db).output();
        assert_refused(&gap, &["block 11", "block 9", "block 10 is missing", "--allow-gaps"]);
        assert!(gap.stdout().is_empty(), "{gap}");
    }
    assert_eq!(content(&db, &first), before);
}

#[test]
fn what_is_said_of_a_store_is_true_of_one_that_begins_later() {
    let files = Files::new();
    let db = files.at("db");
    let blocks = chain(&files, 439);
    let first = index(&chain(&files, 420), &db).with("--start-height 400").output().expect_code(0);
    assert_eq!(first.heights(), (400..420).collect::<Vec<_>>());
    let second = index(&blocks, &db).output().expect_code(0);
    assert_eq!((number(&second.summary(), "skipped"), second.heights()), (20, (420..439).collect()));
    let third = index(&blocks, &db).output().expect_code(0);
    assert_eq!((number(&third.summary(), "skipped"), number(&third.summary(), "tip")), (39, 438));
    // It never was a store of the whole chain, and does not become one.
    let below = index(&blocks, &db).with("--start-height 399").output();
    assert_refused(&below, &["begins at height 400, and --start-height is 399"]);
    index(&blocks, &db).with("--start-height 400").output().expect_code(0);
}

#[test]
fn another_network_is_not_mixed_in() {
    let files = Files::new();
    let db = files.at("db");
    index(&chain(&files, 3), &db).output().expect_code(0);
    let genesis = serialize(&genesis_block(bitcoin::Network::Regtest));
    let length = u32::try_from(genesis.len()).expect("it is short").to_le_bytes();
    let bytes = [&Magic::REGTEST.to_bytes(), length.as_slice(), &genesis].concat();
    let regtest = files.add("regtest.blk", bytes);
    assert_refused(&index(&regtest, &db).output(), &["bitcoin", "regtest", "network"]);
    index(&regtest, &files.at("other")).output().expect_code(0);
}

#[test]
fn a_branch_that_parts_from_the_stored_one_is_not_mixed_in() {
    let (Some(a), Some(b)) = (shared_blocks("regtest-branch-a.blk"), shared_blocks("regtest-branch-b.blk"))
    else {
        return;
    };
    let files = Files::new();
    let db = files.at("db");
    let first = index(&a, &db).output().expect_code(0);
    let output = index(&b, &db).output();
    assert_refused(&output, &["another chain", "at height 201", "--db-path"]);
    assert_eq!(output.digest(), first.digest());
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let files = Files::new();
    files.add("photos/cat.jpg", "not ours");
    let output = index(&chain(&files, 3), &files.at("photos")).output();
    assert_refused(&output, &["photos", "not a Cofferdam store", "cat.jpg"]);
    assert_eq!(std::fs::read_dir(files.at("photos")).expect("it is there").count(), 1);
}

#[test]
fn one_run_at_a_time_has_the_store() {
    let files = Files::new();
    let db = files.at("db");
    let blocks = cut_records(EARLY_RECORDS);
    let mut first = Cofferdam::run().with("--blocks -").path("--db-path", &db).open_stdin().start();
    first.feed(&record(&blocks[0]));
    first.next_line();
    let second = index(&chain(&files, 3), &db).output();
    assert_refused(&second, &["being written by another process", "writer.lock"]);
    assert!(second.stdout().is_empty(), "{second}");
    first.feed(&record(&blocks[1]));
    assert_eq!(number(&first.next_line(), "height"), 1, "the first is not disturbed");
    first.finish().expect_code(0);
    assert_eq!(index(&chain(&files, 3), &db).output().expect_code(0).heights(), [2]);
}

/// Twelve blocks for the guest that traps at the height 7.
fn failing(files: &Files, policy: &str) -> Cofferdam<'static> {
    for (number, block) in sums_blocks(12, 0).iter().enumerate() {
        files.add(&format!("in/{number}.bin"), block);
    }
    let run = Cofferdam::run().with("--opaque").path("--module", &guest("cli_traps_at_7.wat"));
    run.path("--blocks", &files.at("in")).path("--db-path", &files.at("db")).with(policy)
}

#[test]
fn a_block_that_fails_stops_the_run_and_is_met_again() {
    let files = Files::new();
    for _ in 0..2 {
        let output = failing(&files, "").output().expect_code(1);
        let (lines, summary) = (output.blocks(), output.summary());
        let failed = lines.last().expect("a line");
        assert_eq!((number(failed, "height"), text(failed, "verdict").as_str()), (7, "trap"), "{output}");
        assert_eq!((number(failed, "attempts"), &failed["committed"]), (1, &Value::from(false)), "{failed}");
        assert!(text(failed, "detail").contains("unreachable"), "{failed}");
        assert_eq!((number(failed, "writes"), number(&summary, "failed")), (0, 1));
        assert_eq!((number(&summary, "tip"), number(&summary, "deaths")), (6, 0), "{summary}");
        let store = store(&files.at("db"), &output);
        assert_eq!(store.tip().expect("it can be read").map(|tip| tip.height), Some(6));
        assert_eq!(store.get(b"last", u32::MAX).expect("it can be read"), Some(6_u32.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_block_that_fails_can_be_skipped() {
    let files = Files::new();
    let stopped = failing(&files, "--on-guest-failure stop").output().expect_code(1);
    let skipping = failing(&files, "--on-guest-failure skip").output().expect_code(1);
    assert_eq!(skipping.heights(), (7..12).collect::<Vec<_>>(), "goes on from the stop: {skipping}");
    let lines = skipping.blocks();
    assert_eq!((text(&lines[0], "verdict").as_str(), &lines[0]["committed"]), ("trap", &Value::from(true)));
    assert_eq!(lines[0]["digest"], stopped.blocks()[7]["digest"], "every host says the same of it");
    assert!(lines[1..].iter().all(|line| line["verdict"] == "completed"), "{skipping}");
    let summary = skipping.summary();
    assert_eq!(
        (number(&summary, "failed"), number(&summary, "completed"), number(&summary, "tip")),
        (1, 4, 11)
    );
    assert_eq!(summary["verdicts"]["trap"], 1, "{summary}");

    let mut digest = text(&summary, "profile");
    let before = stopped.blocks();
    for (line, block) in before[..7].iter().chain(&lines).zip(sums_blocks(12, 0)) {
        digest = extend_digest(&digest, &block, line);
        assert_eq!(text(line, "digest"), digest, "{line}");
    }
    assert_eq!(skipping.digest(), digest);

    let at_once = Files::new();
    let output = failing(&at_once, "--on-guest-failure skip").output().expect_code(1);
    assert_eq!(output.digest(), digest);
    assert_eq!(content(&at_once.at("db"), &output), content(&files.at("db"), &skipping));
    // All is known now, and nothing fails any more.
    let again = failing(&files, "").output().expect_code(0);
    assert_eq!((again.digest(), number(&again.summary(), "skipped")), (digest, 12));
}
