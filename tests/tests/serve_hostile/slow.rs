//! Clients that send slowly or send heads that are too large.

use super::*;

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
