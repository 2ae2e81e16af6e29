//! Requests that end the workers that run them, and requests that share an `Idempotency-Key`, as clients of `serve` see them.

use std::thread;

use cofferdam_tests::support::command::wait_until;
use cofferdam_tests::support::guests::Act;
use cofferdam_tests::support::serve::{Client, Response, Server, good, requests, script};
use nix::sys::signal::Signal;

fn spins() -> Vec<u8> {
    Act::Spin(0).input()
}

fn retry_after(response: &Response) -> u64 {
    response.must("retry-after").parse().expect("seconds")
}

#[test]
fn a_request_that_ends_its_workers_is_answered_from_memory_until_it_is_lifted() {
    let server = Server::ready(script().with("--deadline 300ms --retries 1 --quarantine 1h"));
    let post = |height: u32| server.post(&format!("/v1/blocks/{height}"), &[], &spins());
    let first = post(7);
    assert_eq!(first.status, 504);
    let body = first.json();
    assert_eq!((&body["verdict"], &body["attempts"]), (&"deadline".into(), &2.into()), "{body}");
    assert_eq!(body["quarantine"]["from_memory"], false);
    assert!((3000..=3600).contains(&retry_after(&first)));
    let deaths = server.status()["totals"]["deaths"].clone();
    for _ in 0..3 {
        let again = post(7);
        assert!((3000..=3600).contains(&retry_after(&again)));
        let body = again.problem(503, "urn:cofferdam:problem:quarantined");
        assert_eq!(body["attempts"], 0, "{body}");
        assert_eq!(body["lost"].as_array().map(Vec::len), Some(2), "{body}");
        let detail = body["detail"].as_str().expect("a sentence");
        assert!(
            detail.contains("in quarantine since 2") && detail.contains("no answer within 300ms"),
            "{detail}"
        );
    }
    let status = server.status();
    assert_eq!(status["totals"]["deaths"], deaths, "none of these cost a worker");
    assert_eq!(
        (&status["totals"]["quarantined"], &status["recent"][0]["verdict"]),
        (&3.into(), &"quarantined".into())
    );
    let entry = &status["quarantine"][0];
    assert_eq!(
        (&entry["height"], &entry["deaths"], &entry["answered"]),
        (&7.into(), &2.into(), &3.into()),
        "{entry}"
    );
    assert_eq!(requests(&server, "block", "quarantined"), 3.0);
    assert_eq!(server.metrics().get("cofferdam_quarantine"), 1.0);
    // Another height is another request, and others are answered as ever.
    server.await_ready();
    server.post("/v1/blocks/7", &[], &good(7).0).expect(200);
    let mut admin = Client::connect(server.admin);
    let listed = admin.get("/admin/quarantine").expect(200).json();
    assert_eq!(listed["quarantine"][0]["id"], entry["id"]);
    server.admin("/admin/quarantine/lift/1", b"").problem(404, "urn:cofferdam:problem:not-found");
    let id = entry["id"].as_str().expect("an id");
    let lifted = server.admin(&format!("/admin/quarantine/lift/{id}"), b"").expect(200).json();
    assert_eq!(lifted["lifted"], 1);
    assert_eq!(post(7).status, 504, "it is run again");
    assert_eq!(server.admin("/admin/quarantine/lift", b"").expect(200).json()["lifted"], 1);
    assert_eq!(server.metrics().get("cofferdam_quarantine"), 0.0);
    server.end();
}

#[test]
fn requests_with_one_key_wait_each_for_as_long_as_they_allow() {
    let server = Server::ready(script());
    let worker = server.running.workers()[0];
    let block = good(1).0;
    let stopped = |signal: Signal| {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(worker).expect("a process id"));
        nix::sys::signal::kill(pid, signal).expect("the worker is there");
    };
    // It takes the block, and does not answer before it is let go on.
    stopped(Signal::SIGSTOP);
    let (address, block) = (server.address, &block);
    let post = move |headers: &[&str]| Client::connect(address).post("/v1/blocks/1", headers, block);
    thread::scope(|scope| {
        let short = scope.spawn(move || post(&["Idempotency-Key: one", "Cofferdam-Deadline-Ms: 2000"]));
        wait_until("the first one runs", || (server.status()["queue"]["running"] == 1).then_some(()));
        let long = scope.spawn(move || post(&["Idempotency-Key: one", "Cofferdam-Deadline-Ms: 60000"]));
        let none = scope.spawn(move || post(&["Idempotency-Key: one"]));
        let short = short.join().expect("an answer");
        short.problem(504, "urn:cofferdam:problem:client-deadline");
        assert!(!long.is_finished() && !none.is_finished(), "they have time");
        stopped(Signal::SIGCONT);
        for later in [long, none] {
            later.join().expect("an answer").expect(200);
        }
    });
    assert_eq!(requests(&server, "block", "completed"), 1.0, "it was run once");
    server.end();
}
