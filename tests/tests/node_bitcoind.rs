//! The follower against a real bitcoind, with what only a real one does: its own blocks and transactions, its own way of
//! leaving a branch, its own cookie, and its own time to start.

use std::time::{Duration, Instant};

use cofferdam::blocks::Network;
use cofferdam::node::daemon::{Auth, FollowerSettings};
use cofferdam_tests::support::bitcoind::Bitcoind;
use cofferdam_tests::support::command::wait_until;
use cofferdam_tests::support::following::Following;

fn settings(bitcoind: &Bitcoind) -> FollowerSettings {
    FollowerSettings {
        auth: Auth::CookieFile(bitcoind.cookie()),
        network: Some(Network::Regtest),
        ..FollowerSettings::new(bitcoind.url())
    }
}

#[test]
fn a_real_node_is_followed_through_forks_and_restarts() {
    let Some(mut bitcoind) = Bitcoind::start() else { return };
    bitcoind.mine(120);
    for _ in 0..38 {
        bitcoind.pay(5);
        bitcoind.mine(10);
    }
    assert_eq!(bitcoind.height(), 500);
    let began = Instant::now();
    let mut following = Following::start(&settings(&bitcoind));
    following.reach(bitcoind.best());
    println!("501 blocks in {:?}", began.elapsed());
    assert_eq!(following.chain, bitcoind.chain());

    // New blocks, one and several at a time.
    for blocks in [1, 3] {
        bitcoind.pay(3);
        bitcoind.mine(blocks);
        following.reach(bitcoind.best());
    }
    assert_eq!((following.given, following.rewinds.len()), (505, 0));

    // A branch that is left for a longer one.
    bitcoind.invalidate(500);
    bitcoind.mine(7);
    following.reach(bitcoind.best());
    assert_eq!(following.rewinds.iter().map(|(fork, _)| *fork).collect::<Vec<_>>(), [Some(499)]);
    assert_eq!(following.chain, bitcoind.chain());

    // The node is away, and comes back with a new cookie and another block.
    bitcoind.stop();
    wait_until("it is missed", || (!following.follower().status().connected).then_some(()));
    bitcoind.resume();
    bitcoind.mine(1);
    following.reach(bitcoind.best());
    assert_eq!((following.chain.clone(), following.rewinds.len()), (bitcoind.chain(), 1));

    // Away again, and back on another branch.
    bitcoind.stop();
    bitcoind.resume();
    bitcoind.invalidate(505);
    bitcoind.mine(9);
    following.reach(bitcoind.best());
    assert_eq!(following.chain, bitcoind.chain());
    assert!(following.rewinds[1..].iter().all(|(fork, _)| *fork == Some(504)), "{:?}", following.rewinds);
}

#[test]
fn an_index_of_a_branch_that_a_real_node_left_is_taken_back() {
    let Some(bitcoind) = Bitcoind::start() else { return };
    bitcoind.mine(30);
    let left = bitcoind.chain();
    bitcoind.invalidate(21);
    bitcoind.mine(5);
    let quick = FollowerSettings { poll_interval: Duration::from_millis(10), ..settings(&bitcoind) };
    let mut following = Following::resume(&quick, left);
    following.reach(bitcoind.best());
    assert_eq!(following.rewinds, [(Some(20), 10)]);
    assert_eq!(following.chain, bitcoind.chain());
    // Left without another branch to go to, the node is only behind.
    bitcoind.invalidate(24);
    bitcoind.mine(3);
    following.reach(bitcoind.best());
    assert_eq!(following.chain, bitcoind.chain());
}
