//! `cofferdam serve` answers as its documentation says: each route, header and status code, asked for over a socket, and
//! compared with what the guest was told to do.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_tests::support::command::{
    Cofferdam, Files, Output, PATIENCE, extend_digest, guest, number, record, send, sums_blocks, text,
    wait_until,
};
use cofferdam_tests::support::guests::{Act, good_pair, key_value_flush};
use cofferdam_tests::support::serve::{Client, Response, Server, address, post, serve};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Rounds of [`Act::Spin`] that take a second or so: long enough to do something meanwhile.
const SECOND: u32 = 600_000_000;

fn script() -> Cofferdam<'static> {
    serve(&guest("script.wat"))
}

/// A block that flushes a pair, and the pair.
fn good(height: u32) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (key, value) = good_pair(height);
    (Act::Flush(&key_value_flush(&[&key, &value])).input(), key, value)
}

/// The digest that a block's answer must carry, by the words of the design.
fn digest(profile: &str, height: u32, block: &[u8], verdict: &str, writes: &[u8]) -> String {
    let writes = hex::encode(Sha256::digest(writes));
    extend_digest(profile, block, &json!({ "height": height, "verdict": verdict, "writes_sha256": writes }))
}

/// Waits until a request runs, and gives the process id of the worker that it runs on.
fn await_busy(server: &Server) -> u32 {
    wait_until("a worker is busy", || {
        let status = server.status();
        let busy = status["workers"].as_array()?.iter().find(|worker| worker["state"] == "busy")?;
        u32::try_from(busy["pid"].as_u64()?).ok()
    })
}

/// Sends a POST, and gives the connection that its answer will come on.
fn begin(server: &Server, path: &str, headers: &[&str], body: &[u8]) -> Client {
    let mut client = server.connect();
    client.send(&post(path, headers, body)).expect("it is sent");
    client
}

fn requests(server: &Server, kind: &str, verdict: &str) -> f64 {
    server.metrics().get(&format!("cofferdam_requests_total{{kind=\"{kind}\",verdict=\"{verdict}\"}}"))
}

/// Checks the headers of an answer that a guest gave at the first attempt.
fn assert_headers(server: &Server, response: &Response, verdict: &str, digest: &str) {
    assert_eq!(response.must("cofferdam-verdict"), verdict);
    assert_eq!(response.must("cofferdam-digest"), digest);
    assert_eq!(response.must("cofferdam-attempts"), "1");
    assert_eq!(response.must("cofferdam-profile"), server.profile());
    let workers = server.running.workers();
    let slot = |pid: &u32| response.must("cofferdam-worker") == format!("pid={pid};slot=0");
    assert!(workers.iter().any(slot), "{response:?} {workers:?}");
    assert_server_timing(response.must("server-timing"));
}

/// Checks for `queue;dur=0.012, guest;dur=…, overhead;dur=…`.
fn assert_server_timing(value: &str) {
    let metrics: Vec<_> = value.split(", ").map(|metric| metric.split_once(";dur=").expect(value)).collect();
    let names: Vec<_> = metrics.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["queue", "guest", "overhead"], "{value}");
    assert!(metrics.iter().all(|(_, dur)| dur.parse::<f64>().is_ok_and(|dur| dur >= 0.0)), "{value}");
}

#[test]
fn blocks_and_views_are_answered_as_bytes_or_json_with_every_header() {
    let server = Server::ready(script());
    let profile = server.profile();
    let (block, key, value) = good(7);
    let mut client = server.connect();
    let bytes = client.post("/v1/blocks/7", &[], &block).expect(200);
    assert_eq!(bytes.must("content-type"), "application/octet-stream");
    let pairs: Vec<(&[u8], &[u8])> = cofferdam::writes::pairs(&bytes.body).collect();
    assert!(pairs == [(&key[..], &value[..])], "{pairs:?}");
    let expected = digest(&profile, 7, &block, "completed", &bytes.body);
    assert_headers(&server, &bytes, "completed", &expected);

    // The same as JSON, on the same connection.
    for accept in
        ["application/json", "application/octet-stream;q=0.1, application/json", "application/json;q=0.5"]
    {
        let response = client.post("/v1/blocks/7", &[&format!("Accept: {accept}")], &block).expect(200);
        assert_eq!(response.must("content-type"), "application/json");
        assert_headers(&server, &response, "completed", &expected);
        let body = response.json();
        let writes = json!([{ "key": hex::encode(&key), "value": hex::encode(&value) }]);
        assert_eq!((&body["writes"], number(&body, "height")), (&writes, 7), "{body}");
        assert_eq!((text(&body, "digest"), text(&body, "profile")), (expected.clone(), profile.clone()));
        assert_eq!((text(&body, "verdict").as_str(), number(&body, "attempts")), ("completed", 1));
    }
    for accept in ["*/*", "application/json;q=0.1, application/octet-stream", "text/html"] {
        let response = client.post("/v1/blocks/7", &[&format!("Accept: {accept}")], &block).expect(200);
        assert_eq!(response.body, bytes.body, "{accept}");
    }

    let view = client.post("/v1/views/echo?height=7", &[], b"hello").expect(200);
    assert_eq!(
        (view.must("content-type"), view.body.as_slice()),
        ("application/octet-stream", &b"hello"[..])
    );
    assert_headers(&server, &view, "completed", &digest(&profile, 7, b"hello", "completed", b"hello"));
    let view = client.post("/v1/views/echo", &["Accept: application/json"], b"hello").expect(200);
    let body = view.json();
    assert_eq!((text(&body, "export"), text(&body, "result")), ("echo".to_owned(), hex::encode("hello")));
    assert_eq!(number(&body, "height"), u64::from(u32::MAX), "above every block");
    let empty = client.post("/v1/views/echo", &[], b"").expect(200);
    assert!(empty.body.is_empty());
    server.end();
}

#[test]
fn a_body_in_chunks_or_after_100_continue_is_the_same_body() {
    let server = Server::ready(script());
    let (block, ..) = good(1);
    let whole = server.post("/v1/blocks/1", &[], &block).expect(200);
    let mut client = server.connect();
    client
        .send(b"POST /v1/blocks/1 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("sent");
    for byte in &block {
        client.send(&[b"1\r\n", &[*byte][..], b"\r\n"].concat()).expect("sent");
    }
    client.send(b"0\r\n\r\n").expect("sent");
    let chunked = client.response().expect("an answer").expect(200);
    assert_eq!(chunked.must("cofferdam-digest"), whole.must("cofferdam-digest"));
    let length = block.len();
    let head = format!(
        "POST /v1/blocks/1 HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    client.send(head.as_bytes()).expect("sent");
    client.head().expect("an interim answer").expect(100);
    client.send(&block).expect("sent");
    let continued = client.response().expect("an answer").expect(200);
    assert_eq!(continued.must("cofferdam-digest"), whole.must("cofferdam-digest"));
    server.end();
}

#[test]
fn a_verdict_of_the_guest_is_422_and_says_the_same_each_time() {
    let server = Server::ready(script().with("--fuel 10000000"));
    let profile = server.profile();
    let cases: [(Act<'_>, &str); 7] = [
        (Act::Unreachable, "trap"),
        (Act::Abort, "abort"),
        (Act::Return, "incomplete"),
        (Act::ExhaustThenTrap, "memory-exhausted"),
        (Act::Spin(0), "fuel-exhausted"),
        (Act::Flush(b"\xff"), "bad-output"),
        (Act::CallAbsent, "trap"),
    ];
    for (act, verdict) in cases {
        let block = act.input();
        let expected = digest(&profile, 3, &block, verdict, b"");
        for _ in 0..2 {
            let response = server.post("/v1/blocks/3", &[], &block);
            assert_headers(&server, &response, verdict, &expected);
            assert_eq!(response.header("retry-after"), None, "another time it is the same");
            let body = response.problem(422, &format!("urn:cofferdam:verdict:{verdict}"));
            assert_eq!((text(&body, "verdict").as_str(), text(&body, "digest")), (verdict, expected.clone()));
        }
    }
    let response = server.post("/v1/views/absent", &[], b"");
    response.problem(422, "urn:cofferdam:verdict:no-such-export");
    assert_eq!(server.status()["totals"]["deaths"], 0);
    assert_eq!(requests(&server, "block", "trap"), 4.0);
    server.end();

    let small = Server::ready(script().with("--max-output-bytes 64KiB"));
    let response =
        small.post("/v1/blocks/3", &[], &Act::Flush(&key_value_flush(&[b"k", &[7; 70_000]])).input());
    response.problem(422, "urn:cofferdam:verdict:output-too-large");
    small.end();
}

#[test]
fn a_killed_worker_costs_an_attempt_and_without_retries_the_answer_is_503() {
    let server = Server::ready(script().with("--retries 1"));
    let mut client =
        begin(&server, "/v1/blocks/1", &["Accept: application/json"], &Act::Spin(SECOND).input());
    let killed = await_busy(&server);
    send(killed, Signal::SIGKILL).expect("it is there");
    let response = client.response().expect("an answer").expect(200);
    assert_eq!(response.must("cofferdam-attempts"), "2");
    let body = response.json();
    let lost = body["lost"].as_array().expect("a list");
    assert_eq!((lost.len(), number(&lost[0], "worker")), (1, killed.into()), "{body}");
    assert_eq!(text(&lost[0], "verdict"), "killed");
    assert_ne!(number(&body["worker"], "pid"), u64::from(killed));

    // And when each attempt is lost.
    let mut client = begin(&server, "/v1/blocks/2", &[], &Act::Spin(0).input());
    for _ in 0..2 {
        send(await_busy(&server), Signal::SIGKILL).expect("it is there");
        wait_until("the death is known", || {
            let deaths = server.metrics().get("cofferdam_deaths_total{verdict=\"killed\"}");
            (server.status()["workers"][0]["state"] == "busy" || deaths >= 3.0).then_some(())
        });
    }
    let response = client.response().expect("an answer");
    assert_eq!((response.must("cofferdam-verdict"), response.must("cofferdam-attempts")), ("killed", "2"));
    assert_eq!(response.header("cofferdam-digest"), None, "nothing is known of the block");
    assert_eq!(response.must("retry-after"), "1");
    let body = response.problem(503, "urn:cofferdam:verdict:killed");
    assert!(text(&body, "detail").contains("SIGKILL"), "{body}");
    server.await_ready();
    let metrics = server.metrics();
    assert_eq!(metrics.get("cofferdam_deaths_total{verdict=\"killed\"}"), 3.0);
    assert_eq!(metrics.get("cofferdam_requests_total{kind=\"block\",verdict=\"killed\"}"), 1.0);
    assert_eq!(metrics.get("cofferdam_retries_total"), 3.0);
    server.post("/v1/blocks/3", &[], &good(3).0).expect(200);
    server.end();
}

#[test]
fn a_deadline_of_the_pool_is_504_with_the_verdict() {
    let server = Server::ready(script().with("--deadline 200ms --retries 1"));
    let response = server.post("/v1/blocks/1", &[], &Act::Spin(0).input());
    assert_eq!((response.must("cofferdam-verdict"), response.must("cofferdam-attempts")), ("deadline", "2"));
    response.problem(504, "urn:cofferdam:verdict:deadline");
    server.await_ready();
    assert_eq!(server.metrics().get("cofferdam_deaths_total{verdict=\"deadline\"}"), 2.0);
    server.post("/v1/blocks/3", &[], &good(3).0).expect(200);
    server.end();
}

#[test]
fn a_deadline_of_the_client_is_504_and_costs_no_worker() {
    let server = Server::ready(script().with("--queue-wait 5m"));
    let workers = server.running.workers();
    let response = server.post("/v1/blocks/1", &["Cofferdam-Deadline-Ms: 50"], &Act::Spin(SECOND).input());
    response.problem(504, "urn:cofferdam:problem:client-deadline");
    // One that waits for the turn of the other has no more patience than it says.
    let response = server.post("/v1/blocks/2", &["Cofferdam-Deadline-Ms: 1"], &Act::Spin(SECOND).input());
    response.problem(504, "urn:cofferdam:problem:client-deadline");
    let (block, ..) = good(3);
    let response = server.post("/v1/blocks/3", &["Cofferdam-Deadline-Ms: 100000"], &block).expect(200);
    assert_eq!(response.must("cofferdam-attempts"), "1");
    let huge = format!("Cofferdam-Deadline-Ms: {}", u64::MAX);
    server.post("/v1/blocks/3", &[&huge], &block).expect(200);
    assert_eq!((server.running.workers(), &server.status()["totals"]["deaths"]), (workers, &json!(0)));
    server.end();
}

#[test]
fn what_cannot_be_understood_is_a_problem_of_the_400s() {
    let server = Server::ready(script().with("--max-body-bytes 1KiB"));
    let malformed = |path: &str, header: &str| {
        let headers = if header.is_empty() { vec![] } else { vec![header] };
        let body = server.post(path, &headers, b"x").problem(400, "urn:cofferdam:problem:malformed");
        text(&body, "detail")
    };
    for height in ["-1", "+1", "4294967296", "1.5", "0x1", "%201", "abc", "%FF"] {
        malformed(&format!("/v1/blocks/{height}"), "");
    }
    for query in ["height=", "height=x", "height=1&height=2", "hight=1", "height"] {
        malformed(&format!("/v1/views/echo?{query}"), "");
    }
    malformed("/v1/views/%FF", "");
    malformed(&format!("/v1/views/{}", "x".repeat(5000)), "");
    for deadline in ["", "0", "-1", "1.5", "soon", "99999999999999999999"] {
        let detail = malformed("/v1/blocks/1", &format!("Cofferdam-Deadline-Ms: {deadline}"));
        assert!(detail.contains("deadline"), "{detail}");
    }
    for key in ["", &"k".repeat(256), "\u{fc}"] {
        let detail = malformed("/v1/blocks/1", &format!("Idempotency-Key: {key}"));
        assert!(detail.contains("Idempotency-Key"), "{detail}");
    }
    let mut client = server.connect();
    for path in ["/v2", "/v1/blocks", "/v1/blocks/1/2", "/admin/swap", "/v1/blocks/"] {
        client.post(path, &[], b"").problem(404, "urn:cofferdam:problem:not-found");
    }
    for path in ["/v1/blocks/1", "/v1/views/echo"] {
        let response = client.get(path);
        assert_eq!(response.must("allow"), "POST");
        response.problem(405, "urn:cofferdam:problem:method");
    }
    client.post("/metrics", &[], b"").problem(405, "urn:cofferdam:problem:method");

    // As many bytes as may be, and one more.
    client.post("/v1/views/echo", &[], &[7; 1024]).expect(200);
    let response = client.post("/v1/views/echo", &[], &[7; 1025]);
    assert_eq!(response.must("connection"), "close");
    response.problem(413, "urn:cofferdam:problem:too-large");
    let chunked = |bytes: usize| {
        let mut client = server.connect();
        let head = "POST /v1/views/echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = [format!("{bytes:x}\r\n").as_bytes(), &vec![7; bytes], b"\r\n0\r\n\r\n"].concat();
        client.send(&[head.as_bytes(), &body].concat()).expect("sent");
        client.response().expect("an answer")
    };
    chunked(1024).expect(200);
    chunked(1025).problem(413, "urn:cofferdam:problem:too-large");
    let metrics = server.metrics();
    assert_eq!(metrics.get("cofferdam_refused_total{reason=\"too-large\"}"), 2.0);
    assert_eq!(metrics.get("cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}"), 2.0);
    server.end();
}

#[test]
fn a_client_that_sends_all_of_a_body_that_is_too_large_reads_why_not() {
    let server = Server::ready(script().with("--max-body-bytes 64KiB"));
    for _ in 0..20 {
        // More than the buffers of both sockets, so that the answer is there before the last byte is sent.
        let response = server.post("/v1/blocks/1", &[], &vec![0; 8 << 20]);
        response.problem(413, "urn:cofferdam:problem:too-large");
    }
    server.end();
}

#[test]
fn the_same_idempotency_key_is_answered_the_same_and_run_once() {
    let server = Server::ready(script().with("--workers 2"));
    let key = ["Idempotency-Key: \"one\"", "Accept: application/json"];
    let (block, ..) = good(5);
    let first = server.post("/v1/blocks/5", &key, &block).expect(200);
    let again = server.post("/v1/blocks/5", &key, &block).expect(200);
    assert_eq!((&first.body, first.must("server-timing")), (&again.body, again.must("server-timing")));
    assert_eq!(requests(&server, "block", "completed"), 1.0);
    // The same answer in the other form.
    let bytes = server.post("/v1/blocks/5", &key[..1], &block).expect(200);
    assert_eq!(bytes.must("cofferdam-digest"), first.must("cofferdam-digest"));
    // Another request: by its body, its height, its kind.
    for (path, body) in
        [("/v1/blocks/5", &b"other"[..]), ("/v1/blocks/6", &block), ("/v1/views/act?height=5", &block)]
    {
        server.post(path, &key, body).problem(422, "urn:cofferdam:problem:key-reused");
    }
    // What the guest said is remembered, whatever it was.
    for _ in 0..2 {
        let failed = server.post("/v1/blocks/1", &["Idempotency-Key: trap"], &Act::Unreachable.input());
        failed.problem(422, "urn:cofferdam:verdict:trap");
    }
    assert_eq!((requests(&server, "block", "trap"), requests(&server, "block", "completed")), (1.0, 1.0));

    // Four at once, on two workers.
    let spin = Act::Spin(SECOND / 2).input();
    let mut clients: Vec<_> =
        (0..4).map(|_| begin(&server, "/v1/blocks/9", &["Idempotency-Key: two"], &spin)).collect();
    let answers: Vec<_> =
        clients.iter_mut().map(|client| client.response().expect("an answer").expect(200)).collect();
    assert!(answers.iter().all(|answer| answer.must("server-timing") == answers[0].must("server-timing")));
    assert_eq!(requests(&server, "block", "completed"), 2.0);
    server.end();
}

#[test]
fn who_waits_for_a_key_gets_the_answer_though_the_first_has_hung_up() {
    let server = Server::ready(script());
    let spin = Act::Spin(SECOND).input();
    let first = begin(&server, "/v1/blocks/9", &["Idempotency-Key: gone"], &spin);
    await_busy(&server);
    drop(first);
    server.post("/v1/blocks/9", &["Idempotency-Key: gone"], &spin).expect(200);
    assert_eq!(requests(&server, "block", "completed"), 1.0);
    server.end();
}

#[test]
fn what_the_host_lost_is_not_remembered_for_its_key() {
    let server = Server::ready(script().with("--retries 0"));
    let (key, spin) = (["Idempotency-Key: lost"], Act::Spin(SECOND).input());
    let mut client = begin(&server, "/v1/blocks/1", &key, &spin);
    send(await_busy(&server), Signal::SIGKILL).expect("it is there");
    client.response().expect("an answer").problem(503, "urn:cofferdam:verdict:killed");
    server.await_ready();
    let response = server.post("/v1/blocks/1", &key, &spin).expect(200);
    assert_eq!(response.must("cofferdam-attempts"), "1");
    // Nor is that the client had no more patience.
    let (key, hasty) = ("Idempotency-Key: late", "Cofferdam-Deadline-Ms: 20");
    server.post("/v1/blocks/2", &[key, hasty], &spin).problem(504, "urn:cofferdam:problem:client-deadline");
    server.post("/v1/blocks/2", &[key], &spin).expect(200);
    server.end();
}

#[test]
fn guests_read_the_store_that_a_run_has_written_and_goes_on_writing() {
    let files = Files::new();
    let (db, module) = (files.at("db"), guest("cli_sums.wat"));
    let blocks = sums_blocks(20, 0);
    let index = |count: usize| {
        let records: Vec<u8> = blocks[..count].iter().flat_map(|block| record(block)).collect();
        let run =
            Cofferdam::run().with("--opaque --blocks -").path("--module", &module).path("--db-path", &db);
        run.stdin(records).output().expect_code(0)
    };
    let first = index(10);
    let server = Server::ready(serve(&module).path("--db-path", &db));
    let check = |output: &Output| {
        for line in output.blocks() {
            let height = number(&line, "height");
            let block = &blocks[usize::try_from(height).expect("a few")];
            let response = server.post(&format!("/v1/blocks/{height}"), &[], block).expect(200);
            assert_eq!(hex::encode(Sha256::digest(&response.body)), text(&line, "writes_sha256"), "{line}");
        }
    };
    check(&first);
    let second = index(20);
    assert_eq!(second.heights(), (10..20).collect::<Vec<_>>());
    check(&second);
    check(&first);
    server.end();
}

#[test]
fn json_logs_name_the_trace_that_a_request_belongs_to() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let server = Server::ready(script().with("--log-format json --log cofferdam=debug"));
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    server.post("/v1/blocks/5", &[&parent], &good(5).0).expect(200);
    server.post("/v1/blocks/6", &[&parent, "Idempotency-Key: k"], &Act::Unreachable.input()).expect(422);
    server.post("/v1/blocks/7", &["traceparent: nonsense"], &good(7).0).expect(200);
    let output = server.end();
    let lines: Vec<Value> =
        output.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |height: u32| {
        let found = lines.iter().find(|line| line["span"]["height"] == height && line["verdict"].is_string());
        found.unwrap_or_else(|| panic!("no line about {height}: {output}"))
    };
    for (height, verdict) in [(5, "completed"), (6, "trap")] {
        let line = of(height);
        assert_eq!((&line["span"]["trace_id"], &line["verdict"]), (&json!(TRACE), &json!(verdict)), "{line}");
        assert_eq!(line["span"]["parent_span_id"], "00f067aa0ba902b7");
    }
    assert!(of(7)["span"].get("trace_id").is_none());
    let said = |what: &str| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains(what)))
    };
    assert!(said("Memory pre-allocation complete in ") && said("drained"), "{output}");
}

#[test]
fn variables_of_the_environment_are_arguments() {
    let address = address();
    let command = Cofferdam::new(["serve"]).arg(guest("script.wat"));
    let variables = [
        ("WORKERS", "2".to_owned()),
        ("SPARES", "1".to_owned()),
        ("MEMORY", "16MiB".to_owned()),
        ("LISTEN", address.to_string()),
        ("MAX_BODY_BYTES", "1KiB".to_owned()),
        ("DRAIN_DELAY", "0s".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ];
    let set = |command: Cofferdam<'static>, (name, value): &(&str, String)| {
        command.variable(&format!("COFFERDAM_{name}"), value.clone())
    };
    let running = variables.iter().fold(command, set).start();
    wait_until("it serves", || {
        (Client::try_connect(address).ok()?.get("/readyz").status == 200).then_some(())
    });
    assert_eq!(running.workers().len(), 3);
    let mut client = Client::connect(address);
    assert_eq!(client.get("/v1/status").json()["memory_bytes"], 16 << 20);
    client.post("/v1/views/echo", &[], &[0; 1025]).problem(413, "urn:cofferdam:problem:too-large");
    running.signal(Signal::SIGTERM);
    let output = running.finish().expect_code(0);
    assert!(output.stderr.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{output}");
    let wrong = Cofferdam::new(["serve"]).variable("COFFERDAM_WORKERS", "many").output().expect_code(2);
    assert!(wrong.stderr.contains("many"), "{wrong}");
}

#[test]
fn metrics_are_prometheus_text_and_count_what_happened() {
    let server = Server::ready(script().with("--workers 2 --spares 1"));
    let before = server.metrics();
    for (state, count) in [("idle", 3.0), ("busy", 0.0), ("failed", 0.0)] {
        assert_eq!(before.get(&format!("cofferdam_workers{{state=\"{state}\"}}")), count, "{before:?}");
    }
    assert_eq!((before.get("cofferdam_ready"), before.get("cofferdam_running")), (1.0, 0.0));
    let info = format!("profile=\"{}\"", server.profile());
    assert!(before.0.keys().any(|key| key.starts_with("cofferdam_build_info{") && key.contains(&info)));
    for slot in 0..3 {
        assert!(before.get(&format!("cofferdam_commit_seconds{{slot=\"{slot}\"}}")) > 0.0);
        assert!(before.get(&format!("cofferdam_resident_bytes{{slot=\"{slot}\"}}")) >= f64::from(16 << 20));
    }
    for height in 0..20 {
        server.post(&format!("/v1/blocks/{height}"), &[], &good(height).0).expect(200);
    }
    for _ in 0..3 {
        server.post("/v1/views/echo", &[], b"x").expect(200);
    }
    server.post("/v1/blocks/x", &[], b"").expect(400);
    let after = server.metrics();
    let completed =
        |kind: &str| after.get(&format!("cofferdam_requests_total{{kind=\"{kind}\",verdict=\"completed\"}}"));
    assert_eq!((completed("block"), completed("view")), (20.0, 3.0));
    assert_eq!(after.get("cofferdam_refused_total{reason=\"malformed\"}"), 1.0);
    for histogram in ["guest", "overhead", "queued"] {
        let name = format!("cofferdam_{histogram}_seconds");
        assert_eq!(after.get(&format!("{name}_count{{kind=\"block\"}}")), 20.0);
        let bucket =
            |key: &&String| key.starts_with(&format!("{name}_bucket{{")) && key.contains("kind=\"block\"");
        let buckets: Vec<f64> = after.0.keys().filter(bucket).map(|key| after.get(key)).collect();
        assert!(buckets.len() > 10 && buckets.iter().all(|count| (0.0..=20.0).contains(count)));
        assert!(after.get(&format!("{name}_bucket{{le=\"+Inf\",kind=\"block\"}}")) == 20.0, "{after:?}");
        assert!(after.get(&format!("{name}_sum{{kind=\"block\"}}")) >= 0.0);
    }
    wait_until("the resets are counted", || {
        let metrics = server.metrics();
        (metrics.get("cofferdam_reset_seconds_count") == 23.0
            && metrics.get("cofferdam_reset_written_bytes_total") > 0.0)
            .then_some(())
    });
    // What Prometheus asks for.
    let mut client = server.connect();
    client
        .send(b"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n")
        .expect("sent");
    let response = client.response().expect("an answer").expect(200);
    assert!(response.must("content-type").starts_with("application/openmetrics-text; version=1.0.0"));

    send(server.running.workers()[0], Signal::SIGKILL).expect("it is there");
    wait_until("the death is counted and made good", || {
        let metrics = server.metrics();
        let dead = metrics.get("cofferdam_deaths_total{verdict=\"killed\"}");
        (dead == 1.0 && metrics.get("cofferdam_workers{state=\"idle\"}") == 3.0).then_some(())
    });
    server.end();
}

/// A server whose worker was stopped in the middle of its commit.
fn stopped_in_its_commit(agent: SocketAddr) -> (Server, u32) {
    for _ in 0..10 {
        let command = Cofferdam::new(["serve"]).arg(guest("script.wat")).with("--memory 1GiB --spares 0");
        let command = command.with(&format!("--drain-delay 0s --huge-pages off --agent {agent}"));
        let server = Server::start(command);
        let worker = wait_until("there is a worker", || server.running.workers().first().copied());
        send(worker, Signal::SIGSTOP).expect("it is there");
        if server.get("/startupz").status == 503 {
            return (server, worker);
        }
        // It was faster.
        send(worker, Signal::SIGCONT).expect("it is there");
        server.end();
    }
    panic!("its commit was never met");
}

fn agent_line(agent: SocketAddr) -> String {
    let mut line = String::new();
    let mut stream = TcpStream::connect(agent).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.read_to_string(&mut line).expect("a line");
    line
}

#[test]
fn probes_tell_the_truth_before_during_and_after_the_commit() {
    let agent = address();
    let (server, worker) = stopped_in_its_commit(agent);
    let probe = |path: &str, status: u16| server.get(path).expect(status).text();
    assert!(probe("/startupz?verbose", 503).starts_with("[-]memory committed "));
    assert!(probe("/startupz", 503).ends_with("startupz check failed\n"));
    assert!(probe("/readyz?verbose", 503).contains("[-]phase starting: "));
    assert_eq!(probe("/livez", 200), "ok\n");
    assert!(probe("/livez?verbose=1", 200).ends_with("livez check passed\n"));
    assert!(agent_line(agent).starts_with("down #"));
    let status = server.status();
    assert_eq!((&status["state"], &status["profile"]), (&json!("starting"), &Value::Null));
    assert_eq!(server.metrics().get("cofferdam_ready"), 0.0);
    let response = server.post("/v1/blocks/1", &[], &good(1).0);
    assert_eq!(response.must("retry-after"), "1");
    response.problem(503, "urn:cofferdam:problem:starting");
    assert!(server.admin("/admin/swap", b"").expect(409).text().contains("nothing is served yet"));

    send(worker, Signal::SIGCONT).expect("it is there");
    server.await_ready();
    assert_eq!(probe("/startupz", 200), "ok\n");
    assert_eq!(probe("/startupz?verbose", 200), "[+]memory committed ok\nstartupz check passed\n");
    let ready = "[+]phase ok\n[+]workers ok (1 of 1 ready)\n[+]queue ok\nreadyz check passed\n";
    assert_eq!(probe("/readyz?verbose", 200), ready);
    assert_eq!(agent_line(agent), "ready up 100%\n");
    assert_eq!(server.status()["state"], "serving");
    server.post("/v1/blocks/1", &[], &good(1).0).expect(200);
    server.end();
}

#[test]
fn a_server_that_is_asked_to_end_while_it_commits_ends_and_leaves_nothing() {
    let (server, worker) = stopped_in_its_commit(address());
    server.running.signal(Signal::SIGTERM);
    // A stopped process can be killed, and only that.
    let output = server.running.finish().expect_code(1);
    assert!(!cofferdam_tests::support::pool::is_running(worker), "{output}");
}

/// The next event of a stream: its name, and its data.
fn next_event(client: &mut Client, text: &mut String) -> Option<(String, Value)> {
    while !text.contains("\n\n") {
        text.push_str(&String::from_utf8(client.chunk().expect("a chunk")?).expect("a text"));
    }
    let (event, rest) = text.split_once("\n\n").expect("it was looked for");
    let (name, data) = event.split_once('\n').expect("two lines");
    let name = name.strip_prefix("event: ").expect("a name").to_owned();
    let data = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
    *text = rest.to_owned();
    Some((name, data))
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn events_are_the_history_and_then_snapshots_until_the_server_ends() {
    let server = Server::ready(script());
    server.post("/v1/blocks/5", &[], &good(5).0).expect(200);
    let mut client = server.connect();
    client.send(b"GET /v1/events HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n").expect("sent");
    let head = client.head().expect("an answer").expect(200);
    assert_eq!((head.must("content-type"), head.must("x-accel-buffering")), ("text/event-stream", "no"));
    let mut rest = String::new();
    let (name, history) = next_event(&mut client, &mut rest).expect("an event");
    let fields = ["seconds", "rate", "p50_us", "p99_us"].map(str::to_owned);
    assert_eq!((name.as_str(), members(&history)), ("history", fields.into()));
    let status = server.status();
    for _ in 0..2 {
        let (name, snapshot) = next_event(&mut client, &mut rest).expect("an event");
        assert_eq!((name.as_str(), members(&snapshot)), ("snapshot", members(&status)));
        assert_eq!(members(&snapshot["workers"][0]), members(&status["workers"][0]));
        let recent = &snapshot["recent"][0];
        assert_eq!(
            (number(recent, "height"), text(recent, "verdict").as_str()),
            (5, "completed"),
            "{snapshot}"
        );
        assert_eq!(snapshot["totals"]["completed"], 1);
        assert_eq!(snapshot["module"]["name"], "script.wat");
    }
    // Whoever watches keeps it from nothing.
    server.running.signal(Signal::SIGTERM);
    while next_event(&mut client, &mut rest).is_some() {}
    server.running.finish().expect_code(0);
}

#[test]
fn a_drain_takes_readiness_first_and_a_second_signal_ends_at_once() {
    let agent = address();
    let command = script().with(&format!("--drain-delay 10m --agent {agent}"));
    let server = Server::ready(command);
    let mut kept = server.connect();
    assert_eq!(kept.post("/v1/blocks/1", &[], &good(1).0).expect(200).header("connection"), None);
    server.running.signal(Signal::SIGTERM);
    wait_until("readiness falls", || (server.get("/readyz").status == 503).then_some(()));
    assert!(server.get("/readyz?verbose").text().contains("[-]phase draining\n"));
    assert_eq!(agent_line(agent), "drain\n");
    server.get("/livez").expect(200);
    server.get("/startupz").expect(200);
    // Still served, on connections old and new, which are asked to go elsewhere.
    let old = kept.post("/v1/blocks/2", &[], &good(2).0).expect(200);
    assert_eq!(old.must("connection"), "close");
    let new = server.post("/v1/blocks/3", &[], &good(3).0).expect(200);
    assert_eq!(new.must("connection"), "close");
    assert_eq!(server.status()["state"], "draining");
    server.running.signal(Signal::SIGTERM);
    server.running.finish().expect_code(143);
}

#[test]
fn a_drain_finishes_what_runs_and_what_waits_and_closes_what_is_idle() {
    for by_admin in [false, true] {
        let server = Server::ready(script().with("--queue-wait 5m"));
        let mut idle = server.connect();
        idle.get("/livez").expect(200);
        let mut running = begin(&server, "/v1/blocks/1", &[], &Act::Spin(SECOND).input());
        await_busy(&server);
        let mut waiting = begin(&server, "/v1/blocks/2", &[], &good(2).0);
        wait_until("it waits", || (server.status()["queue"]["blocks"] == 1).then_some(()));
        if by_admin {
            server.admin("/admin/drain", b"").expect(202);
        } else {
            server.running.signal(Signal::SIGTERM);
        }
        assert!(idle.is_closed_within(PATIENCE));
        for client in [&mut running, &mut waiting] {
            let response = client.response().expect("an answer").expect(200);
            assert_eq!(response.must("connection"), "close");
        }
        let output = server.running.finish().expect_code(0);
        assert!(output.stderr.contains("drained"), "{output}");
        assert!(TcpStream::connect(server.address).is_err());
    }
}

#[test]
fn what_takes_longer_than_a_drain_may_is_cut_off_and_said() {
    let server = Server::ready(script().with("--drain-timeout 100ms"));
    let mut running = begin(&server, "/v1/blocks/1", &[], &Act::Spin(0).input());
    await_busy(&server);
    server.running.signal(Signal::SIGTERM);
    let output = server.running.finish().expect_code(1);
    assert!(output.stderr.contains("1 requests were cut off"), "{output}");
    // If there is time to answer at all, that is the answer.
    if let Ok(response) = running.response() {
        response.problem(503, "urn:cofferdam:problem:draining");
    }
}

#[test]
fn no_worker_left_is_an_end_with_69() {
    let server = Server::ready(script());
    // One more death than are borne in a minute.
    while let Ok(stream) = TcpStream::connect(server.address) {
        drop(stream);
        for pid in server.running.workers() {
            let _ = send(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = server.running.finish().expect_code(69);
    assert!(output.reason().contains("no healthy worker"), "{output}");
}

#[test]
fn a_port_in_use_a_bad_module_and_too_little_memory_end_it_with_a_sentence() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("it is bound");
    let output = script().with(&format!("--listen {taken}")).output().expect_code(2);
    assert!(output.reason().contains(&format!("{taken} cannot be listened on")), "{output}");
    for option in ["--admin", "--agent"] {
        let output =
            script().with(&format!("--listen {} {option} {taken}", address())).output().expect_code(2);
        assert!(output.reason().contains("cannot be listened on"), "{output}");
    }
    drop(listener);

    let output =
        Cofferdam::new(["serve"]).with(&format!("--listen {} --memory 4GiB --workers 5000", address()));
    let output = output.output().expect_code(137);
    assert!(output.reason().contains("5000 workers need"), "{output}");

    let files = Files::new();
    let module = files.add("bad.wasm", b"no module");
    let output = serve(&module).with(&format!("--listen {}", address())).output();
    assert_ne!(output.code(), 0, "{output}");
    assert!(!output.reason().is_empty());
    let output = serve(&files.at("absent.wasm")).with(&format!("--listen {}", address())).output();
    assert!(output.reason().contains("absent.wasm"), "{output}");
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_worker() {
    let server = Server::ready(script().with("--workers 2"));
    server.running.signal(Signal::SIGKILL);
    let output = server.running.finish();
    assert_eq!(output.signal(), Some(9));
}

#[test]
fn the_status_page_needs_nothing_from_elsewhere() {
    let server = Server::ready(script());
    let page = server.get("/").expect(200);
    assert_eq!(page.must("content-type"), "text/html; charset=utf-8");
    assert!(page.must("content-security-policy").starts_with("default-src 'none'"));
    let text = page.text();
    assert!(text.contains("<!doctype html>") || text.contains("<!DOCTYPE html>"));
    assert!(!text.contains("src=\"http") && !text.contains("@import"), "it loads something");
    server.end();
}
