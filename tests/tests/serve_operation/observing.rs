//! Logs, variables and metrics.

use super::*;

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
