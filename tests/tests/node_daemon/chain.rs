//! The chain of a daemon: in order, to its tip, over reorganisations.

use super::*;

#[test]
fn a_chain_is_given_whole_and_in_order_and_then_as_it_grows() {
    let blocks = chain(413);
    let daemon = Daemon::start(&blocks);
    let mut following = Following::start(&settings(&daemon));
    following.reach(tip(&blocks));
    assert_eq!(following.chain, indexed(&blocks));
    let status = following.follower().status();
    assert!(status.connected && !status.initial_block_download && status.last_contact.is_some());
    assert_eq!((status.tip, status.headers), (Some((412, tip(&blocks))), Some(412)));
    assert_eq!((status.network, status.last_error), (Some(Network::Regtest), None));
    for length in [1, 3] {
        let longer = extend(&blocks, length, 0);
        daemon.adopt(&longer);
        following.reach(tip(&longer));
        assert_eq!(following.chain, indexed(&longer));
    }
    assert_eq!((following.given, following.rewinds.len()), (416, 0));
    assert_eq!(daemon.calls("getblock"), 416, "no block is fetched twice");
    assert!(daemon.connections() <= 5, "{} connections for 5 threads", daemon.connections());
}

#[test]
fn heights_begin_and_end_where_they_are_told() {
    let blocks = chain(120);
    let daemon = Daemon::start(&blocks);
    let bounded = FollowerSettings { start_height: 7, stop_height: Some(110), ..settings(&daemon) };
    let mut following = Following::start(&bounded);
    following.reach(hash_of(&blocks[110]));
    assert_eq!(following.chain, indexed(&blocks)[7..=110]);

    let mut resumed = Following::resume(&settings(&daemon), indexed(&blocks[..50]));
    resumed.reach(tip(&blocks));
    assert_eq!((resumed.given, resumed.chain), (70, indexed(&blocks)));

    let later = FollowerSettings { start_height: 130, ..settings(&daemon) };
    let mut waiting = Following::start(&later);
    waiting.reach(tip(&blocks));
    assert_eq!(waiting.given, 0, "the node is not there yet");
    let longer = extend(&blocks, 20, 0);
    daemon.adopt(&longer);
    waiting.reach(tip(&longer));
    assert_eq!(waiting.chain, indexed(&longer)[130..]);
}

#[test]
fn a_reorganisation_takes_back_just_what_was_left() {
    let (mut one, mut other) = (chain(60), chain(60));
    one = extend(&one, 4, 1);
    other = extend(&other, 5, 2);
    let daemon = Daemon::start(&one);
    let mut following = Following::start(&settings(&daemon));
    following.reach(tip(&one));
    daemon.adopt(&other);
    following.reach(tip(&other));
    assert_eq!(following.rewinds, [(Some(59), 4)]);
    assert_eq!(following.chain, indexed(&other));
    // And back, which takes another block on the branch that was left.
    let again = extend(&one, 2, 1);
    daemon.adopt(&again);
    following.reach(tip(&again));
    assert_eq!(following.rewinds, [(Some(59), 4), (Some(59), 5)]);
    assert_eq!(following.chain, indexed(&again));
}

#[test]
fn what_was_fetched_ahead_of_a_left_branch_is_never_given() {
    let one = extend(&chain(20), 30, 1);
    let other = extend(&chain(20), 31, 2);
    let daemon = Daemon::start(&one);
    let mut following = Following::start(&settings(&daemon));
    following.take(22);
    wait_until("blocks are fetched ahead", || (daemon.calls("getblock") >= 30).then_some(()));
    daemon.adopt(&other);
    wait_until("the follower has seen the other branch", || {
        (following.follower().status().tip == Some((50, tip(&other)))).then_some(())
    });
    following.reach(tip(&other));
    assert_eq!(following.chain, indexed(&other));
    assert_eq!(following.rewinds.len(), 1);
    assert_eq!(following.rewinds[0].0, Some(19));
}

#[test]
fn a_fork_at_regtests_real_branches_is_followed() {
    let (Some(a), Some(b)) = (shared_blocks("regtest-branch-a.blk"), shared_blocks("regtest-branch-b.blk"))
    else {
        return;
    };
    let [a, b] = [a, b].map(|path| cut_records(&fs::read(path).expect("it can be read")));
    let daemon = Daemon::start(&a);
    let mut following =
        Following::start(&FollowerSettings { network: Some(Network::Regtest), ..settings(&daemon) });
    following.reach(tip(&a));
    daemon.adopt(&b);
    following.reach(tip(&b));
    assert_eq!(following.rewinds, [(Some(200), 1)]);
    assert_eq!(following.chain, indexed(&b));
}

#[test]
fn an_index_of_a_left_branch_is_taken_back_at_the_start() {
    let one = extend(&chain(60), 40, 1);
    let other = extend(&chain(60), 10, 2);
    let daemon = Daemon::start(&other);
    // The node's chain is shorter and another: it has left ours.
    let mut following = Following::resume(&settings(&daemon), indexed(&one));
    following.reach(tip(&other));
    assert_eq!(following.rewinds, [(Some(59), 40)]);
    assert_eq!((following.chain, following.given), (indexed(&other), 10));
    // An index that begins above the fork has nothing to keep.
    let late = FollowerSettings { start_height: 62, ..settings(&daemon) };
    let mut following = Following::resume(&late, indexed(&one)[62..65].to_vec());
    following.reach(tip(&other));
    assert_eq!(following.rewinds, [(None, 3)]);
    assert_eq!(following.chain, indexed(&other)[62..]);
}

#[test]
fn a_node_that_is_behind_is_waited_for_and_takes_nothing_back() {
    let blocks = chain(50);
    let daemon = Daemon::start(&blocks[..20]);
    daemon.switch(|switches| switches.headers_ahead = 30);
    let mut following = Following::resume(&settings(&daemon), indexed(&blocks[..40]));
    wait_until("the node was heard", || following.follower().status().tip);
    assert!(following.follower().status().initial_block_download);
    daemon.adopt(&blocks[..30]);
    wait_until("it was heard again", || {
        (following.follower().status().tip == Some((29, hash_of(&blocks[29])))).then_some(())
    });
    daemon.switch(|switches| switches.headers_ahead = 0);
    daemon.adopt(&blocks);
    following.reach(tip(&blocks));
    assert_eq!((following.given, following.rewinds.len()), (10, 0));
    assert_eq!(following.chain, indexed(&blocks));

    // So far behind that it has not even the first block of an index that begins late.
    daemon.adopt(&blocks[..10]);
    let late = FollowerSettings { start_height: 20, ..settings(&daemon) };
    let mut following = Following::resume(&late, indexed(&blocks)[20..30].to_vec());
    wait_until("the node was heard", || following.follower().status().tip);
    daemon.adopt(&blocks);
    following.reach(tip(&blocks));
    assert_eq!((following.given, following.rewinds.len()), (20, 0));
}

#[test]
fn a_reorganisation_that_is_too_deep_is_an_error_with_both_blocks() {
    let one = extend(&chain(20), 30, 1);
    let other = extend(&chain(20), 31, 2);
    let daemon = Daemon::start(&other);
    let shallow = FollowerSettings { max_reorg_depth: 29, ..settings(&daemon) };
    let mut following = Following::resume(&shallow, indexed(&one));
    let error = following.fail();
    let (ours, theirs) = (hash_of(&one[20]).to_string(), hash_of(&other[20]).to_string());
    words(&error, &["more than 29 blocks", "height 20", &ours, &theirs, "height 49", "--max-reorg-depth"]);
    assert!(following.rewinds.is_empty(), "nothing was taken back");
    let deep = FollowerSettings { max_reorg_depth: 30, ..shallow };
    let mut following = Following::resume(&deep, indexed(&one));
    following.reach(tip(&other));
    assert_eq!(following.rewinds, [(Some(19), 30)]);
}

#[test]
fn an_error_of_the_index_is_not_taken_for_no_block() {
    let one = extend(&chain(20), 10, 1);
    let other = extend(&chain(20), 11, 2);
    let daemon = Daemon::start(&other);
    // Where the two are compared first, where they part, at the fork, and at the genesis block.
    for failing in [28, 20, 19, 0] {
        let index = indexed(&one);
        let last = index.last().copied();
        let known = move |height: u32| match index.get(height as usize) {
            _ if height == failing => Err("the disk fails".into()),
            found => Ok(found.map(|(_, hash)| *hash)),
        };
        let mut follower = Follower::start(settings(&daemon), last, known).expect("it starts");
        let error = loop {
            match follower.next(Duration::from_secs(1)) {
                Ok(None) => {}
                Ok(Some(event)) => panic!("height {failing}: {event:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DaemonError::Lookup { height, .. } if height == failing), "{error}");
        words(&error, &["the disk fails", "Nothing was rolled back"]);
    }
}

#[test]
fn reorganisations_that_are_told_as_one_are_no_deeper_than_one_may_be() {
    let one = extend(&chain(20), 10, 1);
    let other = extend(&one[..25], 6, 2);
    let third = extend(&one[..22], 10, 3);
    let daemon = Daemon::start(&one);
    let shallow = FollowerSettings { max_reorg_depth: 6, ..settings(&daemon) };
    let mut following = Following::start(&shallow);
    following.reach(tip(&one));
    // Each leaves no more than six blocks, but both together eight; and nobody takes what the first one means.
    daemon.adopt(&other);
    wait_until("the follower fetches the other branch", || (daemon.calls("getblock") > 30).then_some(()));
    daemon.adopt(&third);
    wait_until("the follower gives up", || following.follower().status().last_error);
    let error = loop {
        if let Err(error) = following.event() {
            break error;
        }
    };
    words(&error, &["more than 6 blocks", "height 29", "--max-reorg-depth"]);
    assert!(following.rewinds.iter().all(|(_, depth)| *depth <= 6), "{:?}", following.rewinds);
}
