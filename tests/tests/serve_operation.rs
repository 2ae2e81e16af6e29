//! `cofferdam serve` as its operators meet it: probes, metrics, events, logs, its start, its drain, and its ends.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{Cofferdam, Files, PATIENCE, guest, number, send, text, wait_until};
use cofferdam_tests::support::guests::Act;
use cofferdam_tests::support::serve::{
    Client, SECOND, Server, address, await_busy, begin, good, script, serve,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Checks the headers of an answer that a guest gave at the first attempt.
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
    // Of resets that follow one another fast, the last is what is seen.
    let resets = wait_until("resets are counted", || {
        Some(server.metrics().get("cofferdam_reset_seconds_count")).filter(|count| *count > 0.0)
    });
    assert!(resets <= 23.0 && server.metrics().get("cofferdam_reset_written_bytes_total") > 0.0);
    // What Prometheus asks for.
    let mut client = server.connect();
    client
        .send(b"GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: application/openmetrics-text\r\n\r\n")
        .expect("sent");
    let response = client.response().expect("an answer").expect(200);
    assert!(response.must("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(response.text().ends_with("\n# EOF\n"), "{}", response.text());

    send(server.running.workers()[0], Signal::SIGKILL).expect("it is there");
    wait_until("the death is counted and made good", || {
        let metrics = server.metrics();
        let dead = metrics.get("cofferdam_deaths_total{verdict=\"killed\"}");
        (dead == 1.0 && metrics.get("cofferdam_workers{state=\"idle\"}") == 3.0).then_some(())
    });
    server.end();
}

/// A server whose worker was stopped in the middle of its commit, and before which requests wait for so long.
fn stopped_in_its_commit(agent: SocketAddr, queue_wait: &str) -> (Server, u32) {
    for _ in 0..10 {
        let command = Cofferdam::new(["serve"]).arg(guest("script.wat")).with("--memory 1GiB --spares 0");
        let command = command.with("--drain-delay 0s --huge-pages off");
        let command = command.with(&format!("--agent {agent} --queue-wait {queue_wait}"));
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
    let (server, worker) = stopped_in_its_commit(agent, "200ms");
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
    let response = server.post("/v1/blocks/1", &["Cofferdam-Deadline-Ms: 50"], &good(1).0);
    response.problem(504, "urn:cofferdam:problem:client-deadline");
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
fn requests_wait_for_the_commit_as_for_a_worker() {
    let (server, worker) = stopped_in_its_commit(address(), "5m");
    let mut waiting = [
        begin(&server, "/v1/blocks/1", &[], &good(1).0),
        begin(&server, "/v1/views/echo", &["Idempotency-Key: k"], b"x"),
    ];
    await_waiting(&server, 1, 1);
    // Probes do not.
    assert!(server.get("/readyz?verbose").expect(503).text().contains("[-]phase starting: "));
    send(worker, Signal::SIGCONT).expect("it is there");
    for client in &mut waiting {
        client.response().expect("an answer").expect(200);
    }
    server.end();
}

fn await_waiting(server: &Server, blocks: u64, views: u64) {
    let here = json!([blocks, views]);
    wait_until("requests wait", || {
        let queue = &server.status()["queue"];
        (json!([queue["blocks"], queue["views"]]) == here).then_some(())
    });
}

#[test]
fn a_server_that_is_asked_to_end_while_it_commits_ends_and_leaves_nothing() {
    let (server, worker) = stopped_in_its_commit(address(), "5m");
    let mut waiting = begin(&server, "/v1/blocks/1", &[], &good(1).0);
    await_waiting(&server, 1, 0);
    server.running.signal(Signal::SIGTERM);
    let response = waiting.response().expect("an answer");
    assert_eq!(response.must("connection"), "close");
    response.problem(503, "urn:cofferdam:problem:draining");
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
        await_waiting(&server, 1, 0);
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
    assert!(output.reason().contains(&format!("cannot listen on {taken}")), "{output}");
    for option in ["--admin", "--agent"] {
        let output =
            script().with(&format!("--listen {} {option} {taken}", address())).output().expect_code(2);
        assert!(output.reason().contains("cannot listen on"), "{output}");
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

#[test]
fn the_latencies_are_the_jobs_own_times() {
    let server = Server::ready(script());
    let block = Act::Spin(SECOND / 5).input();
    let response = server.post("/v1/blocks/1", &[], &block);
    let timing = response.must("server-timing").to_owned();
    let millis: f64 =
        timing.split(", ").filter_map(|one| one.split_once("dur=")?.1.parse::<f64>().ok()).sum();
    assert!(millis > 10.0, "{timing}");
    let latency = wait_until("the second is over", || {
        Some(server.status()["latency_us"].clone()).filter(|latency| !latency.is_null())
    });
    // To two digits.
    for name in ["p50", "p99", "max"] {
        let shown = latency[name].as_f64().expect("a number") / 1e3;
        assert!((shown / millis - 1.0).abs() < 0.02, "{name}: {latency}, and {timing}");
    }
    server.end();
}

#[test]
fn metrics_are_what_prometheus_takes() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let server = Server::ready(script());
    server.post("/v1/blocks/1", &[], &good(1).0).expect(200);
    let response = server.get("/metrics").expect(200);
    assert_eq!(response.must("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text();
    assert!(!text.contains("# UNIT") && !text.contains("# EOF") && text.ends_with('\n'), "{text}");
    for declared in ["# TYPE cofferdam_requests_total counter", "# TYPE cofferdam_build_info gauge"] {
        assert!(text.contains(declared), "{declared}: {text}");
    }
    server.end();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        skip("there is no promtool (Debian's package prometheus)");
        return;
    };
    promtool.stdin.take().expect("it is a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_body_that_is_compressed_is_not_taken_for_what_it_is_not() {
    let server = Server::ready(script());
    let (block, ..) = good(1);
    for (path, coding) in [("/v1/blocks/1", "gzip"), ("/v1/views/x", "br"), ("/v1/blocks/1", "zstd, gzip")] {
        let response = server.post(path, &[&format!("Content-Encoding: {coding}")], &block);
        assert_eq!(response.header("accept-encoding"), Some("identity"));
        let problem = response.problem(415, "urn:cofferdam:problem:encoded");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(coding)), "{problem}");
    }
    server.post("/v1/blocks/1", &["Content-Encoding: identity"], &block).expect(200);
    let swap = Client::connect(server.admin).post("/admin/swap", &["Content-Encoding: gzip"], b"x");
    swap.problem(415, "urn:cofferdam:problem:encoded");
    server.end();
}
