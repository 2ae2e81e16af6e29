//! Bytes that are not HTTP, wrong lengths, and clients that hang up.

use super::*;

#[test]
fn what_is_no_http_is_never_taken_for_a_block() {
    const MADE_UP: u64 = 2000;
    // Among what is made up are blocks that tell the guest to go round for ever: fuel ends them, and soon.
    let besieged = Besieged::new(script().with("--fuel 1000000"));
    let requests = |besieged: &Besieged| {
        besieged.server.metrics().get("cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}")
    };
    let head = "POST /v1/views/echo HTTP/1.1\r\nHost: test\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    // What two servers in a row could read in two ways: never accepted with a second request hidden in the first.
    let smuggled = "GET /livez HTTP/1.1\r\nHost: test\r\n\r\n";
    let cases = [
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        format!("{head}Content-Length: 5, 6\r\n\r\nhello"),
        format!("{head}Content-Length: +5\r\n\r\nhello"),
        format!("{head}Content-Length: -5\r\n\r\nhello"),
        format!("{head}Content-Length: 0x5\r\n\r\nhello"),
        format!("{head}Content-Length: 99999999999999999999999\r\n\r\nhello"),
        format!("{head}Content-Length: 18446744073709551615\r\n\r\nhello"),
        format!("{head}Content-Length : 5\r\n\r\nhello"),
        format!("{head} Content-Length: 5\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: gzip\r\n\r\nhello"),
        format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{head}X: a\0b\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{chunked}5\r\nhelloX\r\n0\r\n\r\n"),
        format!("{chunked}hello\r\n0\r\n\r\n"),
        format!("{chunked}-5\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}5\nhello\n0\n\n"),
        format!("{chunked}5\r\nhel"),
        format!("{chunked}5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("{chunked}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        "POST /v1/views/echo HTTP/9.9\r\n\r\n".to_owned(),
        "POST v1/views/echo HTTP/1.1\r\n\r\n".to_owned(),
        "\r\n\r\n\r\n\r\n".to_owned(),
        "\0".repeat(1000),
    ];
    let before = requests(&besieged);
    for case in &cases {
        assert_no_success(&say(&besieged.server, case.as_bytes()));
        assert_eq!(requests(&besieged), before, "{case:.200}");
    }
    // Both lengths: a proxy must not, and a server that takes it must go by the chunks and close (RFC 9112, 6.3).
    for both in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        let answer = say(&besieged.server, format!("{head}{both}\r\n\r\n0\r\n\r\n{smuggled}").as_bytes());
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("\r\n\r\nok\n"), "what came after it was answered: {text}");
        besieged.assert_serves();
    }
    let before = requests(&besieged);
    let mut random = Random::seeded();
    let block = Act::Return.input();
    let good = post("/v1/blocks/5", &["Accept: application/json"], &block);
    for _ in 0..MADE_UP {
        let bytes = made_up(&mut random, &good);
        // Whatever it is: an answer or none, but no harm.
        say(&besieged.server, &bytes);
    }
    assert_eq!(requests(&besieged), before, "no view was asked for");
    besieged.end();
}

/// Random bytes, or a request that was cut, or one with some bytes changed.
fn made_up(random: &mut Random, good: &[u8]) -> Vec<u8> {
    let mut below = |end: usize| usize::try_from(random.below(end as u64)).expect("it was one");
    let byte = |below: &mut dyn FnMut(usize) -> usize| u8::try_from(below(256)).expect("a byte");
    match below(3) {
        0 => (0..below(300)).map(|_| byte(&mut below)).collect(),
        1 => good[..below(good.len())].to_vec(),
        _ => {
            let mut bytes = good.to_vec();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = byte(&mut below);
            }
            bytes
        }
    }
}

#[test]
fn a_body_that_is_longer_or_shorter_than_announced() {
    let besieged = Besieged::new(script());
    let head = "POST /v1/views/echo HTTP/1.1\r\nHost: test\r\nContent-Length: ";
    for _ in 0..50 {
        // The rest is the next request, and none.
        let answer = say(&besieged.server, format!("{head}5\r\n\r\nhello, world\r\n\r\n").as_bytes());
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (first, rest) = text.split_once("\r\n\r\nhello").unwrap_or_else(|| panic!("{text}"));
        assert!(
            first.starts_with("HTTP/1.1 200 ") && (rest.is_empty() || rest.starts_with("HTTP/1.1 400 ")),
            "{text}"
        );
        // No guest sees half of a body.
        assert_no_success(&say(&besieged.server, format!("{head}50\r\n\r\nhello").as_bytes()));
    }
    let completed = "cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}";
    assert_eq!(besieged.server.metrics().get(completed), 50.0);
    besieged.end();
}

#[test]
fn clients_that_read_nothing_of_a_large_answer_are_given_up() {
    let command = script().with("--memory 64MiB --buffered 128MiB --queue-wait 5m");
    let mut besieged = Besieged::new(command);
    // Each body and each answer once.
    besieged.slack_kib = 128 << 10;
    let body = vec![7; 16 << 20];
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = besieged.server.connect();
            client.send(&post("/v1/views/echo", &[], &body)).expect("sent");
            client
        })
        .collect();
    let held = || besieged.server.metrics().get("cofferdam_held_bytes");
    wait_until("all of them have been answered", || {
        let metrics = besieged.server.metrics();
        (metrics.get("cofferdam_requests_total{kind=\"view\",verdict=\"completed\"}") >= 4.0).then_some(())
    });
    for _ in 0..20 {
        besieged.assert_serves();
    }
    assert!(held() > 0.0, "what they do not read is held, and counted");
    wait_until("what they do not read is held no longer", || (held() == 0.0).then_some(()));
    drop(clients);
    besieged.end();
}

#[test]
fn clients_that_hang_up_in_the_middle() {
    let besieged = Besieged::new(script().with("--memory 64MiB --workers 2 --queue-wait 5m"));
    let large = post("/v1/views/echo", &[], &vec![7; 4 << 20]);
    let spin = post("/v1/blocks/1", &["Idempotency-Key: k"], &Act::Spin(20_000_000).input());
    let events = b"GET /v1/events HTTP/1.1\r\nHost: test\r\n\r\n".to_vec();
    for turn in 0..20 {
        for request in [&large, &spin, &events] {
            let mut gone = besieged.server.connect();
            gone.send(&request[..request.len() / 2]).expect("sent");
            drop(gone);
            let mut gone = besieged.server.connect();
            gone.send(request).expect("sent");
            if turn % 2 == 0 {
                // Somewhere in the answer, rather than before it.
                let _ = gone.stream().read(&mut [0; 64]);
            }
        }
        besieged.assert_serves();
    }
    wait_until("nothing runs for them any more", || {
        (besieged.server.metrics().get("cofferdam_running") == 0.0).then_some(())
    });
    besieged.end();
}
