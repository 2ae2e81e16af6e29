//! Credentials, and daemons that do not answer for a while.

use super::*;

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
