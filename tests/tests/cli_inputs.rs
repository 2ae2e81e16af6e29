//! Every way in which `cofferdam run` takes blocks, on real ones: the order and the packaging of the bytes must not show
//! in the result, and what is damaged is named after everything before it was indexed.

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cut_records, guest, number, record, shared_blocks, sums_blocks,
    text,
};

/// The sample indexer needs more than the smallest memory for the largest of the real blocks.
fn run() -> Cofferdam<'static> {
    Cofferdam::new(["run", "--json", "--memory", "64MiB", "--spares", "0"])
}

fn blocks_from(paths: &[&Path]) -> Cofferdam<'static> {
    paths.iter().fold(run().arg("--blocks"), |run, path| run.arg(*path))
}

/// Mainnet's blocks 0 to 438 from one file: what the other ways are compared with.
fn early() -> (String, Files) {
    let files = Files::new();
    let output = blocks_from(&[&files.add("early.blk", EARLY_RECORDS)]).output().expect_code(0);
    assert_eq!(output.heights(), (0..439).collect::<Vec<_>>());
    (output.digest(), files)
}

/// The blocks in an order that is nobody's: every seventeenth, round and round.
fn shuffled(blocks: &[Vec<u8>]) -> Vec<&Vec<u8>> {
    let count = blocks.len();
    assert!(!count.is_multiple_of(17), "every block once");
    (0..count).map(|number| &blocks[(number * 17 + 5) % count]).collect()
}

#[test]
fn a_nodes_directory_is_read_whatever_the_order_and_the_key() {
    const KEY: [u8; 8] = [0x5a, 0x00, 0xff, 0x13, 0x37, 0x80, 0x01, 0xc3];
    let blocks = cut_records(EARLY_RECORDS);
    let order = shuffled(&blocks);
    assert_ne!(order[0], &blocks[0]);
    let (expected, _) = early();
    let plain = Files::new();
    let obfuscated = Files::new();
    obfuscated.add("xor.dat", KEY);
    for (number, part) in order.chunks(150).enumerate() {
        let bytes: Vec<u8> = part.iter().flat_map(|block| record(block)).collect();
        let hidden: Vec<u8> = bytes.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        // Allocated ahead as bitcoind does it: with zeros that nothing obfuscates.
        for (files, bytes) in [(&plain, bytes), (&obfuscated, hidden)] {
            files.add(&format!("blk{number:05}.dat"), [bytes, vec![0; 5000]].concat());
        }
    }
    plain.add("rev00000.dat", "undo data, which is not for us");
    for files in [&plain, &obfuscated] {
        let output = blocks_from(&[&files.at("")]).output().expect_code(0);
        assert_eq!(output.heights(), (0..439).collect::<Vec<_>>());
        assert_eq!(output.digest(), expected);
    }
    fs::remove_file(obfuscated.at("xor.dat")).expect("it is there");
    let refused = blocks_from(&[&obfuscated.at("")]).output().expect_code(1);
    assert!(refused.reason().contains("xor.dat"), "{refused}");
}

#[test]
fn standard_input_takes_records_and_raw_blocks() {
    let (expected, _) = early();
    let raw = cut_records(EARLY_RECORDS).concat();
    for bytes in [EARLY_RECORDS.to_vec(), raw] {
        let output = run().with("--blocks -").stdin(bytes).output().expect_code(0);
        assert_eq!(output.heights(), (0..439).collect::<Vec<_>>());
        assert_eq!(output.digest(), expected);
    }
    let empty = run().with("--blocks -").stdin("").output().expect_code(1);
    assert!(empty.reason().contains("no bytes arrived"), "{empty}");
    let text = run().with("--blocks -").stdin([b'x'; 500]).output().expect_code(1);
    assert!(text.reason().contains("standard input"), "{text}");
}

#[test]
fn a_block_is_indexed_as_soon_as_it_comes() {
    let blocks = cut_records(EARLY_RECORDS);
    let mut running = run().with("--blocks -").open_stdin().start();
    for (height, block) in (0..).zip(&blocks[..5]) {
        running.feed(&record(block));
        // It must not wait for a second block, or for the end.
        let line = running.next_line();
        assert_eq!(number(&line, "height"), height);
        assert_eq!(number(&line, "block_bytes"), block.len() as u64);
    }
    let output = running.finish().expect_code(0);
    assert_eq!(number(&output.summary(), "blocks"), 5);
}

/// The blocks at these heights as files, each named with its height as an argument.
fn with_heights(files: &Files, heights: &[usize]) -> Cofferdam<'static> {
    let blocks = cut_records(EARLY_RECORDS);
    let named = |height: &usize| {
        let path = files.add(&format!("{height}.bin"), &blocks[*height]);
        format!("{height}={}", path.display())
    };
    heights.iter().map(named).fold(run().arg("--blocks"), Cofferdam::arg)
}

#[test]
fn heights_have_gaps_if_that_is_meant_and_never_fall() {
    let files = Files::new();
    let gaps = with_heights(&files, &[7, 9, 400]).output().expect_code(1);
    assert!(gaps.reason().contains("block 8 is missing") && gaps.reason().contains("--allow-gaps"), "{gaps}");
    assert!(gaps.stdout().is_empty(), "known before the first block: {gaps}");
    let output = with_heights(&files, &[7, 9, 400]).with("--allow-gaps").output().expect_code(0);
    assert_eq!(output.heights(), [7, 9, 400]);
    assert_eq!(number(&output.summary(), "tip"), 400);
    let refused = with_heights(&files, &[9, 7]).with("--allow-gaps").output().expect_code(1);
    assert!(refused.reason().contains("height 7 follows height 9"), "{refused}");
    assert!(refused.stdout().is_empty(), "known before the first block: {refused}");
}

#[test]
fn check_chain_takes_a_chain_and_nothing_else() {
    let files = Files::new();
    let linked = with_heights(&files, &[7, 8, 9]).with("--check-chain").output().expect_code(0);
    assert_eq!(linked.heights(), [7, 8, 9]);
    let blocks = cut_records(EARLY_RECORDS);
    let path = files.add("other.bin", &blocks[10]);
    let named = format!("9={}", path.display());
    let unlinked = || with_heights(&files, &[7, 8]).arg(named.as_str());
    let other = unlinked().with("--check-chain").output().expect_code(1);
    assert_eq!(other.heights(), [7, 8], "what does follow is indexed: {other}");
    assert_eq!(number(&other.summary(), "tip"), 8);
    let path = path.display().to_string();
    assert!(other.reason().contains(&path) && other.reason().contains("block before"), "{other}");
    // Without it, nobody asks.
    unlinked().output().expect_code(0);
}

#[test]
fn a_block_is_not_indexed_at_another_height_than_it_names() {
    let late = cofferdam::blocks::bundled().expect("the bundled blocks are there").last();
    let late = late.expect("there is a last one").expect("it is intact").bytes;
    let files = Files::new();
    let path = files.add("late.bin", &late);
    let refused = run().arg("--blocks").arg(format!("5={}", path.display())).output().expect_code(1);
    let told = "would be indexed at height 5, but its coinbase states height 702861 (BIP34)";
    assert!(refused.reason().contains(told) && refused.heights().is_empty(), "{refused}");
    let lone = blocks_from(&[&path]).output().expect_code(1);
    assert!(lone.reason().contains("at height 0, but it is not a genesis block"), "{lone}");
    let named = blocks_from(&[&path]).with("--start-height 702861").output().expect_code(0);
    assert_eq!(named.heights(), [702_861]);
    // Behind others, by name or without one, and on standard input.
    let db = files.at("db");
    blocks_from(&[&files.add("early.blk", EARLY_RECORDS)]).path("--db-path", &db).output().expect_code(0);
    let named = || run().arg("--blocks").arg(format!("702861={}", path.display())).path("--db-path", &db);
    let gap = named().output().expect_code(1);
    assert!(gap.reason().contains("blocks 439 to 702860 are missing"), "{gap}");
    let stream = [EARLY_RECORDS.to_vec(), record(&late)].concat();
    let stream = run().with("--blocks -").stdin(stream).output().expect_code(1);
    assert!(stream.reason().contains("states height 702861"), "{stream}");
    assert_eq!(stream.heights(), (0..439).collect::<Vec<_>>());
    let allowed = named().with("--allow-gaps").output().expect_code(0);
    assert_eq!(allowed.heights(), [702_861]);
}

/// Checks that `count` blocks were indexed and committed before the damage was told.
fn assert_ended_by_damage(output: &Output, count: u64, place: &str) {
    assert_eq!(output.heights(), (0..count).collect::<Vec<_>>(), "{output}");
    assert!(output.blocks().iter().all(|line| line["committed"] == true), "{output}");
    assert_eq!(number(&output.summary(), "tip") + 1, count);
    assert!(output.reason().contains(place), "no {place:?}: {output}");
}

#[test]
fn what_lies_before_a_torn_record_is_indexed() {
    let blocks = cut_records(EARLY_RECORDS);
    let whole: Vec<u8> = blocks[..10].iter().flat_map(|block| record(block)).collect();
    let torn = [whole.as_slice(), &record(&blocks[10])[..100]].concat();
    let files = Files::new();
    let path = files.add("torn.blk", &torn);
    let db = files.at("db");
    let output = blocks_from(&[&path]).path("--db-path", &db).output().expect_code(1);
    assert_ended_by_damage(&output, 10, &format!("{} at byte {}", path.display(), whole.len()));

    // Once the file is whole, the store goes on from there.
    files.add("torn.blk", EARLY_RECORDS);
    let next = blocks_from(&[&path]).path("--db-path", &db).output().expect_code(0);
    assert_eq!(next.heights(), (10..439).collect::<Vec<_>>());
    assert_eq!(next.digest(), early().0);

    let stream = run().with("--blocks -").stdin(torn.clone()).output().expect_code(1);
    assert_ended_by_damage(&stream, 10, &format!("standard input at byte {}", torn.len()));
}

#[test]
fn a_flipped_bit_is_found_before_the_block_is_indexed() {
    let blocks = cut_records(EARLY_RECORDS);
    let mut bytes: Vec<u8> = blocks[..10].iter().flat_map(|block| record(block)).collect();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let at = last + 1 - record(&blocks[9]).len();
    let files = Files::new();
    let path = files.add("flipped.blk", &bytes);
    let output = blocks_from(&[&path]).output().expect_code(1);
    assert_ended_by_damage(&output, 9, &format!("{} at byte {at}", path.display()));
    assert!(output.reason().contains("damaged"), "{output}");
    let stream = run().with("--blocks -").stdin(bytes).output().expect_code(1);
    assert_ended_by_damage(&stream, 9, &format!("standard input at byte {at}"));
}

#[test]
fn opaque_bytes_are_fed_as_they_are() {
    let files = Files::new();
    let blocks = sums_blocks(12, 0);
    // In an order that numbers make, and not letters: 2 before 10.
    for (number, block) in blocks.iter().enumerate() {
        files.add(&format!("in/{number}.bin"), block);
    }
    let opaque = || Cofferdam::run().with("--opaque").path("--module", &guest("cli_sums.wat"));
    let from_files = opaque().path("--blocks", &files.at("in")).output().expect_code(0);
    let records: Vec<u8> = blocks.iter().flat_map(|block| record(block)).collect();
    let from_stdin = opaque().with("--blocks -").stdin(records).output().expect_code(0);
    assert_eq!(from_files.heights(), (0..12).collect::<Vec<_>>());
    assert_eq!(from_files.digest(), from_stdin.digest());
    let later = opaque().with("--start-height 100").path("--blocks", &files.at("in")).output().expect_code(0);
    assert_eq!(later.heights(), (100..112).collect::<Vec<_>>());
    assert_ne!(later.digest(), from_files.digest());
    let refused = Cofferdam::run().path("--module", &guest("cli_sums.wat")).path("--blocks", &files.at("in"));
    assert!(refused.output().expect_code(1).reason().contains("--opaque"), "they are no Bitcoin blocks");
}

#[test]
fn a_block_above_the_limit_is_refused() {
    let files = Files::new();
    let path = files.add("big.bin", vec![7; 3 << 20]);
    let opaque = |limit: &str| {
        let run = Cofferdam::run().path("--module", &guest("cli_sums.wat")).path("--blocks", &path);
        run.with("--opaque --max-block-bytes").arg(limit).output()
    };
    let refused = opaque("2MiB").expect_code(1);
    assert!(refused.reason().contains("--max-block-bytes"), "{refused}");
    // Let in, it is the guest's business: this one has room for 64 KiB.
    let output = opaque("4MiB").expect_code(1);
    assert_eq!(text(&output.blocks()[0], "verdict"), "bad-output", "{output}");
}

#[test]
fn real_chains_of_every_network_are_indexed() {
    for (name, count) in
        [("mainnet-chain.blk", 439), ("testnet3-chain.blk", 401), ("regtest-branch-a.blk", 202)]
    {
        let Some(path) = shared_blocks(name) else { return };
        let output = blocks_from(&[&path]).output().expect_code(0);
        assert_eq!(output.heights(), (0..count).collect::<Vec<_>>(), "{name}");
        assert_eq!(number(&output.summary(), "completed"), count, "{name}");
        if name == "mainnet-chain.blk" {
            assert_eq!(output.digest(), early().0, "the bundled blocks are these");
        }
    }
}

#[test]
fn of_two_branches_the_longer_one_is_the_chain() {
    let (Some(a), Some(b)) = (shared_blocks("regtest-branch-a.blk"), shared_blocks("regtest-branch-b.blk"))
    else {
        return;
    };
    let expected = blocks_from(&[&b]).output().expect_code(0);
    assert_eq!(expected.heights(), (0..203).collect::<Vec<_>>());
    let files = Files::new();
    for (name, from) in [("blk00000.dat", &a), ("blk00001.dat", &b)] {
        fs::copy(from, files.at(name)).expect("it can be copied");
    }
    let orders: [&[&Path]; 3] = [&[&a, &b], &[&b, &a], &[&files.at("")]];
    for order in orders {
        let output = blocks_from(order).output().expect_code(0);
        assert_eq!(output.digest(), expected.digest(), "{order:?}");
        assert_eq!(output.heights(), expected.heights(), "{order:?}");
    }
}

#[test]
fn real_raw_blocks_are_indexed() {
    let heights = [83_636, 413_567, 840_243, 892_614];
    let paths: Option<Vec<PathBuf>> =
        heights.iter().map(|height| shared_blocks(&format!("mainnet-{height}.bin"))).collect();
    let Some(paths) = paths else { return };
    let named = heights.iter().zip(&paths).map(|(height, path)| format!("{height}={}", path.display()));
    let output = named.fold(run().with("--allow-gaps --blocks"), Cofferdam::arg).output().expect_code(0);
    assert_eq!(output.heights(), heights);
    assert!(output.blocks().iter().all(|line| text(line, "verdict") == "completed"), "{output}");
}
