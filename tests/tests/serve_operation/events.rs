//! Server-sent events.

use super::*;

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
