//! The options of `cofferdam node`: from the command line, the environment and a file; those of the node that it replaces; and
//! what is said when they are wrong, or the daemon is.

use cofferdam_tests::support::command::{Cofferdam, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, contents, node};
use cofferdam_tests::support::regtest::chain;

#[test]
fn options_come_from_a_file_the_environment_and_the_command_line_in_this_order() {
    let place = Place::default();
    let blocks = chain(30);
    let daemon = Daemon::start(&blocks);
    let config = place.at("node.toml");
    let text = format!("daemon-rpc-url = \"{}\"\nexit-at = 5\nlabel = \"from the file\"\n", daemon.url());
    std::fs::write(&config, text).expect("it can be written");
    let end = |name: &str, change: &dyn Fn(Cofferdam<'static>) -> Cofferdam<'static>| {
        let db = place.at(name);
        let command = change(node(&db)).path("--config", &config);
        Node::to_the_end(command).expect_code(0);
        contents(&db).0.len()
    };
    assert_eq!(end("file", &|command| command), 6);
    assert_eq!(end("variable", &|command| command.variable("COFFERDAM_EXIT_AT", "7")), 8);
    assert_eq!(
        end("argument", &|command| command.variable("COFFERDAM_EXIT_AT", "7").with("--exit-at 9")),
        10
    );
    std::fs::write(&config, "exit-att = 5\n").expect("it can be written");
    let refused = node(&place.at("db")).path("--config", &config).output().expect_code(2);
    assert!(refused.stderr.contains("exit-att") && refused.stderr.contains("node.toml"), "{refused}");
}

#[test]
fn every_option_of_the_replaced_node_is_taken_or_its_substitute_named() {
    let place = Place::default();
    let blocks = chain(10);
    let daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.credentials = Some("user:secret".to_owned()));
    let db = place.at("db");
    let command = node(&db).with(&format!(
        "--daemon-rpc-url {} --auth user:secret --start-block 0 --label main --exit-at 9 --cors * \
         --max-reorg-depth 50 --reorg-check-threshold 6 --pipeline-size 4 --enable-preview --view-concurrency 8",
        daemon.url()
    ));
    let output = Node::to_the_end(command).expect_code(0);
    for option in
        ["--reorg-check-threshold has no effect", "--enable-preview has no effect", "--workers says how many"]
    {
        assert!(output.stderr.contains(option), "{option}: {output}");
    }
    assert!(!output.stderr.contains("secret"), "{output}");
    assert_eq!(contents(&db).0.len(), 10);
    for (arguments, code, said) in [
        ("--fork /x --daemon-rpc-url http://127.0.0.1:1", 2, "cofferdam snapshot restore"),
        ("--redundancy 2 --workers 1 --daemon-rpc-url http://127.0.0.1:1", 2, "needs --workers 2"),
        ("", 2, "Give --daemon-rpc-url, --blocks, or both"),
        ("--daemon-rpc-url http://127.0.0.1:1 --auth justapassword", 2, "expected USER:PASSWORD"),
        ("--daemon-rpc-url ftp://me:justapassword@127.0.0.1", 2, "http://HOST:PORT"),
    ] {
        let output = node(&place.at("refused")).with(arguments).output().expect_code(code);
        assert!(output.stderr.contains(said), "{arguments}: {output}");
        assert!(!output.stderr.contains("justapassword"), "{output}");
    }
}

#[test]
fn what_is_wrong_with_the_daemon_is_said_and_waited_for_or_the_end() {
    let place = Place::default();
    let blocks = chain(10);
    let mut daemon = Daemon::start(&blocks);
    let db = place.at("db");
    let command = |daemon: &Daemon| node(&db).with(&format!("--daemon-rpc-url {}", daemon.url()));

    // Passes by itself.
    daemon.go_away();
    let node = Node::start(command(&daemon));
    wait_until("it says that the daemon is not there", || {
        let (status, text) = node.readiness();
        (status == 503 && text.contains("[-]chain")).then_some(())
    });
    daemon.come_back();
    node.await_tip(&blocks[9]);
    node.await_ready();
    node.end();

    // Does not.
    daemon.switch(|switches| switches.credentials = Some("user:secret".to_owned()));
    let output = Node::to_the_end(command(&daemon)).expect_code(1);
    assert!(output.stderr.contains("--auth"), "{output}");
    daemon.switch(|switches| switches.credentials = None);
    daemon.switch(|switches| switches.network = "main");
    let output = Node::to_the_end(command(&daemon)).expect_code(1);
    assert!(output.stderr.contains("regtest"), "{output}");
}
