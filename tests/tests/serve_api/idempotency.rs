//! Requests with an idempotency key.

use super::*;

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
