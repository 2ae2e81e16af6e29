//! The follower against a node of the tests' own: what it gives, what it takes back, and what it makes of every trouble
//! that a node can be in.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cofferdam::blocks::Network;
use cofferdam::node::daemon::{Auth, DaemonError, Follower, FollowerSettings};
use cofferdam::node::feed::FeedEvent;
use cofferdam_tests::support::command::{Files, cut_records, shared_blocks, wait_until};
use cofferdam_tests::support::daemon::{BatchRefusal, Daemon, hash_of};
use cofferdam_tests::support::following::{Following, indexed};
use cofferdam_tests::support::regtest::{chain, extend, extend_with};

/// Often asked, so that tests are short.
fn settings(daemon: &Daemon) -> FollowerSettings {
    FollowerSettings { poll_interval: Duration::from_millis(10), ..FollowerSettings::new(daemon.url()) }
}

fn tip(blocks: &[Vec<u8>]) -> cofferdam::blocks::BlockHash {
    hash_of(blocks.last().expect("a chain has a block"))
}

fn words(error: &DaemonError, expected: &[&str]) {
    let words = error.to_string();
    for part in expected {
        assert!(words.contains(part), "no {part:?} in: {words}");
    }
}

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

#[test]
fn name_and_password_are_given_or_asked_for() {
    let blocks = chain(3);
    let daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.credentials = Some("alice:s:cret".to_owned()));
    let user_pass = |password: &str| Auth::UserPass { user: "alice".to_owned(), password: password.into() };
    let with = |auth| FollowerSettings { auth, ..settings(&daemon) };
    Following::start(&with(user_pass("s:cret"))).reach(tip(&blocks));
    let url = daemon.url().replace("http://", "http://alice:s:cret@");
    Following::start(&FollowerSettings { url: url.into(), ..settings(&daemon) }).reach(tip(&blocks));

    let error = Following::start(&with(user_pass("wrong"))).fail();
    words(&error, &[&daemon.url(), "\"alice\"", "401", "--auth"]);
    assert!(!error.to_string().contains("wrong"), "{error}");
    words(&Following::start(&with(Auth::None)).fail(), &["without name and password", "--auth"]);
}

#[test]
fn a_cookie_is_waited_for_and_read_again_when_it_is_old() {
    let blocks = chain(3);
    let mut daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.credentials = Some("__cookie__:first".to_owned()));
    let files = Files::new();
    let auth = Auth::CookieFile(files.at(".cookie"));
    let mut following = Following::start(&FollowerSettings { auth, ..settings(&daemon) });
    wait_until("the cookie is missed", || {
        following.follower().status().last_error.filter(|error| error.contains("requires a cookie"))
    });
    files.add(".cookie", "__cookie__:first");
    following.reach(tip(&blocks));

    daemon.go_away();
    daemon.switch(|switches| switches.credentials = Some("__cookie__:second".to_owned()));
    let longer = extend(&blocks, 1, 0);
    daemon.adopt(&longer);
    daemon.come_back();
    wait_until("the old cookie is refused", || {
        following.follower().status().last_error.filter(|error| error.contains("refuses the cookie"))
    });
    files.add(".cookie", "__cookie__:second");
    following.reach(tip(&longer));

    files.add(".cookie", "__cookie__:third");
    daemon.switch(|switches| switches.credentials = Some("__cookie__:fourth".to_owned()));
    words(&following.fail(), &["the cookie in", "401", "data directory of this node"]);
}

#[test]
fn a_node_that_does_not_let_this_host_in_is_an_error_and_so_is_no_node() {
    let daemon = Daemon::start(&chain(3));
    for (status, expected) in [(403, "rpcallowip"), (404, "no JSON-RPC"), (302, "no JSON-RPC")] {
        daemon.switch(|switches| switches.status = Some(status));
        words(&Following::start(&settings(&daemon)).fail(), &[&daemon.url(), expected, &status.to_string()]);
    }
}

#[test]
fn what_can_pass_is_waited_out() {
    let blocks = chain(40);
    let mut daemon = Daemon::start(&blocks);
    daemon.go_away();
    let mut following = Following::start(&FollowerSettings {
        silence_timeout: Duration::from_millis(200),
        ..settings(&daemon)
    });
    let expect = |following: &Following, words: &str| {
        wait_until(words, || {
            let status = following.follower().status();
            status.last_error.filter(|error| error.contains(words) && !status.connected)
        });
    };
    expect(&following, "cannot be reached");
    daemon.switch(|switches| switches.warm_up = Some("Loading block index..."));
    daemon.come_back();
    expect(&following, "is starting: Loading block index...");
    daemon.switch(|switches| (switches.warm_up, switches.status) = (None, Some(503)));
    expect(&following, "HTTP 503");
    daemon.switch(|switches| (switches.status, switches.hangs) = (None, true));
    expect(&following, "sent nothing for 200ms");
    daemon.switch(|switches| (switches.hangs, switches.torn_answers) = (false, 5));
    following.reach(tip(&blocks));
    assert!(following.follower().status().connected);
    assert_eq!((following.chain, following.given), (indexed(&blocks), 40));
}

#[test]
fn a_node_may_be_restarted_at_any_moment() {
    let blocks = extend(&chain(100), 100, 1);
    let mut daemon = Daemon::start(&blocks);
    // So that there are always requests under way.
    daemon.switch(|switches| switches.delay = Duration::from_millis(2));
    let mut following = Following::start(&settings(&daemon));
    for length in [30, 75, 150] {
        following.take(length);
        daemon.go_away();
        daemon.come_back();
    }
    daemon.switch(|switches| switches.torn_answers = 3);
    following.reach(tip(&blocks));
    daemon.go_away();
    let longer = extend(&chain(100), 103, 2);
    daemon.adopt(&longer);
    daemon.come_back();
    // A hundred blocks are what may be taken back.
    following.reach(tip(&longer));
    assert_eq!(following.rewinds, [(Some(99), 100)]);
    assert_eq!(following.chain, indexed(&longer));
}

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

#[test]
fn no_more_is_fetched_ahead_than_was_asked_for() {
    let blocks = chain(60);
    let daemon = Daemon::start(&blocks);
    let mut following = Following::start(&FollowerSettings { fetch_ahead: 5, ..settings(&daemon) });
    for taken in 0..40 {
        following.take(taken);
        let expected = u64::try_from(taken).expect("small") + 5;
        wait_until("the pipeline is full", || (daemon.calls("getblock") >= expected).then_some(()));
        assert_eq!(daemon.calls("getblock"), expected);
    }
}

#[test]
fn a_follower_that_is_dropped_leaves_no_thread_behind() {
    let daemon = Daemon::start(&chain(30));
    let witness = Arc::new(());
    let start = || {
        let held = Arc::clone(&witness);
        let known = move |_| {
            let _held = &held;
            Ok(None)
        };
        Follower::start(settings(&daemon), None, known).expect("it starts")
    };
    let mut follower = start();
    while !matches!(follower.next(Duration::from_secs(1)), Ok(Some(FeedEvent::AtTip { .. }))) {}
    drop(follower);
    assert_eq!(Arc::strong_count(&witness), 1, "at the tip");

    // In the middle of requests that are not answered.
    daemon.switch(|switches| switches.hangs = true);
    let connections = daemon.connections();
    let follower = start();
    wait_until("it has asked", || (daemon.connections() > connections).then_some(()));
    drop(follower);
    assert_eq!(Arc::strong_count(&witness), 1, "while it waits for an answer");
}

#[test]
fn a_url_that_is_none_is_refused_at_once() {
    for url in ["https://127.0.0.1:8332", "127.0.0.1:8332", "http://"] {
        let error = Follower::start(FollowerSettings::new(url), None, |_| Ok(None))
            .expect_err("no node can be there");
        words(&error, &["--daemon-rpc-url", "http://HOST:PORT"]);
    }
}

#[test]
fn a_node_that_takes_no_batches_or_only_small_ones_is_asked_for_less_at_a_time() {
    let blocks = chain(413);
    for (most, refusal) in [
        (0, BatchRefusal::Error),
        (0, BatchRefusal::Status(400)),
        (0, BatchRefusal::Status(403)),
        (0, BatchRefusal::Status(500)),
        (0, BatchRefusal::Each),
        (20, BatchRefusal::Error),
        (20, BatchRefusal::Short),
        (20, BatchRefusal::Status(413)),
    ] {
        let daemon = Daemon::start(&blocks);
        daemon.switch(|switches| (switches.most_in_batch, switches.batch_refusal) = (most, refusal));
        let mut following = Following::start(&settings(&daemon));
        following.reach(tip(&blocks));
        assert_eq!(following.chain, indexed(&blocks), "{most} {refusal:?}");
        let batches = daemon.batches();
        let refused = batches.iter().filter(|size| **size > most).count();
        // What was refused once is not asked again. A status that means "busy" is believed twice.
        assert!(refused <= 8, "{most} {refusal:?}: {batches:?}");
        assert_eq!(batches.len() > refused, most > 0, "{most} {refusal:?}: {batches:?}");
    }
}

#[test]
fn an_answer_that_goes_on_arriving_is_waited_for() {
    let blocks = chain(6);
    let daemon = Daemon::start(&blocks);
    let settings = FollowerSettings { silence_timeout: Duration::from_secs(2), ..settings(&daemon) };
    // Three seconds for a longer answer, and never two without a byte.
    daemon.switch(|switches| switches.drip = Some((6, Duration::from_millis(500))));
    let mut following = Following::start(&settings);
    following.take(1);
    let status = following.follower().status();
    assert!(status.connected && status.last_error.is_none(), "{status:?}");
    daemon.switch(|switches| switches.drip = None);
    following.reach(tip(&blocks));
    assert_eq!(following.chain, indexed(&blocks));
}

#[test]
fn a_method_that_the_user_may_not_call_is_named_and_so_is_rpcwhitelist() {
    let daemon = Daemon::start(&chain(6));
    for method in ["getblock", "getblockhash", "getbestblockhash"] {
        daemon.switch(|switches| switches.forbidden = Some(method));
        let error = Following::start(&settings(&daemon)).fail();
        let refuses = format!("refuses {method} (HTTP 403)");
        words(&error, &[&daemon.url(), &refuses, "rpcwhitelist lacks", "answered getblockchaininfo before"]);
        assert!(!error.to_string().contains("rpcallowip"), "{error}");
    }
    // Before any answer it may be either.
    daemon.switch(|switches| switches.forbidden = Some("getblockchaininfo"));
    let error = Following::start(&settings(&daemon)).fail();
    words(&error, &["getblockchaininfo", "rpcallowip", "rpcwhitelist"]);
}
