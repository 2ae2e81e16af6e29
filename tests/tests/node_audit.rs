//! `cofferdam audit`: nodes that agree are said to, and of those that do not, the first block at which they part is found
//! in a few questions, and told from what only looks like it.

use std::collections::BTreeMap;
use std::net::TcpListener;

use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, cut_records, guest, number, record, text,
};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, node};
use cofferdam_tests::support::peer::{Facts, Peer};
use cofferdam_tests::support::random::Random;
use cofferdam_tests::support::regtest::{chain, extend};
use serde_json::{Value, json};

fn audit(peers: &[&Peer]) -> Cofferdam<'static> {
    let urls = peers.iter().map(|peer| peer.url());
    urls.fold(Cofferdam::new(["audit"]), |command, url| command.arg("--peer").arg(url))
}

fn as_json(peers: &[&Peer], code: i32) -> Value {
    audit(peers).with("--json").output().expect_code(code).object()
}

fn parting(report: &Value) -> Value {
    let partings = report["partings"].as_array().expect("a list");
    assert_eq!(partings.len(), 1, "{report}");
    partings[0].clone()
}

/// Asked once what it is, and about no height twice.
fn assert_asked_once(peer: &Peer) {
    let (asked, heights) = (peer.asked(), peer.heights());
    assert_eq!(asked.len(), heights.len() + 1, "{asked:?}");
    let mut distinct = heights.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), heights.len(), "{heights:?}");
}

#[test]
fn nodes_that_agree_are_asked_two_questions() {
    let peers = [Peer::start(Facts::new(900_000)), Peer::start(Facts::new(899_123))];
    let [a, b] = &peers;
    let output = audit(&[a, b]).output().expect_code(0);
    let (_, digest) = a.has(899_123);
    assert!(
        output.stdout().starts_with(&format!("agree up to height 899123, digest {digest}\n")),
        "{output}"
    );
    for peer in &peers {
        assert_eq!(peer.heights(), [899_123]);
        assert_asked_once(peer);
    }
    let report = as_json(&[a, b], 0);
    assert_eq!(
        (&report["agree"], &report["height"], &report["error"]),
        (&json!(true), &json!(899_123), &Value::Null)
    );
    assert_eq!(report["groups"][0]["digest"], digest.as_str());
}

#[test]
fn the_first_block_with_other_results_is_found_in_few_questions() {
    let mut random = Random::seeded();
    for _ in 0..5 {
        let tip = 900_000;
        let at = u32::try_from(random.below(tip + 1)).expect("a height");
        let tip = u32::try_from(tip).expect("a height");
        let a = Peer::start(Facts::new(tip));
        let b = Peer::start(Facts { parts_at: Some(at), ..Facts::new(tip + 7) });
        let output = audit(&[&a, &b]).with("--json").output().expect_code(1);
        let found = parting(&output.object());
        assert_eq!(
            (number(&found, "height"), text(&found, "cause").as_str()),
            (at.into(), "results"),
            "{output}"
        );
        assert_eq!(found["agreed"].as_u64(), u64::from(at).checked_sub(1), "{output}");
        for (side, peer) in [&a, &b].into_iter().enumerate() {
            let side = &found["sides"][side];
            assert_eq!((text(side, "block"), text(side, "digest")), peer.has(at), "{output}");
            assert_eq!(text(side, "node"), peer.url());
            assert_asked_once(peer);
            // ⌈log2(900,001)⌉ and the upper end.
            assert!(peer.heights().len() <= 20 + 1, "{:?}", peer.heights());
        }
    }
}

#[test]
fn people_are_told_what_a_difference_means() {
    let a = Peer::start(Facts::new(1000));
    let b = Peer::start(Facts { parts_at: Some(640), ..Facts::new(1000) });
    let output = audit(&[&a, &b]).output().expect_code(1);
    let said = output.stdout();
    assert!(
        said.starts_with(&format!("{} and {} differ from height 640 on\n", a.url(), b.url())),
        "{output}"
    );
    assert!(said.contains("agree up to height 639"), "{output}");
    assert!(said.contains("the same block gave different results"), "{output}");

    let b = Peer::start(Facts { parts_at: Some(990), forks_at: Some(990), ..Facts::new(1000) });
    let output = audit(&[&a, &b]).output().expect_code(1);
    assert!(output.stdout().contains("they indexed different blocks at height 990"), "{output}");
    assert_eq!(text(&parting(&as_json(&[&a, &b], 1)), "cause"), "blocks");
}

#[test]
fn a_later_start_is_the_lower_end() {
    let a = Peer::start(Facts::new(1000));
    let b = Peer::start(Facts { start: 300, parts_at: Some(800), ..Facts::new(1000) });
    let output = audit(&[&a, &b]).output().expect_code(1);
    assert!(output.stdout().contains("differ from height 800 on"), "{output}");
    assert!(
        output.stdout().contains(&format!("the comparison begins at height 300, where {} begins", b.url())),
        "{output}"
    );
    assert!([&a, &b].iter().all(|peer| peer.heights().iter().all(|height| *height >= 300)));
    // Digests of chains that began at different blocks say nothing.
    let b = Peer::start(Facts { start: 300, parts_at: Some(300), ..Facts::new(1000) });
    let report = as_json(&[&a, &b], 2);
    assert_eq!((&report["agree"], text(&parting(&report), "cause").as_str()), (&Value::Null, "start"));
}

#[test]
fn the_odd_one_among_many_is_named() {
    let good: Vec<_> = (0..3).map(|more| Peer::start(Facts::new(5000 + more))).collect();
    let odd = Peer::start(Facts { parts_at: Some(1234), ..Facts::new(5000) });
    let peers = [&odd, &good[0], &good[1], &good[2]];
    let report = as_json(&peers, 1);
    let found = parting(&report);
    assert_eq!((number(&found, "height"), &report["majority"]), (1234, &json!(true)), "{report}");
    let sides = [0, 1].map(|side| text(&found["sides"][side], "node"));
    assert_eq!(sides, [good[0].url(), odd.url()]);
    assert_eq!((good[1].heights().len(), good[2].heights().len()), (1, 1), "they agree with the first");
    let output = audit(&peers).output().expect_code(1);
    assert!(output.stdout().contains("at height 5000 there are 2 groups:\n"), "{output}");
}

#[test]
fn other_profiles_are_not_compared() {
    let about = |memory: u64| {
        json!({
            "version": "0.1.0", "profile": format!("{memory:064x}"), "module": "44".repeat(32), "memory_bytes": memory,
            "fuel": null, "output_bytes": 1, "engine": "e",
        })
    };
    let a = Peer::start(Facts { about: about(1 << 32), ..Facts::new(10) });
    let b = Peer::start(Facts { about: about(1 << 31), ..Facts::new(10) });
    let output = audit(&[&a, &b]).output().expect_code(2);
    let part = "  memory limit: 4 GiB (4294967296 bytes) and 2 GiB (2147483648 bytes)";
    assert!(output.stderr.contains("have different profiles") && output.stderr.contains(part), "{output}");
    assert!(output.stdout().is_empty() && a.heights().is_empty() && b.heights().is_empty(), "{output}");
    let report = as_json(&[&a, &b], 2);
    assert_eq!(report["agree"], Value::Null);
    assert!(text(&report, "error").contains("memory limit"), "{report}");
}

#[test]
fn what_cannot_be_audited_ends_with_2() {
    let a = Peer::start(Facts::new(10));
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", nobody.local_addr().expect("it is bound"));
    drop(nobody);
    let output = audit(&[&a]).with(&format!("--peer {url}")).output().expect_code(2);
    assert!(output.reason().starts_with(&format!("{url}: the node cannot be reached")), "{output}");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", silent.local_addr().expect("it is bound"));
    let output = audit(&[&a]).with(&format!("--timeout 100ms --peer {url}")).output().expect_code(2);
    assert!(output.reason().contains("no answer within 100ms"), "{output}");
    let output = audit(&[&a]).output().expect_code(2);
    assert!(output.reason().contains("two nodes or more"), "{output}");
    let output = audit(&[&a, &a]).output().expect_code(2);
    assert!(output.reason().contains("is given twice"), "{output}");
    let output = audit(&[&a]).with("--peer https://me:secret@host").output().expect_code(2);
    assert!(output.reason().contains("TLS") && !output.stderr.contains("secret"), "{output}");
    let late = Peer::start(Facts { start: 20, ..Facts::new(30) });
    let output = audit(&[&a, &late]).output().expect_code(2);
    assert!(output.reason().contains("no common height"), "{output}");
    let output = audit(&[&a, &Peer::start(Facts::new(20))]).with("--at 11").output().expect_code(2);
    assert!(
        output.reason().contains("--at 11 is out of range: all nodes have the heights from 0 to 10"),
        "{output}"
    );
    Cofferdam::new(["audit"]).output().expect_code(2);
}

/// What `run --json` said of each block: its hash and the digest with it.
fn chain_of(output: &Output) -> BTreeMap<u32, (String, String)> {
    let line = |line: &Value| {
        let height = u32::try_from(number(line, "height")).expect("a height");
        (height, (text(line, "hash"), text(line, "digest")))
    };
    output.blocks().iter().map(line).collect()
}

#[test]
fn the_own_store_is_compared_while_it_is_written() {
    let files = Files::new();
    let sums = guest("cli_sums.wat");
    let run = || Cofferdam::run().path("--module", &sums).arg("--blocks").arg("-");
    let stream: Vec<u8> = cut_records(EARLY_RECORDS).iter().flat_map(|block| record(block)).collect();
    let whole = run().stdin(stream.clone()).output().expect_code(0);
    let about = json!({ "profile": whole.summary()["profile"] });
    let facts = Facts { about, chain: chain_of(&whole), ..Facts::new(438) };
    let good = Peer::start(facts.clone());
    let bad = Peer::start(Facts { parts_at: Some(300), ..facts });
    let store = files.at("store");
    let against = |peer: &Peer| audit(&[peer]).with("--json").path("--db-path", &store);
    let missing = against(&good).output().expect_code(2);
    assert!(missing.reason().contains("data.mdb is missing"), "{missing}");

    let mut writing = run().path("--db-path", &store).open_stdin().start();
    writing.feed(&stream);
    // Its writer is still there, and waits for more.
    let lines = writing.next_lines(400);
    let written = lines.last().map(|line| number(line, "height"));
    let report = against(&good).output().expect_code(0).object();
    assert_eq!(report["agree"], true, "{report}");
    assert!(report["height"].as_u64() >= written, "{report}");
    let found = parting(&against(&bad).output().expect_code(1).object());
    assert_eq!((number(&found, "height"), text(&found, "cause").as_str()), (300, "results"));
    assert_eq!(text(&found["sides"][0], "node"), store.display().to_string());
    writing.end_input();
    writing.finish().expect_code(0);
    let report = against(&good).with("--at 17").output().expect_code(0).object();
    assert_eq!(report["groups"][0]["digest"], chain_of(&whole)[&17].1.as_str());
}

#[test]
fn real_nodes_answer_what_an_audit_asks() {
    let place = Place::default();
    let blocks = chain(40);
    let forked = extend(&blocks[..30], 12, 7);
    let (daemon, other) = (Daemon::start(&blocks), Daemon::start(&forked));
    let start = |name: &str, daemon: &Daemon, more: &str| {
        let command = node(&place.at(name)).with(&format!("--daemon-rpc-url {}", daemon.url()));
        Node::start(command.with(more))
    };
    let nodes = [start("a", &daemon, ""), start("b", &daemon, ""), start("c", &other, "")];
    nodes[0].await_tip(&blocks[39]);
    nodes[1].await_tip(&blocks[39]);
    nodes[2].await_tip(&forked[41]);
    let audit = |peers: &[&Node]| {
        peers.iter().fold(Cofferdam::new(["audit", "--json"]), |command, peer| {
            command.arg("--peer").arg(format!("http://{}", peer.address))
        })
    };
    let [a, b, c] = &nodes;
    let report = audit(&[a, b]).path("--db-path", &place.at("a")).output().expect_code(0).object();
    assert_eq!((&report["agree"], &report["height"]), (&json!(true), &json!(39)), "{report}");
    let found = parting(&audit(&[a, c]).output().expect_code(1).object());
    assert_eq!((number(&found, "height"), text(&found, "cause").as_str()), (30, "blocks"), "{found}");

    // A worker that gave a wrong result, once; the only one, so that it is the one that is asked.
    let wrong = start("e", &daemon, "--workers 1 --plant-fault 25:lie");
    wrong.await_tip(&blocks[39]);
    let output = audit(&[a, &wrong]).output().expect_code(1);
    let found = parting(&output.object());
    assert_eq!((number(&found, "height"), text(&found, "cause").as_str()), (25, "results"), "{output}");
    wrong.end();

    let small = start("d", &daemon, "--memory 32MiB");
    small.await_tip(&blocks[39]);
    let output = audit(&[a, &small]).output().expect_code(2);
    let part = "memory limit: 16 MiB (16777216 bytes) and 32 MiB (33554432 bytes)";
    assert!(output.stderr.contains(part), "{output}");
    small.end();
    nodes.into_iter().for_each(|node| drop(node.end()));
}
