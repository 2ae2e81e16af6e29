//! bitcoind's block files as they are found on disks: with gaps that bitcoind reads over, with holes that nobody may read
//! over, and under names of every kind.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cofferdam_tests::support::command::{Cofferdam, Files, Output, number};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, contents, node};
use cofferdam_tests::support::regtest::chain;
use serde_json::json;

const MAGIC: [u8; 4] = [0xfa, 0xbf, 0xb5, 0xda];
const KEY: [u8; 8] = [0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18];

/// The records of a chain of regtest.
fn records(length: u32) -> Vec<Vec<u8>> {
    let record = |block: Vec<u8>| {
        let length = u32::try_from(block.len()).expect("a block is short");
        [&MAGIC, length.to_le_bytes().as_slice(), &block].concat()
    };
    chain(length).into_iter().map(record).collect()
}

fn obfuscated(bytes: &[u8], offset: usize) -> Vec<u8> {
    bytes.iter().zip(KEY.iter().cycle().skip(offset % KEY.len())).map(|(byte, key)| byte ^ key).collect()
}

fn run(blocks: &Path) -> Cofferdam<'static> {
    Cofferdam::run().path("--blocks", blocks)
}

fn assert_whole(what: &str, output: &Output, blocks: u64) {
    assert_eq!((output.code(), output.heights()), (0, (0..blocks).collect()), "{what}: {output}");
}

#[test]
fn what_bitcoind_skips_is_skipped() {
    let records = records(31);
    let (start, rest) = (records[..15].concat(), records[15..].concat());
    let head_alone = [&records[15][..8], &vec![0; records[15].len() - 8]].concat();
    let mut damaged = records[15].clone();
    *damaged.last_mut().expect("it has bytes") ^= 1;
    let genesis = (records[0].clone(), records[1..].concat());
    let middle = (start, rest);
    let mut digest = None;
    for (name, (before, behind), gap) in [
        ("nothing", &middle, Vec::new()),
        ("8 zeros after the genesis block", &genesis, vec![0; 8]),
        ("293 zeros after it", &genesis, vec![0; 293]),
        ("7 zeros", &middle, vec![0; 7]),
        ("a head whose block was never written", &middle, head_alone),
        ("a part of a block", &middle, records[15][..100].to_vec()),
        ("a magic", &middle, MAGIC.to_vec()),
        ("a damaged copy", &middle, damaged.clone()),
        ("other bytes", &middle, b"what is this?".repeat(9)),
    ] {
        let files = Files::new();
        let bytes = [before.as_slice(), &gap, behind].concat();
        files.add("plain/blk00000.dat", &bytes);
        files.add("hidden/blk00000.dat", obfuscated(&bytes, 0));
        files.add("hidden/xor.dat", KEY);
        let stream = Cofferdam::run().with("--blocks -").stdin(bytes).output();
        for output in [run(&files.at("plain")).output(), run(&files.at("hidden")).output(), stream] {
            assert_whole(name, &output, 31);
            let own = output.digest();
            assert_eq!(*digest.get_or_insert(own.clone()), own, "{name}");
            // A damaged copy in its own record is no gap in a file; it is told when the other one is taken.
            let told = gap.is_empty()
                || output.stderr.contains("hold no intact block")
                || output.stderr.contains("another copy is damaged");
            assert!(told, "{name}: {output}");
        }
    }
    // Zeros that nobody obfuscated, among records that somebody did.
    let files = Files::new();
    let (before, behind) = &middle;
    let hidden = [obfuscated(before, 0), vec![0; 8], obfuscated(behind, before.len() + 8)].concat();
    files.add("blk00000.dat", hidden);
    files.add("xor.dat", KEY);
    assert_whole("8 zeros, obfuscated", &run(&files.at("")).output(), 31);
    // A damaged copy in one file, and a whole one in another.
    let files = Files::new();
    files.add("blk00000.dat", [before.as_slice(), &damaged].concat());
    files.add("blk00001.dat", behind);
    let output = run(&files.at("")).output();
    assert_whole("two copies", &output, 31);
    assert!(output.stderr.contains("another copy is damaged"), "{output}");
}

/// bitcoind's directory of 31 blocks in two files, of which only the second one is there.
fn second_file_only(records: &[Vec<u8>]) -> Files {
    let files = Files::new();
    files.add("blk00001.dat", records[10..31].concat());
    files
}

#[test]
fn a_run_does_not_begin_behind_a_missing_file() {
    let records = records(31);
    let files = second_file_only(&records);
    let db = files.at("db");
    for start in ["", "--start-height 0", "--start-height 9"] {
        let output = run(&files.at("")).with(start).path("--db-path", &db).output().expect_code(1);
        for told in ["blk00001.dat at byte 0", "begins at height 10", "missing", "--start-height 10"] {
            assert!(output.reason().contains(told), "no {told:?}: {output}");
        }
        assert!(output.stdout().is_empty(), "{output}");
    }
    // What is torn away is not begun behind, either: a flipped byte in the head of block 5.
    let mut torn = records.clone();
    torn[5][1] ^= 1;
    files.add("blk00000.dat", torn[..10].concat());
    let output = run(&files.at("")).path("--db-path", &db).output().expect_code(1);
    assert_eq!(output.heights(), (0..5).collect::<Vec<_>>(), "{output}");
    assert!(
        output.reason().contains("(height 6) names") && output.reason().contains("up to height 4"),
        "{output}"
    );
    // With whole files the store goes on as if nothing had been.
    files.add("blk00000.dat", records[..10].concat());
    let output = run(&files.at("")).path("--db-path", &db).output().expect_code(0);
    assert_eq!(output.heights(), (5..31).collect::<Vec<_>>());
    let alone = run(&files.at("")).output().expect_code(0);
    assert_eq!(output.digest(), alone.digest());
    // A part of a chain is begun with where that is asked for, or follows what the store has.
    let part = second_file_only(&records);
    let output = run(&part.at("")).with("--start-height 10").output().expect_code(0);
    assert_eq!(output.heights(), (10..31).collect::<Vec<_>>());
    let db = files.at("followed");
    let first = files.add("first/blk00000.dat", records[..10].concat());
    run(&first).path("--db-path", &db).output().expect_code(0);
    let output = run(&part.at("")).path("--db-path", &db).output().expect_code(0);
    assert_eq!((output.heights(), output.digest()), ((10..31).collect(), alone.digest()));
}

#[test]
fn a_node_does_not_begin_behind_a_missing_file() {
    let records = records(35);
    let daemon = Daemon::start(&chain(35));
    let files = second_file_only(&records);
    for (number, start) in ["", "--start-block 0"].into_iter().enumerate() {
        let db = files.at(&format!("db-{number}"));
        let node = node(&db).path("--blocks", &files.at("")).with(start);
        let output =
            Node::to_the_end(node.with(&format!("--daemon-rpc-url {}", daemon.url()))).expect_code(1);
        for told in
            ["blk00001.dat at byte 0", "begins at height 10", "blocks 0 to 9 are missing", "--start-block 10"]
        {
            assert!(output.stderr.contains(told), "no {told:?}: {output}");
        }
        assert!(contents(&db).0.is_empty(), "nothing is committed");
    }
}

#[test]
fn where_files_end_in_damage_a_node_goes_on_with_the_daemon() {
    let chain = chain(35);
    let daemon = Daemon::start(&chain);
    let place = Place::default();
    let mut torn = records(31);
    torn[20][1] ^= 1;
    let file = place.at("blk00000.dat");
    std::fs::write(&file, torn.concat()).expect("it can be written");
    let db = place.at("db");
    let node =
        Node::start(node(&db).path("--blocks", &file).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&chain[34]);
    let output = node.end();
    assert!(output.stderr.contains("The Bitcoin node is asked for the blocks from here on"), "{output}");
    assert_eq!(daemon.calls("getblock"), 15, "the others were in the file");
}

#[test]
fn a_node_says_where_its_store_begins() {
    let place = Place::default();
    let file = place.records("chain.blk", &chain(20));
    let at = |db: &str, options: &str| {
        Node::to_the_end(node(&place.at(db)).path("--blocks", &file).with("--exit-at tip").with(options))
    };
    at("zero", "").expect_code(0);
    at("five", "--start-block 5").expect_code(0);
    assert_eq!(contents(&place.at("five")).0.len(), 15);
    for (db, option, begins) in [("zero", "--start-block 5", 0), ("five", "--start-block 0", 5)] {
        let output = at(db, option).expect_code(1);
        let told = format!("begins at height {begins}, and {} is", &option[..13]);
        assert!(output.stderr.contains(&told), "{output}");
    }
    for (db, option) in [("zero", "--start-block 0"), ("five", "--start-block 5"), ("five", "")] {
        at(db, option).expect_code(0);
    }
}

/// A directory whose name is no UTF-8.
fn odd(files: &Files, name: &[u8]) -> PathBuf {
    let path = files.at("").join(OsStr::from_bytes(name));
    std::fs::create_dir_all(&path).expect("it can be made");
    path
}

#[test]
fn paths_need_not_be_utf8() {
    let files = Files::new();
    let directory = odd(&files, b"caf\xe9");
    let blocks = directory.join("blk00000.dat");
    std::fs::write(&blocks, records(4).concat()).expect("it can be written");
    let state = run(&blocks).path("--db-path", &directory.join("state")).output();
    assert_whole("--blocks and --db-path", &state, 4);
    let mut named = OsString::from("0=");
    named.push(&blocks);
    assert_whole("HEIGHT=PATH", &Cofferdam::run().arg("--blocks").arg(named).output(), 4);
    assert_whole("TMPDIR", &run(&blocks).variable("TMPDIR", &directory).output(), 4);
    let cache = run(&blocks).path("--cache-dir", &directory.join("cache")).output();
    assert_whole("--cache-dir", &cache, 4);
    let mut list = OsString::from_vec(blocks.as_os_str().as_bytes().to_vec());
    list.push(",");
    list.push(&blocks);
    for argument in [blocks.as_os_str(), &list] {
        let db = odd(&files, b"d\xff");
        let node = node(&db).with("--exit-at tip --blocks").arg(argument);
        Node::to_the_end(node).expect_code(0);
        assert_eq!(contents(&db).0.len(), 4);
    }
}

#[test]
fn a_path_may_have_a_comma() {
    let place = Place::default();
    let blocks = chain(20);
    let whole = place.records("a,b.blk", &blocks);
    let (first, second) = (place.records("a", &blocks[..10]), place.records("c", &blocks[10..]));
    for (number, argument) in
        [whole.display().to_string(), format!("{},{}", first.display(), second.display())].iter().enumerate()
    {
        let db = place.at(&format!("db-{number}"));
        Node::to_the_end(node(&db).with("--exit-at tip --blocks").arg(argument.as_str())).expect_code(0);
        assert_eq!(contents(&db).0.len(), 20, "{argument}");
    }
    assert_whole("run", &run(&whole).output(), 20);
}

#[test]
fn the_figures_of_a_run_over_gaps_are_those_of_the_blocks() {
    let files = Files::new();
    let mut bytes = records(3).concat();
    bytes.extend([0; 100]);
    bytes.extend(records(5)[3..].concat());
    let output = run(&files.add("blk00000.dat", bytes)).output().expect_code(0);
    let summary = output.summary();
    assert_eq!(
        (number(&summary, "blocks"), number(&summary, "tip"), &summary["error"]),
        (5, 4, &json!(null))
    );
}
