//! `cofferdam node` against a real bitcoind: from an empty store over mined blocks with transactions, with views answered
//! meanwhile, over a reorganisation, to the state of a node that saw only the final chain.

use std::path::Path;

use cofferdam_tests::support::bitcoind::Bitcoind;
use cofferdam_tests::support::command::{Cofferdam, wait_until};
use cofferdam_tests::support::node::{Node, Place, contents, expected_sum, node};
use serde_json::{Value, json};

/// The serialised blocks of its best chain.
fn blocks(bitcoind: &Bitcoind) -> Vec<Vec<u8>> {
    let block = |hash| {
        let block = bitcoind.call("getblock", &json!([hash, 0]));
        hex::decode(block.as_str().expect("a text")).expect("it is hexadecimal")
    };
    bitcoind.chain().into_iter().map(|(_, hash)| block(hash.to_string())).collect()
}

/// A node that follows it.
fn follow(db: &Path, bitcoind: &Bitcoind) -> Cofferdam<'static> {
    let command = node(db).path("--cookie-file", &bitcoind.cookie());
    command.with(&format!("--daemon-rpc-url {}", bitcoind.url()))
}

#[test]
fn five_hundred_blocks_of_a_real_node_and_a_reorganisation() {
    let Some(mut bitcoind) = Bitcoind::start() else { return };
    let place = Place::default();
    let (db, alone) = (place.at("db"), place.at("alone"));
    let command = follow(&db, &bitcoind).with("--workers 2 --network regtest");
    let node = Node::start(command);
    bitcoind.mine(110);
    for _ in 0..39 {
        bitcoind.pay(5);
        bitcoind.mine(10);
        // Whatever height it is at, the view at it is answered.
        let height = wait_until("a block is indexed", || node.height());
        let sum = node.sum(&json!(height)).expect("it is indexed");
        assert!(sum.as_str().is_some_and(|sum| sum.ends_with(&hex::encode(height.to_le_bytes()))), "{sum}");
    }
    assert_eq!(bitcoind.height(), 500);
    let chain = blocks(&bitcoind);
    node.await_tip(&chain[500]);
    for height in [0, 110, 321, 500] {
        assert_eq!(node.sum(&json!(height)), Ok(json!(expected_sum(&chain[..=height]))), "at {height}");
    }

    // Left for a longer branch.
    bitcoind.invalidate(490);
    bitcoind.mine(12);
    let chain = blocks(&bitcoind);
    assert_eq!(chain.len(), 502);
    node.await_tip(&chain[501]);
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&chain))));
    assert_eq!(node.chain()["reorgs"], json!(1));

    // It goes away, and comes back with another cookie.
    bitcoind.stop();
    wait_until("the daemon is missed", || {
        (node.chain()["daemon_connected"] == Value::Bool(false)).then_some(())
    });
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&chain))), "views go on");
    bitcoind.resume();
    bitcoind.mine(1);
    let chain = blocks(&bitcoind);
    node.await_tip(&chain[502]);
    node.await_ready();
    node.end();

    // And one that sees nothing but the final chain.
    Node::to_the_end(follow(&alone, &bitcoind).with("--exit-at 502")).expect_code(0);
    assert_eq!(contents(&db), contents(&alone));
}
