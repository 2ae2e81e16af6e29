//! Drains, the end of the process, and what is refused at the start.

use super::*;

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
