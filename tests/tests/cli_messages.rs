//! Messages say what is wrong, where, and what to do; and what can be found before memory is committed is found then.

use cofferdam_tests::support::command::{Cofferdam, Files, Output, guest};
use cofferdam_tests::support::node::{Node, Place, node};
use cofferdam_tests::support::peer::{Facts, Peer};
use cofferdam_tests::support::regtest::chain;
use serde_json::json;

/// More workers than any machine has memory for: whoever gets as far as memory ends with 137.
const TOO_MANY: &str = "--memory 4GiB --workers 100000";

fn assert_told(output: &Output, parts: &[&str]) {
    for part in parts {
        assert!(output.stderr.contains(part), "no {part:?}: {output}");
    }
}

#[test]
fn memory_for_too_many_workers_is_not_there() {
    // What the other tests rely on.
    let place = Place::default();
    let blocks = place.records("blocks.blk", &chain(3));
    let command = node(&place.at("db")).path("--blocks", &blocks).with(TOO_MANY);
    Node::to_the_end(command).expect_code(137);
    Cofferdam::new(["serve"]).with(TOO_MANY).with("--listen 127.0.0.1:0").output().expect_code(137);
}

#[test]
fn a_node_finds_wrong_paths_before_it_commits_memory() {
    let place = Place::default();
    let files = Files::new();
    let late = place.records("late.blk", &chain(20)[10..]);
    let blocks = place.records("blocks.blk", &chain(3));
    let start = |name: &str| node(&place.at(name)).with(TOO_MANY);
    let missing = Node::to_the_end(start("a").path("--blocks", &files.at("nowhere.blk"))).expect_code(1);
    assert_told(&missing, &["nowhere.blk"]);
    let late = Node::to_the_end(start("b").path("--blocks", &late)).expect_code(1);
    assert_told(&late, &["late.blk", "blocks 0 to 9 are missing"]);
    let module =
        Node::to_the_end(start("c").path("--blocks", &blocks).path("--module", &files.at("no.wasm")));
    assert_told(&module.expect_code(1), &["no.wasm"]);
    let snapshots = start("d").path("--blocks", &blocks).path("--snapshot-directory", &blocks.join("x"));
    assert_told(&Node::to_the_end(snapshots).expect_code(1), &["blocks.blk/x"]);
    for (options, told) in [
        ("--daemon-rpc-url http://127.0.0.1:1 --auth password", "--auth: expected USER:PASSWORD"),
        ("--daemon-rpc-url 127.0.0.1:1", "http://HOST:PORT"),
        ("--auth password", "--auth: expected USER:PASSWORD"),
    ] {
        let refused = Node::to_the_end(start("e").path("--blocks", &blocks).with(options)).expect_code(2);
        assert_told(&refused, &[told]);
    }
}

#[test]
fn a_missing_store_is_found_before_memory_is_committed() {
    let files = Files::new();
    let serve = Cofferdam::new(["serve"]).with(TOO_MANY).path("--db-path", &files.at("nowhere"));
    let take = Cofferdam::new(["snapshot", "take"]).path("--db-path", &files.at("nowhere"));
    for command in [serve, take.path("--to", &files.at("to"))] {
        let missing = command.output().expect_code(1);
        assert_told(&missing, &["there is no store in", "/nowhere", "--db-path"]);
    }
    assert!(!files.at("nowhere").exists() && !files.at("to").exists());
}

#[test]
fn a_network_that_does_not_exist_is_answered_with_those_that_do() {
    let refused = Cofferdam::new(["node", "--db-path", "/dev/null/db", "--network", "mainnet"]);
    let refused = refused.output().expect_code(2);
    assert_told(&refused, &["'mainnet'", "bitcoin (mainnet), testnet, testnet4, signet and regtest"]);
}

#[test]
fn a_module_that_is_none_is_told_with_its_file() {
    let files = Files::new();
    let text = files.add("text.wasm", "this is no module");
    // What follows the header is no section; and a function whose body is not valid, which only the compiler finds.
    let torn = files.add("torn.wasm", b"\0asm\x01\0\0\0\xff\xff\xff");
    let body = files.add("body.wat", "(module (func (export \"_start\") (drop (i32.add (i32.const 1)))))");
    for (path, command) in
        [(&text, "run"), (&torn, "run"), (&body, "run"), (&text, "serve"), (&body, "check")]
    {
        let small = "--memory 16MiB";
        let refused = Cofferdam::new([command]).arg(path).with(small).output().expect_code(1);
        assert!(refused.reason().starts_with(&path.display().to_string()), "{refused}");
    }
    let diff = Cofferdam::new(["diff"]).arg(guest("cli_sums.wat")).path("--compare", &text);
    assert_told(&diff.output().expect_code(2), &["text.wasm: "]);
}

#[test]
fn a_store_of_another_profile_is_told_with_what_differs() {
    let place = Place::default();
    let blocks = place.records("blocks.blk", &chain(3));
    let start = || node(&place.at("db")).path("--blocks", &blocks).with("--exit-at tip");
    Node::to_the_end(start()).expect_code(0);
    for (options, told) in [
        ("--memory 32MiB", "the memory limit (bytes) was 16777216 and is now 33554432. Results"),
        ("--fuel 1000000", "the fuel limit was not metered and is now 1000000. Results"),
        ("--max-output-bytes 1MiB", "the output limit (bytes) was 134217728 and is now 1048576. Results"),
    ] {
        let refused = Node::to_the_end(start().with(options)).expect_code(1);
        assert_told(&refused, &["was made with another profile: ", told]);
    }
    let other = Node::to_the_end(start().path("--module", &guest("ledger.wat"))).expect_code(1);
    assert_told(&other, &["the module (SHA-256) was "]);
}

#[test]
fn nodes_of_two_networks_are_not_compared() {
    let peer = |network: &str| {
        let facts = Facts::new(9);
        let mut about = facts.about.clone();
        about["network"] = json!(network);
        Peer::start(Facts { about, ..facts })
    };
    let (main, test) = (peer("bitcoin"), peer("signet"));
    let audit = Cofferdam::new(["audit"]).arg("--peer").arg(main.url()).arg("--peer").arg(test.url());
    let refused = audit.output().expect_code(2);
    let told = format!("{} is on bitcoin and {} is on signet", main.url(), test.url());
    assert_told(&refused, &[&told, "nothing to compare"]);
    assert!(main.heights().is_empty(), "no digest was asked for");
}

#[test]
fn a_log_has_no_values_of_the_language_in_it() {
    let place = Place::default();
    let blocks = place.records("blocks.blk", &chain(3));
    let start = || node(&place.at("db")).path("--blocks", &blocks).with("--exit-at tip --log trace");
    let first = Node::to_the_end(start()).expect_code(0);
    assert_told(&first, &["ended: the newest block is 2"]);
    let ours = first.stderr.lines().filter(|line| line.contains("cofferdam"));
    for line in ours {
        assert!(!line.contains("Some(") && !line.contains("None"), "{line}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_found_before_a_cell_runs() {
    let files = Files::new();
    let check = Cofferdam::new(["check"]).path("--junit", &files.at("nowhere/report.xml"));
    assert_told(&check.output().expect_code(1), &["nowhere/report.xml: No such file or directory"]);
}
