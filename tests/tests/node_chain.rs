//! `cofferdam node` and its chain: from files and from a daemon, over reorganisations, to the same store as a node that saw
//! nothing but the final chain.

use std::path::{Path, PathBuf};

use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, cut_records, guest, number, shared_blocks, wait_until,
};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, contents, expected_sum, hash_text, node, open};
use cofferdam_tests::support::regtest::{chain, extend, extend_with};
use serde_json::json;

/// Indexes files to their end.
fn index_files(db: &Path, files: &[&Path]) {
    let mut command = node(db).with("--exit-at tip").arg("--blocks");
    for file in files {
        command = command.arg(*file);
    }
    Node::to_the_end(command).expect_code(0);
}

#[test]
fn branch_a_and_then_branch_b_end_in_the_store_of_branch_b_alone() {
    let place = Place::default();
    let (mut a, mut b) = {
        let common = chain(40);
        (extend(&common, 3, 1), extend(&common, 4, 2))
    };
    let mut pairs: Vec<(PathBuf, PathBuf, &str)> =
        vec![(place.records("a.blk", &a), place.records("b.blk", &b), "made")];
    if let (Some(real_a), Some(real_b)) =
        (shared_blocks("regtest-branch-a.blk"), shared_blocks("regtest-branch-b.blk"))
    {
        pairs.push((real_a, real_b, "real"));
    }
    for (file_a, file_b, name) in pairs {
        (a, b) = (
            cut_records(&std::fs::read(&file_a).expect("it is there")),
            cut_records(&std::fs::read(&file_b).expect("it is there")),
        );
        let (both, alone) = (place.at(&format!("{name}-both")), place.at(&format!("{name}-alone")));
        index_files(&both, &[&file_a]);
        assert_eq!(contents(&both).0.len(), a.len());
        index_files(&both, &[&file_b]);
        index_files(&alone, &[&file_b]);
        assert_eq!(contents(&both), contents(&alone), "{name}");
        assert_eq!(contents(&alone).0.len(), b.len());
        // And a third time there is nothing to do.
        index_files(&both, &[&file_b]);
        assert_eq!(contents(&both), contents(&alone), "{name}");
    }
}

#[test]
fn real_chains_are_indexed_from_files() {
    let place = Place::default();
    let mainnet = place.at("mainnet.blk");
    std::fs::write(&mainnet, EARLY_RECORDS).expect("it can be written");
    let mut chains = vec![(mainnet, 439)];
    chains.extend(shared_blocks("testnet3-chain.blk").map(|path| (path, 401)));
    for (file, count) in chains {
        let blocks = cut_records(&std::fs::read(&file).expect("it is there"));
        assert_eq!(blocks.len(), count);
        let db = place.at(&format!("db-{count}"));
        let node = Node::start(node(&db).path("--blocks", &file));
        node.await_tip(&blocks[count - 1]);
        // It serves on, without a daemon.
        node.await_ready();
        assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&blocks))));
        assert_eq!(node.sum(&json!(7)), Ok(json!(expected_sum(&blocks[..8]))));
        assert_eq!(node.height(), Some(u32::try_from(count - 1).expect("a short chain")));
        node.end();
    }
}

#[test]
fn run_and_node_make_the_same_store_of_the_same_blocks() {
    let place = Place::default();
    let file = place.at("mainnet.blk");
    std::fs::write(&file, EARLY_RECORDS).expect("it can be written");
    let (by_run, by_node) = (place.at("run"), place.at("node"));
    let run = |db: &Path| {
        let run = Cofferdam::run().path("--module", &guest("chain.wat"));
        run.path("--blocks", &file).path("--db-path", db).output().expect_code(0)
    };
    let output = run(&by_run);
    index_files(&by_node, &[&file]);
    let expected = contents(&by_node);
    assert_eq!(contents(&by_run), expected);
    assert_eq!(expected.0.len(), 439);
    let tip = open(&by_run).tip().expect("it can be read").expect("it has blocks");
    assert_eq!(output.digest(), tip.digest.to_string());
    // Each of them goes on from the store of the other.
    let again = run(&by_node);
    assert_eq!((again.digest(), number(&again.summary(), "skipped")), (output.digest(), 439));
    index_files(&by_run, &[&file]);
    assert_eq!((contents(&by_run), contents(&by_node)), (expected.clone(), expected));
}

#[test]
fn a_daemon_is_followed_over_reorganisations() {
    let place = Place::default();
    let common = chain(50);
    let daemon = Daemon::start(&common);
    let db = place.at("db");
    let node = Node::start(node(&db).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&common[49]);
    node.await_ready();
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&common))));

    // One block, and then a better branch, twice.
    let a = extend(&common, 5, 1);
    daemon.adopt(&a[..51]);
    node.await_tip(&a[50]);
    daemon.adopt(&a);
    node.await_tip(&a[54]);
    let b = extend(&common, 6, 2);
    daemon.adopt(&b);
    node.await_tip(&b[55]);
    for height in [0, 49, 50, 55] {
        assert_eq!(node.sum(&json!(height)), Ok(json!(expected_sum(&b[..=height]))), "at {height}");
        let hash = node.ask("metashrew_getblockhash", &json!([height]));
        assert_eq!(hash, json!(format!("0x{}", hash_text(&b[height]))));
    }
    // A shorter branch, as `invalidateblock` leaves: what is above it is refused from then on.
    let c = extend(&common[..45], 3, 3);
    daemon.adopt(&c);
    node.await_tip(&c[47]);
    let refused = node.sum(&json!(48)).expect_err("it was abandoned");
    assert_eq!((&refused["code"], &refused["data"]["tip"]), (&json!(-32003), &json!(47)), "{refused}");
    let d = extend(&c, 30, 4);
    daemon.adopt(&d);
    node.await_tip(&d[77]);
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&d))));
    let chain_status = node.chain();
    assert!(chain_status["reorgs"].as_u64() >= Some(2), "{chain_status}");
    assert_eq!(node.metrics().get("cofferdam_chain_height"), 77.0);
    wait_until("the lag is known", || (node.metrics().get("cofferdam_chain_lag") == 0.0).then_some(()));
    node.end();

    let alone = place.at("alone");
    Node::to_the_end(self::node(&alone).with(&format!("--exit-at 77 --daemon-rpc-url {}", daemon.url())))
        .expect_code(0);
    assert_eq!(contents(&db), contents(&alone));
}

#[test]
fn files_first_and_then_the_daemon() {
    let place = Place::default();
    let chain = chain(60);
    let file = place.records("first.blk", &chain[..30]);
    let daemon = Daemon::start(&chain);
    let db = place.at("db");
    let command = node(&db).path("--blocks", &file).with(&format!("--daemon-rpc-url {}", daemon.url()));
    let node = Node::start(command);
    node.await_tip(&chain[59]);
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&chain))));
    assert_eq!(daemon.calls("getblock"), 30, "the others were in the files");
    node.end();
}

#[test]
fn a_reorganisation_that_is_too_deep_stops_the_node_with_the_reason() {
    let place = Place::default();
    let common = chain(20);
    let (a, b) = (extend(&common, 6, 1), extend(&common, 7, 2));
    let daemon = Daemon::start(&a);
    let db = place.at("db");
    let command =
        |depth| node(&db).with(&format!("--max-reorg-depth {depth} --daemon-rpc-url {}", daemon.url()));
    let node = Node::start(command(5));
    node.await_tip(&a[25]);
    daemon.adopt(&b);
    let output = node.running.finish().expect_code(1);
    assert!(output.stderr.contains("max-reorg-depth"), "{output}");
    assert_eq!(contents(&db).0.len(), 26, "nothing was taken back");
    // Allowed, it goes on.
    let node = Node::start(command(6));
    node.await_tip(&b[26]);
    node.end();
}

#[test]
fn a_block_that_traps_stops_the_chain_or_is_skipped() {
    let place = Place::default();
    let blocks = chain(12);
    let file = place.records("chain.blk", &blocks);
    let command = |db: &str| {
        let node = node(&place.at(db)).path("--blocks", &file).with("--exit-at tip");
        node.path("--indexer", &guest("cli_traps_at_7.wat"))
    };
    let output = Node::to_the_end(command("stop")).expect_code(1);
    assert!(output.stderr.contains("block 7") && output.stderr.contains("trap"), "{output}");
    assert!(output.stderr.contains("ended: the newest block is 6"), "{output}");
    let output = Node::to_the_end(command("skip").with("--on-guest-failure skip")).expect_code(0);
    assert!(output.stderr.contains("ended: the newest block is 11"), "{output}");
}

#[test]
fn two_workers_that_disagree_stop_the_node_before_the_block() {
    let place = Place::default();
    let blocks = chain(12);
    let file = place.records("chain.blk", &blocks);
    let (db, alone) = (place.at("db"), place.at("alone"));
    let command =
        |db: &Path| node(db).path("--blocks", &file).with("--exit-at tip --workers 2 --redundancy 2");
    let output = Node::to_the_end(command(&db).with("--plant-fault 5:lie")).expect_code(1);
    assert!(output.stderr.contains("block 5 has different results on workers"), "{output}");
    assert_eq!(contents(&db).0.len(), 5);
    Node::to_the_end(command(&db)).expect_code(0);
    index_files(&alone, &[&file]);
    assert_eq!(contents(&db), contents(&alone));
}

#[test]
fn large_blocks_are_fetched_ahead() {
    let place = Place::default();
    let blocks = extend_with(&chain(1), 12, 0, 1_000_000);
    let daemon = Daemon::start(&blocks);
    let db = place.at("db");
    let node = Node::start(node(&db).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&blocks[12]);
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&blocks))));
    node.end();
}

#[test]
fn snapshots_are_taken_as_blocks_are_indexed_and_a_node_starts_from_one() {
    let place = Place::default();
    let blocks = chain(60);
    let daemon = Daemon::start(&blocks[..31]);
    let (db, snapshots, other) = (place.at("db"), place.at("snapshots"), place.at("other"));
    let node = Node::start(
        node(&db)
            .with(&format!("--snapshot-interval 30 --daemon-rpc-url {}", daemon.url()))
            .path("--snapshot-directory", &snapshots),
    );
    node.await_tip(&blocks[30]);
    let snapshot = wait_until("it is there", || {
        let names = std::fs::read_dir(&snapshots)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.into_iter().find(|name| name.starts_with("snapshot-"))
    });
    let digest = node.ask("cofferdam_digest", &json!([30]));
    daemon.adopt(&blocks);
    node.await_tip(&blocks[59]);
    node.end();
    assert!(snapshot.contains("30"), "{snapshot}");

    // Wherever it is taken to, it goes on as the first one did.
    let restore =
        Cofferdam::new(["snapshot", "restore"]).arg(snapshots.join(&snapshot)).path("--db-path", &other);
    restore.arg("--digest").arg(digest["digest"].as_str().expect("a hash")).output().expect_code(0);
    let before = daemon.calls("getblock");
    let url = daemon.url();
    Node::to_the_end(self::node(&other).with(&format!("--exit-at 59 --daemon-rpc-url {url}"))).expect_code(0);
    assert_eq!(contents(&other), contents(&db));
    assert_eq!(daemon.calls("getblock") - before, 29, "the rest was in the snapshot");
}
