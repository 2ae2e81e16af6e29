//! What clients of `cofferdam node` are answered: views at any height while blocks are indexed, previews, proofs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cofferdam_tests::support::command::{Cofferdam, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, call, expected_sum, hash_text, node};
use cofferdam_tests::support::random::{Random, seed};
use cofferdam_tests::support::regtest::{chain, extend};
use cofferdam_tests::support::serve::Client;
use serde_json::{Value, json};

const CLIENTS: u64 = 16;

fn hexadecimal(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

#[test]
fn sixteen_clients_are_answered_as_by_a_quiet_node_while_blocks_are_indexed() {
    let place = Place::default();
    let blocks = chain(2000);
    let sums: Vec<String> = (1..=blocks.len()).map(|count| expected_sum(&blocks[..count])).collect();
    let daemon = Daemon::start(&blocks);
    let db = place.at("db");
    let node = Node::start(node(&db).with(&format!("--workers 3 --daemon-rpc-url {}", daemon.url())));
    let first = wait_until("a block is indexed", || node.height());
    let (over, first_seed) = (AtomicBool::new(false), seed());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (address, over, sums) = (node.address, &over, &sums);
                scope.spawn(move || {
                    let mut random = Random::new(first_seed.wrapping_add(number));
                    let mut client = Client::connect(address);
                    let (mut newest, mut answers) = (u64::from(first), 0);
                    // Each has some answers at least, however fast the chain is.
                    while !over.load(Ordering::Relaxed) || answers < 20 {
                        let at = random.below(newest + 1);
                        let sum = call(&mut client, "metashrew_view", &json!(["sum", "0x", at]))
                            .expect("it is indexed");
                        assert_eq!(sum, json!(sums[usize::try_from(at).expect("a height")]), "at {at}");
                        let tip =
                            call(&mut client, "metashrew_height", &json!([])).expect("there are blocks");
                        newest = tip.as_str().expect("a text").parse().expect("a number");
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        node.await_tip(&blocks[1999]);
        over.store(true, Ordering::Relaxed);
        let answers: u64 =
            clients.into_iter().map(|client| client.join().expect("each answer is right")).sum();
        assert!(answers >= 20 * CLIENTS);
    });
    assert_eq!(node.sum(&json!("latest")), Ok(json!(sums[1999])));
    node.end();
}

#[test]
fn a_view_that_never_ends_delays_no_block() {
    let place = Place::default();
    let blocks = chain(30);
    let daemon = Daemon::start(&blocks[..10]);
    let db = place.at("db");
    let node = Node::start(node(&db).with(&format!("--workers 2 --daemon-rpc-url {}", daemon.url())));
    node.await_tip(&blocks[9]);
    node.await_ready();
    // More of them than there are workers; the input says for ever.
    let forever = json!(["slow_sum", "0x00000000", "latest"]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (address, forever) = (node.address, &forever);
                scope.spawn(move || {
                    let body =
                        json!({"jsonrpc": "2.0", "id": 1, "method": "metashrew_view", "params": forever});
                    let mut client = Client::connect(address);
                    // Cut off by the end of the node.
                    let _ = client.try_post(
                        "/",
                        &["Content-Type: application/json"],
                        body.to_string().as_bytes(),
                    );
                })
            })
            .collect();
        wait_until("one of them runs", || (node.metrics().get("cofferdam_running") == 1.0).then_some(()));
        daemon.adopt(&blocks);
        node.await_tip(&blocks[29]);
        assert_eq!(node.metrics().get("cofferdam_running"), 1.0, "it still runs");
        node.running.signal(nix::sys::signal::Signal::SIGKILL);
        clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
    });
    node.running.finish();
}

#[test]
fn a_preview_says_what_the_view_will_say_once_the_block_is_there() {
    let place = Place::default();
    let common = chain(20);
    let (a, b) = (extend(&common, 3, 1), extend(&common, 1, 2));
    let daemon = Daemon::start(&a);
    let db = place.at("db");
    let node = Node::start(node(&db).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&a[22]);
    let preview = |block: &[u8], at: Value| {
        node.ask("metashrew_preview", &json!([hexadecimal(block), "sum", "0x", at]))
    };
    let next = extend(&a, 1, 3);
    assert_eq!(preview(&next[23], json!("latest")), json!(expected_sum(&next)));
    // In the past, over another branch than the one that was taken.
    assert_eq!(preview(&b[20], json!(19)), json!(expected_sum(&b)));
    assert_eq!(node.sum(&json!(20)), Ok(json!(expected_sum(&a[..21]))), "nothing of it was kept");
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&a))));
    daemon.adopt(&next);
    node.await_tip(&next[23]);
    assert_eq!(node.sum(&json!("latest")), Ok(json!(expected_sum(&next))));
    node.end();
}

#[test]
fn values_are_proved_against_the_root_at_every_height() {
    let place = Place::default();
    let common = chain(20);
    let (a, b) = (extend(&common, 3, 1), extend(&common, 4, 2));
    let daemon = Daemon::start(&a);
    let db = place.at("db");
    let command = || node(&db).with(&format!("--state-tree --daemon-rpc-url {}", daemon.url()));
    let node = Node::start(command());
    node.await_tip(&a[22]);
    daemon.adopt(&b);
    node.await_tip(&b[23]);
    let verify = |answer: &Value, root: &str, value: Option<&str>| {
        let path = place.at("proof.json");
        std::fs::write(&path, answer["proof"].to_string()).expect("it can be written");
        let command = Cofferdam::new(["verify-proof", "--root", root, "--key", "0x73756d"]);
        let command = match value {
            Some(value) => command.arg("--value").arg(value),
            None => command.arg("--absent"),
        };
        command.arg(&path).output()
    };
    for height in [0, 19, 22, 23] {
        let answer = node.ask("cofferdam_proof", &json!(["0x73756d", height]));
        let root = node.ask("metashrew_stateroot", &json!([height.to_string()]));
        let root = root.as_str().expect("a hash");
        assert_eq!(format!("0x{}", answer["root"].as_str().expect("a hash")), root);
        let sum = &expected_sum(&b[..=height])[..18];
        assert_eq!(answer["value"], json!(sum));
        verify(&answer, root, Some(sum)).expect_code(0);
        verify(&answer, root, Some("0x00")).expect_code(1);
        verify(&answer, root, None).expect_code(1);
    }
    let absent = node.ask("cofferdam_proof", &json!(["0x00", "latest"]));
    assert_eq!(absent["value"], Value::Null);
    node.end();
    // The tree belongs to the store from then on; one that was begun without cannot have it.
    let node = Node::start(self::node(&db).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&b[23]);
    node.ask("cofferdam_proof", &json!(["0x73756d", 23]));
    node.end();
    let without = place.at("without");
    let node = Node::start(self::node(&without).with(&format!("--daemon-rpc-url {}", daemon.url())));
    node.await_tip(&b[23]);
    let error = node.call("cofferdam_proof", &json!(["0x73756d", 23])).expect_err("there is no tree");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("--state-tree")), "{error}");
    let root = node.ask("metashrew_stateroot", &json!([]));
    let digest = node.ask("cofferdam_digest", &json!([]));
    assert_eq!(root, json!(format!("0x{}", digest["digest"].as_str().expect("a hash"))));
    assert_eq!((&digest["height"], &digest["block"]), (&json!(23), &json!(hash_text(&b[23]))));
    node.end();
    let refused = self::node(&without).with("--state-tree --daemon-rpc-url http://127.0.0.1:1").output();
    assert!(refused.expect_code(1).stderr.contains("no state tree"));
}
