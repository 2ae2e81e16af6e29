//! Clients that are slow, idle, malformed, or gone: `cofferdam serve` goes on serving the others right, and when they have
//! left, it is as it was before they came.

mod crowds;
mod nonsense;
mod slow;

use std::fs;
use std::io::{self, Read};
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::Duration;

use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{Cofferdam, PATIENCE, exclusively, extend_digest, wait_until};
use cofferdam_tests::support::guests::{Act, good_pair, key_value_flush};
use cofferdam_tests::support::pool::proc_field;
use cofferdam_tests::support::random::Random;
use cofferdam_tests::support::serve::{Client, Server, post, script};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A server that was asked something already, and what it had then.
struct Besieged {
    server: Server,
    profile: String,
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
    /// What the allocator may keep of what was in use at a time.
    slack_kib: u64,
}

impl Besieged {
    fn new(command: Cofferdam<'_>) -> Self {
        let server = Server::ready(command);
        let profile = server.profile();
        let mut new =
            Self { server, profile, descriptors: 0, threads: 0, resident_kib: 0, slack_kib: 64 << 10 };
        for _ in 0..50 {
            new.assert_serves();
        }
        await_connections(&new.server, 1.0);
        new.descriptors = new.descriptors();
        new.threads = new.threads();
        new.resident_kib = new.resident_kib();
        new
    }

    fn descriptors(&self) -> usize {
        self.server.running.descriptors()
    }

    fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.server.running.pid())).expect("it runs").count()
    }

    fn resident_kib(&self) -> u64 {
        let text = proc_field(self.server.running.pid(), "status", "VmRSS:");
        text.trim_end_matches(" kB").parse().expect("kilobytes")
    }

    /// Checks that somebody who behaves is answered right.
    fn assert_serves(&self) {
        assert_right(&mut self.server.connect(), &self.profile);
    }

    /// Checks that nothing is left of those who were there, and that the server ends as it should.
    fn end(self) {
        /// Threads of tokio's that have work for themselves now and then, and go when they have had none for 10 s.
        const THREADS: usize = 2;
        self.assert_serves();
        await_connections(&self.server, 1.0);
        // One may be the connection that was just asked about.
        wait_until("its descriptors are what they were", || {
            (self.descriptors() <= self.descriptors + 1).then_some(())
        });
        wait_until("its threads are what they were", || {
            (self.threads() <= self.threads + THREADS).then_some(())
        });
        for gauge in ["held_bytes", "running", "waiting{kind=\"block\"}", "waiting{kind=\"view\"}"] {
            let gauge = format!("cofferdam_{gauge}");
            wait_until(&format!("{gauge} is 0"), || (self.server.metrics().get(&gauge) == 0.0).then_some(()));
        }
        assert_eq!(self.server.status()["totals"]["deaths"], 0);
        let resident = self.resident_kib();
        assert!(resident <= self.resident_kib + self.slack_kib, "{} KiB, then {resident}", self.resident_kib);
        let output = self.server.end();
        assert!(!output.stderr.contains("panicked"), "{output}");
    }
}

/// Asks for a block, and checks all of the answer.
fn assert_right(client: &mut Client, profile: &str) {
    let (key, value) = good_pair(9);
    let block = Act::Flush(&key_value_flush(&[&key, &value])).input();
    let response = client.post("/v1/blocks/9", &[], &block).expect(200);
    let mut writes = Vec::new();
    for part in [&key, &value] {
        writes.extend(u32::try_from(part.len()).expect("short").to_le_bytes());
        writes.extend(part);
    }
    assert_eq!(response.body, writes);
    let line =
        json!({ "height": 9, "verdict": "completed", "writes_sha256": hex::encode(Sha256::digest(&writes)) });
    assert_eq!(response.must("cofferdam-digest"), extend_digest(profile, &block, &line));
}

fn await_connections(server: &Server, count: f64) {
    wait_until("the others have left", || {
        (server.metrics().get("cofferdam_connections") <= count).then_some(())
    });
}

/// Whether nothing came back, or something that is an HTTP error.
fn assert_no_success(read: &[u8]) {
    let text = String::from_utf8_lossy(read);
    assert!(read.is_empty() || text.starts_with("HTTP/1.1 4") || text.starts_with("HTTP/1.0 4"), "{text}");
}

/// Sends bytes and nothing more, and reads until the other end closes.
fn say(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut client = server.connect();
    let mut answer = Vec::new();
    // It may close before it has read everything, and reset what was to be read.
    let _ = client.send(bytes);
    client.end();
    let _ = client.stream().read_to_end(&mut answer);
    answer
}
