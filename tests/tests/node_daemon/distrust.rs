//! Daemons whose answers are wrong, pruned, too large, or of another network.

use super::*;

#[test]
fn bytes_that_are_another_block_are_not_believed() {
    let blocks = chain(30);
    let daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.lies = 2);
    let mut following = Following::start(&settings(&daemon));
    following.reach(tip(&blocks));
    assert_eq!(following.chain, indexed(&blocks));

    daemon.switch(|switches| switches.lies = u32::MAX);
    let mut following = Following::resume(&settings(&daemon), indexed(&blocks[..10]));
    let error = following.fail();
    let (asked, got) = (hash_of(&blocks[10]).to_string(), hash_of(&blocks[0]).to_string());
    words(&error, &["asked 3 times for block 10", &asked, &got, "-reindex"]);
    assert_eq!(following.given, 0);
}

#[test]
fn hashes_that_are_no_chain_are_an_error() {
    let (one, other) = (extend(&chain(20), 20, 1), extend(&chain(20), 20, 2));
    let daemon = Daemon::start(&other);
    daemon.adopt(&one);
    // As from two nodes behind one address.
    daemon.switch(|switches| switches.claims = [(30, hash_of(&other[30]))].into());
    let mut following = Following::start(&settings(&daemon));
    let error = following.fail();
    assert!(matches!(error, DaemonError::NotAChain { height: 30 | 31, .. }), "{error}");
    words(&error, &["20 times", "do not form a chain"]);
}

#[test]
fn a_pruned_block_ends_it_where_it_is_needed() {
    let blocks = chain(30);
    let daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.pruned_below = 20);
    let mut following = Following::resume(&settings(&daemon), indexed(&blocks[..20]));
    following.reach(tip(&blocks));
    let mut following = Following::start(&FollowerSettings { start_height: 18, ..settings(&daemon) });
    let error = following.fail();
    words(&error, &["pruned block 18", &hash_of(&blocks[18]).to_string(), "prune=0"]);
}

#[test]
fn a_block_above_the_limit_is_refused_after_those_before_it() {
    let blocks = extend_with(&extend(&chain(10), 5, 0), 1, 0, 200_000);
    let daemon = Daemon::start(&blocks);
    let limited = |max_block_bytes| FollowerSettings { max_block_bytes, ..settings(&daemon) };
    let bytes = blocks[15].len() as u64;
    let mut following = Following::start(&limited(bytes - 1));
    words(&following.fail(), &["block 15", &tip(&blocks).to_string(), "--max-block-bytes"]);
    assert_eq!(following.chain, indexed(&blocks[..15]));
    Following::start(&limited(bytes)).reach(tip(&blocks));
    // Far above: the answer is not even read to its end.
    words(&Following::start(&limited(1000)).fail(), &["block 15", "longer than 1000 bytes"]);
}

#[test]
fn another_network_is_not_followed() {
    let blocks = chain(5);
    let mut daemon = Daemon::start(&blocks);
    let expecting = |network| FollowerSettings { network: Some(network), ..settings(&daemon) };
    words(&Following::start(&expecting(Network::Bitcoin)).fail(), &["regtest", "main"]);
    daemon.switch(|switches| switches.network = "main");
    let expected = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f";
    words(
        &Following::start(&expecting(Network::Bitcoin)).fail(),
        &[expected, &hash_of(&blocks[0]).to_string(), "the genesis block of main"],
    );

    // An index of another chain, and a node in whose place another comes.
    let foreign = vec![(0, expected.parse().expect("a hash")), (1, hash_of(&blocks[1]))];
    words(&Following::resume(&settings(&daemon), foreign).fail(), &[expected, "indexed", "--db-path"]);
    let mut following = Following::start(&FollowerSettings { start_height: 2, ..settings(&daemon) });
    following.reach(tip(&blocks));
    daemon.go_away();
    daemon.adopt(&cut_records(cofferdam_tests::support::command::EARLY_RECORDS));
    daemon.come_back();
    words(&following.fail(), &["that it had before", expected]);
}
