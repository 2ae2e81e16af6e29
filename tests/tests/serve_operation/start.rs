//! The time of the commit: probes and waiting requests.

use super::*;

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
