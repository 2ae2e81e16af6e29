//! What of a node is measured, and not asserted: figures of the machine that they are taken on.
//!
//! `cargo test --release --test node_measures -- --ignored --nocapture --test-threads 1`, on a machine that does nothing else.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use cofferdam_tests::support::command::{Cofferdam, shared_blocks, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, call, node};
use cofferdam_tests::support::random::Random;
use cofferdam_tests::support::regtest::{chain, extend_filled, extend_with};
use cofferdam_tests::support::serve::Client;
use serde_json::json;

/// Blocks a second from the first to the last one, while so many clients ask for views one after the other; and how many
/// views a second they were answered.
fn rates(db: &Path, daemon: &Daemon, blocks: &[Vec<u8>], clients: u64) -> (f64, f64) {
    let node = Node::start(node(db).with(&format!("--workers 2 --daemon-rpc-url {}", daemon.url())));
    let first = wait_until("a block is indexed", || node.height());
    let (address, began, over) = (node.address, Instant::now(), AtomicBool::new(false));
    let (over, mut answers) = (&over, 0);
    thread::scope(|scope| {
        let ask = move |number| {
            let (mut random, mut client, mut answers) = (Random::new(number), Client::connect(address), 0u32);
            while !over.load(Ordering::Relaxed) {
                let at = random.below(u64::from(first) + 1);
                call(&mut client, "metashrew_view", &json!(["sum", "0x", at])).expect("it is indexed");
                answers += 1;
            }
            answers
        };
        let asking: Vec<_> = (0..clients).map(|number| scope.spawn(move || ask(number))).collect();
        node.await_tip(&blocks[blocks.len() - 1]);
        over.store(true, Ordering::Relaxed);
        answers = asking.into_iter().map(|client| client.join().expect("each answer is right")).sum();
    });
    let seconds = began.elapsed().as_secs_f64();
    node.end();
    let indexed = u32::try_from(blocks.len()).expect("a short chain") - first;
    (f64::from(indexed) / seconds, f64::from(answers) / seconds)
}

#[test]
#[ignore = "a measurement"]
fn measure_blocks_beside_views() {
    let place = Place::default();
    let blocks = extend_with(&chain(1), 200, 0, 1_000_000);
    let daemon = Daemon::start(&blocks);
    for round in 0..3 {
        for clients in [0, 1, 16] {
            let db = place.at(&format!("db-{round}-{clients}"));
            let (rate, views) = rates(&db, &daemon, &blocks, clients);
            println!("{clients} clients: {rate:.0} blocks of 1 MB a second, {views:.0} views a second");
        }
    }
}

/// Real blocks of 1.4 MB, one after the other: a single transaction set, under headers that make a chain of it.
#[test]
#[ignore = "a measurement"]
fn measure_how_long_blocks_are_waited_for() {
    const BLOCKS: u32 = 100;
    let Some(block) = shared_blocks("mainnet-840243.bin") else { return };
    let block = std::fs::read(block).expect("it can be read");
    let place = Place::default();
    let blocks = extend_filled(&chain(1), BLOCKS, &block);
    let daemon = Daemon::start(&blocks);
    for durability in ["batch", "block"] {
        for round in 0..2 {
            // The sample indexer, on workers that have the memory for such blocks.
            let node =
                Cofferdam::new(["node"]).path("--db-path", &place.at(&format!("db-{durability}-{round}")));
            let node = node.with(&format!(
                "--workers 2 --spares 0 --memory 256MiB --durability {durability} --daemon-rpc-url {}",
                daemon.url()
            ));
            let began = Instant::now();
            let node = Node::start(node);
            node.await_tip(&blocks[blocks.len() - 1]);
            let seconds = began.elapsed().as_secs_f64();
            let metrics = node.metrics();
            let of = |name: &str| metrics.get(&format!("cofferdam_chain_{name}_seconds_total"));
            println!(
                "--durability {durability}: {BLOCKS} blocks of 1.4 MB in {seconds:.2} s from the start; \
                 waiting for blocks {:.3} s, guests {:.2} s, pipe and reset {:.2} s, commits {:.2} s",
                of("feed_wait"),
                of("guest"),
                of("overhead"),
                of("commit_wait"),
            );
            node.end();
        }
    }
}
