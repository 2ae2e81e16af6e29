//! Answers, verdicts, deadlines and problems.

use super::*;

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
    let first = await_busy(&server);
    send(first, Signal::SIGKILL).expect("it is there");
    let second = wait_until("another has it", || Some(await_busy(&server)).filter(|pid| *pid != first));
    send(second, Signal::SIGKILL).expect("it is there");
    let response = client.response().expect("an answer");
    assert_eq!((response.must("cofferdam-verdict"), response.must("cofferdam-attempts")), ("killed", "2"));
    assert_eq!(response.header("cofferdam-digest"), None, "nothing is known of the block");
    // It has ended two workers: for ten minutes it is not run again here.
    let seconds: u64 = response.must("retry-after").parse().expect("seconds");
    assert!((500..=600).contains(&seconds), "{seconds}");
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
