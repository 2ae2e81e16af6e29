//! Standard error that nobody reads or that takes nothing, and standard output that nobody reads: what cannot be said is lost,
//! and nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use cofferdam_tests::support::command::{Cofferdam, PATIENCE, cofferdam, send, wait_until};
use cofferdam_tests::support::daemon::Daemon;
use cofferdam_tests::support::node::{Node, Place, node};
use cofferdam_tests::support::regtest::{chain, extend};
use cofferdam_tests::support::serve::{Server, good, script};
use nix::sys::signal::Signal;

/// A pipe whose reader is gone.
fn unread() -> PipeWriter {
    pipe().expect("a pipe").1
}

/// A pipe that is full, and whose reader does not read.
fn stuck() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ).expect("a pipe has a size");
    writer.write_all(&vec![b'.'; usize::try_from(size).expect("a size")]).expect("it is empty");
    (reader, writer)
}

/// A file on a disk that is full.
fn full() -> File {
    File::options().write(true).open("/dev/full").expect("it is there")
}

/// Does the same for each way in which standard error can be of no use.
fn each(what: impl Fn(&str, Stdio)) {
    what("the reader is gone", unread().into());
    what("the disk is full", full().into());
    let (_reader, writer) = stuck();
    what("the reader does not read", writer.into());
}

#[test]
fn commands_end_as_always_when_standard_error_is_of_no_use() {
    each(|how, stderr| {
        let probe = Cofferdam::new(["probe", "--memory", "16MiB", "--log", "debug"]);
        let output = probe.stderr(stderr).output();
        assert_eq!(output.code(), 0, "{how}: {output}");
        assert!(output.stdout().starts_with("committed 16 MiB"), "{how}: {output}");
    });
    each(|how, stderr| {
        let output = Cofferdam::run().with("--log debug").stderr(stderr).output();
        assert_eq!(output.code(), 0, "{how}: {output}");
        assert_eq!(output.summary()["verdicts"]["completed"], 440, "{how}: {output}");
    });
    // What ends with an error ends with its exit code.
    each(|how, stderr| {
        let output = Cofferdam::new(["serve", "/nowhere.wasm"]).stderr(stderr).output();
        assert_eq!(output.code(), 1, "{how}: {output}");
    });
    each(|how, stderr| {
        let output = Cofferdam::new(["serve", "--no-such-option"]).stderr(stderr).output();
        assert_eq!(output.code(), 2, "{how}: {output}");
    });
}

#[test]
fn a_server_replaces_its_workers_when_standard_error_is_of_no_use() {
    each(|how, stderr| {
        let server = Server::ready(script().with("--log debug").stderr(stderr));
        let victim = server.running.workers()[0];
        send(victim, Signal::SIGKILL).expect("it is there");
        wait_until(&format!("another worker is ready, and {how}"), || {
            let workers = server.running.workers();
            (!workers.is_empty() && !workers.contains(&victim) && server.get("/readyz").status == 200)
                .then_some(())
        });
        server.post("/v1/blocks/1", &[], &good(1).0).expect(200);
        server.end();
    });
}

#[test]
fn a_node_follows_a_reorganisation_when_standard_error_is_of_no_use() {
    let (one, other) = (extend(&chain(10), 2, 1), extend(&chain(10), 3, 2));
    each(|how, stderr| {
        let place = Place::default();
        let daemon = Daemon::start(&one);
        let command = node(&place.at("db")).with(&format!("--daemon-rpc-url {}", daemon.url()));
        let node = Node::start(command.stderr(stderr));
        node.await_tip(&one[11]);
        daemon.adopt(&other);
        node.await_tip(&other[12]);
        assert_eq!(node.height(), Some(12), "{how}");
        node.end();
    });
}

#[test]
fn a_log_that_is_read_again_says_how_much_of_it_is_missing() {
    let (reader, writer) = stuck();
    let server = Server::ready(script().with("--log debug").stderr(writer));
    let mut client = server.connect();
    // More lines than may wait: each request is one.
    for _ in 0..10_000 {
        client.post("/v1/blocks/1", &[], &good(1).0).expect(200);
    }
    drop(client);
    let (told, is_told) = channel();
    let log = thread::spawn(move || {
        let mut log = String::new();
        for line in BufReader::new(reader).lines() {
            log.push_str(&line.expect("it is text"));
            log.push('\n');
            if log.ends_with("could not be written\n") {
                told.send(()).expect("it is waited for");
            }
        }
        log
    });
    is_told.recv_timeout(PATIENCE).expect("that lines are missing is told");
    server.end();
    let log = log.join().expect("it was read");
    let (before, _) = log.split_once(" lines of this log are missing").expect("it says so");
    let lost: u64 = before.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
    let said = log.lines().filter(|line| line.contains("answered")).count() as u64;
    assert!(lost > 0 && said < 10_000 && said + lost >= 10_000, "{said} lines, and {lost} lost");
    assert!(log.contains("drained"), "what came later is there");
}

/// Runs a command whose standard output is `stdout`; its exit code and standard error.
fn with_stdout(arguments: &[&str], stdout: impl Into<Stdio>) -> (Option<i32>, String) {
    let child = Command::new(cofferdam()).args(arguments).stdout(stdout).stderr(Stdio::piped()).spawn();
    let output = child.and_then(std::process::Child::wait_with_output).expect("it can be started");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn whoever_reads_no_further_still_gets_the_exit_code() {
    // No proof at all.
    let root = "00".repeat(32);
    let verify = ["verify-proof", "--json", "--root", &root, "--key", "00", "--absent", "/dev/null"];
    assert_eq!(with_stdout(&verify, Stdio::null()), (Some(1), String::new()));
    assert_eq!(with_stdout(&verify, unread()), (Some(1), String::new()));
    for quiet in [["probe", "--memory=16MiB", "--log=error"], ["serve", "--help", "--log=error"]] {
        assert_eq!(with_stdout(&quiet, unread()), (Some(0), String::new()), "{quiet:?}");
        let (code, stderr) = with_stdout(&quiet, full());
        assert_eq!(code, Some(1), "{quiet:?}: {stderr}");
        assert!(stderr.contains("standard output"), "{quiet:?}: {stderr}");
    }
}
