//! Blocks that are fetched ahead, batches, slow answers.

use super::*;

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
