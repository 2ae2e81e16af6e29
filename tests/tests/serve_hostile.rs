//! Clients that are slow, idle, malformed, or gone: `cofferdam serve` goes on serving the others right, and when they have
//! left, it is as it was before they came.

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

#[test]
fn slow_bodies_are_given_up_and_keep_nobody_waiting() {
    const CLIENTS: usize = 300;
    let besieged = Besieged::new(script().with("--body-timeout 2s --queue-wait 1s"));
    // Together they announce far more than is held at a time, and send a byte of it.
    let head = format!("POST /v1/blocks/1 HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\nx", 32 << 20);
    let begin = || {
        let mut client = besieged.server.connect();
        client.send(head.as_bytes()).expect("sent");
        client
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| begin()).collect();
    for _ in 0..20 {
        besieged.assert_serves();
    }
    for client in &mut clients {
        let response = client.response().expect("an answer");
        assert_eq!(response.must("connection"), "close");
        response.problem(408, "urn:cofferdam:problem:slow-body");
        assert!(client.is_closed_within(PATIENCE));
    }
    // A byte now and then is no better.
    let mut client = begin();
    let stream = client.stream().try_clone().expect("another descriptor");
    let trickle = thread::spawn(move || {
        while io::Write::write_all(&mut &stream, b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    client.response().expect("an answer").problem(408, "urn:cofferdam:problem:slow-body");
    client.stream().shutdown(Shutdown::Both).expect("it is open");
    trickle.join().expect("it ends");
    assert_eq!(besieged.server.metrics().get("cofferdam_refused_total{reason=\"slow-body\"}"), 301.0);
    besieged.end();
}

#[test]
fn slow_headers_are_given_up() {
    let besieged = Besieged::new(script().with("--header-timeout 1s"));
    // Nothing; too little to tell which HTTP it is; half a line; half a head; HTTP/2 and no request.
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let begins: [&[u8]; 6] = [b"", b"P", b"PRI * HT", b"GET /li", b"GET /livez HTTP/1.1\r\nHost: te", http2];
    let mut clients = Vec::new();
    for _ in 0..20 {
        for bytes in begins {
            let mut client = besieged.server.connect();
            client.send(bytes).expect("sent");
            clients.push((bytes, client));
        }
    }
    let mut idle = besieged.server.connect();
    idle.get("/livez").expect(200);
    besieged.assert_serves();
    for (bytes, client) in &mut clients {
        assert!(client.is_closed_within(PATIENCE), "{}", String::from_utf8_lossy(bytes));
    }
    assert!(idle.is_closed_within(PATIENCE), "between two requests");
    // A byte now and then is no better.
    let mut client = besieged.server.connect();
    let mut sent = client.send(b"GET /livez HTTP/1.1\r\nX: ");
    let mut turns = 0;
    while sent.is_ok() && turns < 6000 {
        thread::sleep(Duration::from_millis(50));
        sent = client.send(b"x");
        turns += 1;
    }
    sent.expect_err("it is closed in the end");
    besieged.end();
}

#[test]
fn a_head_that_is_half_there_does_not_hold_up_a_drain() {
    let server = Server::ready(script().with("--drain-timeout 10m --header-timeout 10m"));
    let mut clients = Vec::new();
    for bytes in [&b""[..], b"PRI", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: te"] {
        let mut client = server.connect();
        client.send(bytes).expect("sent");
        clients.push(client);
    }
    server.end();
}

#[test]
fn heads_that_are_too_large_are_431() {
    let besieged = Besieged::new(script());
    for bytes in [70 << 10, 1 << 20, 16 << 20] {
        let answer = say(
            &besieged.server,
            format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(bytes)).as_bytes(),
        );
        assert!(
            String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431 ")
                || (bytes > 1 << 20 && answer.is_empty())
        );
    }
    let many: String = (0..5000).map(|number| format!("X{number}: x\r\n")).collect();
    let answer = say(&besieged.server, format!("GET /livez HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431 "));
    let answer = say(&besieged.server, format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).as_bytes());
    assert_no_success(&answer);
    assert!(!answer.is_empty());
    besieged.end();
}

/// Lets this process and the server have enough descriptors for `clients` connections; whether they may.
fn raise_limits(server: &Server, clients: u64) -> bool {
    let most = clients + 500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if setrlimit(Resource::RLIMIT_NOFILE, hard.max(most), hard.max(most)).is_err() {
        skip(format_args!("{most} descriptors are needed, and {hard} allowed"));
        return false;
    }
    limit_descriptors(server, most)
}

fn limit_descriptors(server: &Server, most: u64) -> bool {
    let pid = server.running.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:{most}")]).status();
    let is_set = set.is_ok_and(|status| status.success());
    if !is_set {
        skip(format_args!("prlimit (util-linux) cannot set a limit of {most} descriptors here"));
    }
    is_set
}

/// Opens so many connections, of which each sends `bytes` and nothing more, and checks that others are served meanwhile.
fn crowd(besieged: &Besieged, clients: usize, bytes: &[u8]) -> Vec<Client> {
    let mut crowd = Vec::with_capacity(clients);
    for number in 0..clients {
        let mut client = besieged.server.connect();
        // Where places are few, it may be out again already.
        let _ = client.send(bytes);
        crowd.push(client);
        if number % 500 == 0 {
            besieged.assert_serves();
        }
    }
    besieged.assert_serves();
    crowd
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    const CLIENTS: usize = 10_000;
    let _descriptors = exclusively("descriptors");
    let besieged = Besieged::new(script().with("--max-connections 20000"));
    if !raise_limits(&besieged.server, CLIENTS as u64) {
        return;
    }
    let crowd = crowd(&besieged, CLIENTS, b"");
    wait_until("all of them are in", || {
        (besieged.server.metrics().get("cofferdam_connections") >= 10_000.0).then_some(())
    });
    for _ in 0..20 {
        besieged.assert_serves();
    }
    drop(crowd);
    besieged.end();
}

#[test]
fn where_places_are_few_the_idle_ones_make_room() {
    const CLIENTS: usize = 10_000;
    let _descriptors = exclusively("descriptors");
    for bytes in [&b""[..], b"GET /livez HTTP/1.1\r\nHost: te", b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"]
    {
        let besieged = Besieged::new(script().with("--max-connections 200"));
        if !raise_limits(&besieged.server, CLIENTS as u64) {
            return;
        }
        let crowd = crowd(&besieged, CLIENTS, bytes);
        await_connections(&besieged.server, 201.0);
        besieged.assert_serves();
        drop(crowd);
        besieged.end();
    }
}

#[test]
fn where_descriptors_are_few_the_idle_ones_make_room() {
    const CLIENTS: usize = 600;
    let _descriptors = exclusively("descriptors");
    let besieged = Besieged::new(script().with("--max-connections 20000"));
    if !raise_limits(&besieged.server, CLIENTS as u64) || !limit_descriptors(&besieged.server, 300) {
        return;
    }
    let crowd = crowd(&besieged, CLIENTS, b"");
    for _ in 0..20 {
        besieged.assert_serves();
    }
    drop(crowd);
    besieged.end();
}

#[test]
fn a_busy_connection_is_not_the_one_that_makes_room() {
    let besieged = Besieged::new(script().with("--max-connections 10 --queue-wait 5m"));
    let mut busy = besieged.server.connect();
    busy.send(&post("/v1/blocks/1", &[], &Act::Spin(600_000_000).input())).expect("sent");
    wait_until("it runs", || (besieged.server.status()["queue"]["running"] == 1).then_some(()));
    let crowd: Vec<_> = (0..200).map(|_| besieged.server.connect()).collect();
    busy.response().expect("an answer").expect(200);
    drop((crowd, busy));
    besieged.end();
}

#[test]
fn what_is_no_http_is_never_taken_for_a_block() {
    const MADE_UP: u64 = 2000;
    // Among what is made up are blocks that tell the guest to go round for ever: fuel ends them, and soon.
    let besieged = Besieged::new(script().with("--fuel 1000000"));
    let requests = |besieged: &Besieged| {
        besieged.server.metrics().get("cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}")
    };
    let head = "POST /v1/views/echo HTTP/1.1\r\nHost: test\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    // What two servers in a row could read in two ways: never accepted with a second request hidden in the first.
    let smuggled = "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n";
    let cases = [
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("{head}Content-Length: 5, 6\r\n\r\nhello"),
        format!("{head}Content-Length: +5\r\n\r\nhello"),
        format!("{head}Content-Length: -5\r\n\r\nhello"),
        format!("{head}Content-Length: 0x5\r\n\r\nhello"),
        format!("{head}Content-Length: 99999999999999999999999\r\n\r\nhello"),
        format!("{head}Content-Length: 18446744073709551615\r\n\r\nhello"),
        format!("{head}Content-Length : 5\r\n\r\nhello"),
        format!("{head} Content-Length: 5\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: gzip\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{head}X: a\0b\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{chunked}5\r\nhelloX\r\n0\r\n\r\n"),
        format!("{chunked}hello\r\n0\r\n\r\n"),
        format!("{chunked}-5\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}5\nhello\n0\n\n"),
        format!("{chunked}5\r\nhel"),
        format!("{chunked}5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("{chunked}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        "POST /v1/views/echo HTTP/9.9\r\n\r\n".to_owned(),
        "POST v1/views/echo HTTP/1.1\r\n\r\n".to_owned(),
        "\r\n\r\n\r\n\r\n".to_owned(),
        "\0".repeat(1000),
    ];
    let before = requests(&besieged);
    for case in &cases {
        assert_no_success(&say(&besieged.server, case.as_bytes()));
        assert_eq!(requests(&besieged), before, "{case:.200}");
    }
    // Both lengths: a proxy must not, and a server that takes it must go by the chunks and close (RFC 9112, 6.3).
    for both in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let answer = say(&besieged.server, format!("{head}{both}\r\n\r\n0\r\n\r\n{smuggled}").as_bytes());
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("\r\n\r\nok\n"), "what came after it was answered: {text}");
        besieged.assert_serves();
    }
    let before = requests(&besieged);
    let mut random = Random::seeded();
    let block = Act::Return.input();
    let good = post("/v1/blocks/5", &["Accept: application/json"], &block);
    for _ in 0..MADE_UP {
        let bytes = made_up(&mut random, &good);
        // Whatever it is: an answer or none, but no harm.
        say(&besieged.server, &bytes);
    }
    assert_eq!(requests(&besieged), before, "no view was asked for");
    besieged.end();
}

/// Random bytes, or a request that was cut, or one with some bytes changed.
fn made_up(random: &mut Random, good: &[u8]) -> Vec<u8> {
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("it was one");
    let byte = |below: &mut dyn FnMut(usize) -> usize| u8::try_from(below(256)).expect("a byte");
    match below(3) {
        0 => (0..below(300)).map(|_| byte(&mut below)).collect(),
        1 => good[..below(good.len())].to_vec(),
        _ => {
            let mut bytes = good.to_vec();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = byte(&mut below);
            }
            bytes
        }
    }
}

#[test]
fn a_body_that_is_longer_or_shorter_than_announced() {
    let besieged = Besieged::new(script());
    let head = "POST /v1/views/echo HTTP/1.1\r\nHost: test\r\nContent-Length: ";
    for _ in 0..50 {
        // The rest is the next request, and none.
        let answer = say(&besieged.server, format!("{head}5\r\n\r\nhello, world\r\n\r\n").as_bytes());
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (first, rest) = text.split_once("\r\n\r\nhello").unwrap_or_else(|| panic!("{text}"));
        assert!(
            first.starts_with("HTTP/1.1 200 ") && (rest.is_empty() || rest.starts_with("HTTP/1.1 400 ")),
            "{text}"
        );
        // No guest sees half of a body.
        assert_no_success(&say(&besieged.server, format!("{head}50\r\n\r\nhello").as_bytes()));
    }
    let completed = "cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}";
    assert_eq!(besieged.server.metrics().get(completed), 50.0);
    besieged.end();
}

#[test]
fn clients_that_read_nothing_of_a_large_answer_are_given_up() {
    let command = script().with("--memory 64MiB --buffered 128MiB --queue-wait 5m");
    let mut besieged = Besieged::new(command);
    // Each body and each answer once.
    besieged.slack_kib = 128 << 10;
    let body = vec![7; 16 << 20];
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = besieged.server.connect();
            client.send(&post("/v1/views/echo", &[], &body)).expect("sent");
            client
        })
        .collect();
    let held = || besieged.server.metrics().get("cofferdam_held_bytes");
    wait_until("all of them have been answered", || {
        let metrics = besieged.server.metrics();
        (metrics.get("cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}") >= 4.0).then_some(())
    });
    for _ in 0..20 {
        besieged.assert_serves();
    }
    assert!(held() > 0.0, "what they do not read is held, and counted");
    wait_until("what they do not read is held no longer", || (held() == 0.0).then_some(()));
    drop(clients);
    besieged.end();
}

#[test]
fn clients_that_hang_up_in_the_middle() {
    let besieged = Besieged::new(script().with("--memory 64MiB --workers 2 --queue-wait 5m"));
    let large = post("/v1/views/echo", &[], &vec![7; 4 << 20]);
    let spin = post("/v1/blocks/1", &["Idempotency-Key: k"], &Act::Spin(20_000_000).input());
    let events = b"GET /v1/events HTTP/1.1\r\nHost: test\r\n\r\n".to_vec();
    for turn in 0..20 {
        for request in [&large, &spin, &events] {
            let mut gone = besieged.server.connect();
            gone.send(&request[..request.len() / 2]).expect("sent");
            drop(gone);
            let mut gone = besieged.server.connect();
            gone.send(request).expect("sent");
            if turn % 2 == 0 {
                // Somewhere in the answer, rather than before it.
                let _ = gone.stream().read(&mut [0; 64]);
            }
        }
        besieged.assert_serves();
    }
    wait_until("nothing runs for them any more", || {
        (besieged.server.metrics().get("cofferdam_running") == 0.0).then_some(())
    });
    besieged.end();
}
