//! `cofferdam diff`: two modules that differ somewhere are found to differ there, by the block and the key, and two that
//! do not are found equal.

use std::path::{Path, PathBuf};

use cofferdam_tests::support::cgroup::ChildCgroup;
use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cut_records, guest, number, record, sums_blocks, text,
};
use cofferdam_tests::support::random::Random;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The bundled blocks that follow each other: mainnet 0 to this one.
const LAST: u32 = 438;

fn diff(a: &Path, b: &Path) -> Cofferdam<'static> {
    diff_within("16MiB", a, b)
}

fn diff_within(memory: &str, a: &Path, b: &Path) -> Cofferdam<'static> {
    Cofferdam::new(["diff", "--json", "--memory", memory]).path("--indexer", a).path("--compare", b)
}

/// The same over the blocks that follow each other.
fn early(a: &Path, b: &Path) -> Cofferdam<'static> {
    diff(a, b).with(&format!("--exit-at {LAST}"))
}

fn sums() -> PathBuf {
    guest("cli_sums.wat")
}

/// `cli_sums.wat` with `code` before each flush. The block's height stands at 1024.
fn changed_sums(files: &Files, name: &str, code: &str) -> PathBuf {
    const FLUSH: &str = "(call $flush (i32.const 64)))\n";
    let text = std::fs::read_to_string(sums()).expect("the guest is there");
    assert_eq!(text.matches(FLUSH).count(), 1, "the guest flushes in one place");
    files.add(name, text.replace(FLUSH, &format!("{code}\n    {FLUSH}")))
}

/// One bit changed in the byte at `address`, which is in what is flushed, at one height.
fn planted(height: u32, address: u32, bit: u32) -> String {
    let at = format!("(i32.const {address})");
    format!(
        "(if (i32.eq (i32.load (i32.const 1024)) (i32.const {height})) (then
          (i32.store8 {at} (i32.xor (i32.load8_u {at}) (i32.const {})))))",
        1 << bit
    )
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value, "hex")).expect("it is hexadecimal")
}

fn equal(output: &Output) -> Value {
    let report = output.object();
    assert_eq!(report["difference"], Value::Null, "{output}");
    report
}

#[test]
fn one_byte_planted_at_a_random_height_is_found() {
    let files = Files::new();
    let blocks = cut_records(EARLY_RECORDS);
    let mut random = Random::seeded();
    let mut below = |end: u32| u32::try_from(random.below(end.into())).expect("it is below a u32");
    for round in 0..5 {
        let (height, byte, bit) = (below(LAST + 1), below(8), below(8));
        // The value under `h` and the height is at 88.
        let b = changed_sums(&files, &format!("{round}.wat"), &planted(height, 88 + byte, bit));
        let output = early(&sums(), &b).output().expect_code(1);
        let (report, found) = (output.object(), output.object()["difference"].clone());
        assert_eq!(
            (number(&found, "height"), text(&found, "kind").as_str()),
            (height.into(), "writes"),
            "{output}"
        );
        let block: bitcoin::Block =
            bitcoin::consensus::deserialize(&blocks[height as usize]).expect("a block");
        assert_eq!(text(&found, "block"), block.block_hash().to_string());
        assert_eq!(bytes(&found["key"]), [b"h".as_slice(), &height.to_le_bytes()].concat());
        let [left, right] = ["indexer", "compare"].map(|side| bytes(&found[side]));
        let differing: Vec<_> = (0..8).filter(|at| left[*at] != right[*at]).collect();
        assert_eq!((left.len(), right.len(), differing), (8, 8, vec![byte as usize]));
        assert_eq!(left[byte as usize] ^ right[byte as usize], 1 << bit);
        let keys = &found["keys"];
        assert_eq!(
            ["differing", "values", "only_indexer", "only_compare"].map(|name| number(keys, name)),
            [1, 1, 0, 0]
        );
        assert_eq!(number(&report, "blocks"), u64::from(height), "everything before it is equal");

        // Other keys are the same, and none of them is left out.
        let output = early(&sums(), &b).with("--prefix 0x73756d").output().expect_code(0);
        let report = equal(&output);
        assert_eq!(["blocks", "keys"].map(|name| number(&report, name)), [u64::from(LAST) + 1; 2]);
        // The key begins with this.
        early(&sums(), &b).with("--prefix 68").output().expect_code(1);
    }
}

#[test]
fn a_module_is_equal_to_itself_over_every_bundled_block() {
    let files = Files::new();
    let sample = files.add("sample.wasm", cofferdam::sample::MODULE);
    let output = diff_within("64MiB", &sample, &sample).output().expect_code(0);
    let report = equal(&output);
    assert_eq!(
        ["blocks", "first_height", "last_height"].map(|name| number(&report, name)),
        [440, 0, 702_861]
    );
    assert_eq!(report["verdicts"], json!({ "completed": 440 }));
    assert!(number(&report, "keys") > 440, "{output}");
    assert_eq!((&report["interrupted"], &report["error"]), (&json!(false), &Value::Null));
}

#[test]
fn a_state_that_differs_shows_where_it_is_read() {
    // What is changed is read back by the block after it, and all of that one's sum follows.
    let files = Files::new();
    let b = changed_sums(&files, "b.wat", &planted(100, 71, 0));
    let output = early(&sums(), &b).with("--prefix 68").output().expect_code(1);
    let found = output.object()["difference"].clone();
    assert_eq!(number(&found, "height"), 101, "{output}");
    let output = early(&sums(), &b).output().expect_code(1);
    let found = output.object()["difference"].clone();
    assert_eq!((number(&found, "height"), text(&found["key"], "text").as_str()), (100, "sum"), "{output}");
}

#[test]
fn a_trap_in_one_is_a_difference_and_in_both_is_none() {
    let files = Files::new();
    let traps = guest("cli_traps_at_7.wat");
    let text_of = std::fs::read_to_string(&traps).expect("the guest is there");
    let goes_on = files.add("goes_on.wat", text_of.replace("(i32.const 7)", "(i32.const -1)"));
    let output = early(&traps, &goes_on).output().expect_code(1);
    let found = output.object()["difference"].clone();
    assert_eq!((number(&found, "height"), text(&found, "kind").as_str()), (7, "verdict"), "{output}");
    assert_eq!(["indexer", "compare"].map(|side| text(&found[side], "verdict")), ["trap", "completed"]);
    assert!(text(&found["indexer"], "detail").contains("unreachable"), "{output}");

    let output = early(&traps, &traps).output().expect_code(0);
    let report = equal(&output);
    assert_eq!(report["verdicts"], json!({ "completed": LAST, "trap": 1 }));
    assert!(output.stderr.contains("block 7: both modules end with trap"), "{output}");
}

#[test]
fn people_are_told_the_key_and_both_values() {
    let files = Files::new();
    // A longer name for the key of the sum, at one height.
    let b = changed_sums(
        &files,
        "b.wat",
        "(if (i32.eq (i32.load (i32.const 1024)) (i32.const 9)) (then (i32.store8 (i32.const 66) (i32.const 0x53))))",
    );
    let command =
        Cofferdam::new(["diff", "--memory", "16MiB"]).path("--indexer", &sums()).path("--compare", &b);
    let output = command.with(&format!("--exit-at {LAST}")).output().expect_code(1);
    let text = output.stdout();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("block 9 differs ("), "{output}");
    assert_eq!((lines[1], lines[2]), ("  key  0x53756d \"Sum\" (3 bytes)", "  A    absent"), "{output}");
    assert!(lines[3].starts_with("  B    0x") && lines[3].ends_with(" (8 bytes)"), "{output}");
    assert_eq!(lines[4], "  2 keys of this block differ: 0 with another value, 1 in A alone, 1 in B alone");
    assert_eq!(lines[5], "equal before it: 9 blocks (heights 0 to 8), 18 keys: 9 completed");
}

#[test]
fn blocks_come_from_wherever_run_takes_them() {
    let files = Files::new();
    let blocks = sums_blocks(12, 0);
    let stream: Vec<u8> = blocks.iter().flat_map(|block| record(block)).collect();
    let b = changed_sums(&files, "b.wat", &planted(105, 88, 0));
    let over =
        |a: &Path, b: &Path| diff(a, b).with("--opaque --start-block 100 --blocks -").stdin(stream.clone());
    let report = over(&sums(), &b).output().expect_code(1).object();
    assert_eq!(number(&report["difference"], "height"), 105);
    let report = over(&sums(), &sums()).output().expect_code(0).object();
    assert_eq!(["first_height", "last_height"].map(|name| number(&report, name)), [100, 111]);
    // The last height that is compared is one of them.
    let report = over(&sums(), &b).with("--exit-at 104").output().expect_code(0).object();
    assert_eq!(number(&report, "last_height"), 104);
    over(&sums(), &b).with("--exit-at 105").output().expect_code(1);
}

#[test]
fn what_compares_nothing_says_so() {
    let command = Cofferdam::new(["diff", "--memory", "16MiB", "--exit-at", "20", "--prefix", "0xff"]);
    let output = command.path("--indexer", &sums()).path("--compare", &sums()).output().expect_code(0);
    assert!(output.stdout().contains("21 blocks (heights 0 to 20), 0 keys with prefix 0xff"), "{output}");
    assert!(output.stdout().contains("note: no key was compared"), "{output}");
}

#[test]
fn what_cannot_be_compared_ends_with_2() {
    let files = Files::new();
    let missing = files.at("missing.wasm");
    let output = diff(&sums(), &missing).output().expect_code(2);
    assert!(output.reason().contains("missing.wasm"), "{output}");
    let broken = files.add("broken.wasm", "no module");
    diff(&sums(), &broken).output().expect_code(2);
    for prefix in ["0xzz", "0x1", "key"] {
        let output = diff(&sums(), &sums()).with("--prefix").arg(prefix).output().expect_code(2);
        assert!(output.stderr.contains("--prefix"), "{output}");
    }
    Cofferdam::new(["diff"]).path("--indexer", &sums()).output().expect_code(2);
    // Blocks that end in the middle of one: what came before is compared, and the end is not hidden.
    let mut torn: Vec<u8> = sums_blocks(3, 0).iter().flat_map(|block| record(block)).collect();
    torn.pop();
    let output = diff(&sums(), &sums()).with("--opaque --blocks -").stdin(torn).output().expect_code(2);
    let report = equal(&output);
    assert_eq!(number(&report, "blocks"), 2, "{output}");
    assert!(report["error"].is_string(), "{output}");
}

#[test]
fn an_interruption_is_no_agreement() {
    let mut running = diff(&sums(), &sums()).with("--opaque --blocks -").open_stdin().start();
    running.await_workers(2);
    running.feed(&record(&sums_blocks(1, 0)[0]));
    running.signal(Signal::SIGTERM);
    running.finish().expect_code(2);
}

#[test]
fn memory_for_one_of_two_is_refused_beforehand() {
    const MIB: u64 = 1 << 20;
    // Enough for one worker and what is beside it, and not for two.
    let Some(cgroup) = ChildCgroup::limited_to(1100 * MIB) else { return };
    let memory = "--memory 512MiB --max-output-bytes 8MiB --max-block-bytes 8MiB";
    let one = Cofferdam::new(["run", "--json", "--spares", "0"]).with(memory).within(&cgroup);
    one.output().expect_code(0);
    let command = Cofferdam::new(["diff"]).path("--indexer", &sums()).path("--compare", &sums()).with(memory);
    let output = command.within(&cgroup).output().expect_code(137);
    assert!(output.reason().contains("2 workers need"), "{output}");
}
