//! Passwords and where they must not turn up: in what is printed, in the log, and in what is served without a login.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cofferdam_tests::support::command::{Cofferdam, Output, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, node};
use cofferdam_tests::support::regtest::chain;
use cofferdam_tests::support::serve::Client;

/// The password. Each half of it is looked for, too, for what cuts it in two.
const HALVES: [&str; 2] = ["hun7er", "s3cr3t"];

fn assert_unsaid(output: &Output, what: &str) {
    let said = output.stdout() + &output.stderr;
    assert!(HALVES.iter().all(|half| !said.contains(half)), "{what}: {output}");
}

/// A node that is not to start.
fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Cofferdam::new(["node", "--db-path", "/dev/null/db"]);
    command = arguments.iter().fold(command, |command, argument| command.arg(*argument));
    variables.iter().fold(command, |command, (name, value)| command.variable(name, *value)).output()
}

#[test]
fn a_wrong_command_line_does_not_repeat_a_password() {
    let good = "http://127.0.0.1:1";
    let cases: [(&[&str], &str); 12] = [
        (&["--daemon-rpc-url", "http://me:hun7er/s3cr3t@127.0.0.1:1"], "%2F"),
        (&["--daemon-rpc-url", "http://me:hun7er@s3cr3t/@127.0.0.1:1"], "%40"),
        (&["--daemon-rpc-url", "me:hun7ers3cr3t@127.0.0.1:1"], "http://HOST:PORT"),
        (&["--daemon-rpc-url", "https://me:hun7ers3cr3t@127.0.0.1:1"], "TLS"),
        (&["--daemon-rpc-url", "http://me:hun7ers3cr3t@127.0.0.1:x"], "--daemon-rpc-url"),
        (&["--daemon-rpc-url", good, "--auth", "hun7ers3cr3t"], "USER:PASSWORD"),
        // A password with a blank that the shell has cut.
        (&["--daemon-rpc-url", good, "--auth", "me:hun7er", "s3cr3t"], "unexpected argument"),
        (&["--daemon-rpc-url", good, "--auth", "me:hun7er", "-s3cr3t"], "unexpected argument"),
        (&["--auth=me:hun7ers3cr3t", "--cookie-file", "x", "--daemon-rpc-url", good], "cannot be used"),
        (&["http://me:hun7er@s3cr3t"], "unexpected argument"),
        (&["--mlock=http://me:hun7er@s3cr3t"], "--mlock"),
        (&["--port", "http://me:hun7er@s3cr3t", "--daemon-rpc-url", good], "--port"),
    ];
    for (arguments, said) in cases {
        let output = refused(arguments, &[]).expect_code(2);
        assert_unsaid(&output, said);
        assert!(output.stderr.contains(said), "{said}: {output}");
    }
    let audit =
        Cofferdam::new(["audit", "--peer", "me:hun7er@s3cr3t", "--peer", good]).output().expect_code(2);
    assert_unsaid(&audit, "--peer");
    assert!(audit.stderr.contains("--peer number 1"), "{audit}");
    // What is no secret is repeated.
    let output = refused(&["--workers", "many", "--daemon-rpc-url", good], &[]).expect_code(2);
    assert!(output.stderr.contains("'many'"), "{output}");
    let output = refused(&["--no-such-option", "--auth", "a:b"], &[]).expect_code(2);
    assert!(output.stderr.contains("--no-such-option"), "{output}");
}

#[test]
fn help_and_a_damaged_file_do_not_show_a_password() {
    let url = ("COFFERDAM_DAEMON_RPC_URL", "http://me:hun7ers3cr3t@127.0.0.1:1");
    let help = refused(&["--help"], &[url, ("COFFERDAM_AUTH", "me:hun7ers3cr3t")]).expect_code(0);
    assert_unsaid(&help, "the help, by variables");
    assert!(help.stdout().contains("COFFERDAM_DAEMON_RPC_URL"), "{help}");
    let place = Place::default();
    let config = place.at("node.toml");
    let path = config.to_str().expect("a path");
    std::fs::write(&config, "daemon-rpc-url = \"http://me:hun7er@s3cr3t\"\nauth = \"me:hun7ers3cr3t\"\n")
        .expect("it can be written");
    assert_unsaid(&refused(&["--config", path, "--help"], &[]).expect_code(0), "the help, by a file");
    for damaged in ["port = 1\nauth = me:hun7ers3cr3t\n", "port = 1\nauth = \"me:hun7ers3cr3t\n"] {
        std::fs::write(&config, damaged).expect("it can be written");
        let output = refused(&["--config", path], &[]).expect_code(2);
        assert_unsaid(&output, "a damaged file");
        assert!(output.stderr.contains("node.toml: line 2"), "{output}");
    }
}

#[test]
fn a_node_that_runs_shows_its_password_to_nobody_but_the_daemon() {
    let place = Place::default();
    let blocks = chain(6);
    let daemon = Daemon::start(&blocks);
    daemon.switch(|switches| switches.credentials = Some("me:hun7er/s3cr3t".to_owned()));
    let address = daemon.url().replace("http://", "");
    let url = format!("http://me:hun7er%2Fs3cr3t@{address}");
    let command = node(&place.at("db")).with("--log trace").variable("COFFERDAM_DAEMON_RPC_URL", url);
    let node = Node::start(command);
    node.await_tip(&blocks[5]);
    // And while the daemon is in trouble, which is told.
    daemon.switch(|switches| switches.status = Some(503));
    wait_until("the trouble is told", || {
        node.chain()["daemon_error"].as_str().filter(|error| error.contains("503")).map(drop)
    });
    let encoded = BASE64.encode("me:hun7er/s3cr3t");
    for path in ["/", "/readyz?verbose", "/livez?verbose", "/startupz?verbose", "/v1/status", "/metrics"] {
        let text = Client::connect(node.address).get(path).text();
        assert!(HALVES.iter().all(|half| !text.contains(half)) && !text.contains(&encoded), "{path}: {text}");
    }
    let output = node.end();
    assert_unsaid(&output, "the log");
    assert!(!output.stderr.contains(&encoded), "{output}");
}
