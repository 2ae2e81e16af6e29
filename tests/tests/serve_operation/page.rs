//! The status page and the figures that it shows.

use super::*;

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
