//! The limits of requests in bytes and in time, which requests are accepted, and which pages may send them.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::fake::{Fake, Reply, Running, start, start_with};
use crate::rpc::{Cors, RpcSettings};

#[tokio::test]
async fn a_call_ends_when_it_takes_too_long_or_its_client_disconnects() {
    let settings = RpcSettings { view_timeout: Duration::from_secs(1), ..RpcSettings::default() };
    let node = start(settings).await;
    let reply = node.call("metashrew_view", json!(["never"])).await;
    let (code, data) = reply.error("Request timed out after 1s");
    assert_eq!((code, data), (-32000, json!({ "reason": "deadline", "retryable": true })));
    node.fake.begun.notified().await;
    node.fake.dropped.notified().await;

    let node = start(RpcSettings::default()).await;
    let body = r#"{"id":1,"method":"metashrew_view","params":["never"]}"#;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ";
    let mut stream = node.connect().await;
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    node.fake.begun.notified().await;
    drop(stream);
    node.fake.dropped.notified().await;
}

#[tokio::test]
async fn every_limit_holds() {
    let settings =
        RpcSettings { request_bytes: 5000, response_bytes: 1500, batch_entries: 4, ..RpcSettings::default() };
    let node = start(settings).await;
    let reply = node.post(&format!("[{}1]", "1,".repeat(4))).await;
    let (code, data) = reply.error("the batch has 5 calls, above the limit of 4");
    assert_eq!((reply.status, code, &data["reason"]), (200, -32005, &json!("batch-too-long")));

    for length in ["Content-Length: 5001\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1389\r\n"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{length}");
        let reply = node.send(&[head.as_bytes(), &[b' '; 5001]].concat()).await;
        let (code, data) = reply.error("the body is larger than the limit");
        assert_eq!((reply.status, code, &data["reason"]), (413, -32005, &json!("too-large")));
        assert_eq!(reply.header("connection"), Some("close"));
    }
    let reply = node.call("metashrew_view", json!(["large"])).await;
    let (code, data) = reply.error("the response would have 2002 bytes, above the limit of 1500");
    assert_eq!(
        (reply.json()["id"].clone(), code, &data["reason"]),
        (json!(1), -32005, &json!("response-too-large"))
    );
    let echo = json!({ "id": 1, "method": "metashrew_view", "params": ["echo", "00".repeat(400)] });
    assert_eq!(node.post(&json!([echo]).to_string()).await.json()[0]["id"], 1);
    let reply = node.post(&json!([echo, echo]).to_string()).await;
    assert_eq!(reply.error("the response would have").0, -32005);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let settings = RpcSettings { body_timeout: Duration::from_millis(200), ..RpcSettings::default() };
    let node = start(settings).await;
    let slow = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    let reply = node.send(slow.as_bytes()).await;
    assert_eq!((reply.status, reply.error("did not arrive").0), (408, -32600));
}

#[tokio::test]
async fn held_requests_leave_no_room_for_others() {
    let body_timeout = Duration::from_secs(1);
    let node = start(RpcSettings { buffered_bytes: 4096, body_timeout, ..RpcSettings::default() }).await;
    let body = r#"{"id":1,"method":"metashrew_view","params":["never"]}"#;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ";
    let mut stream = node.connect().await;
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    node.fake.begun.notified().await;
    let reply = node.call("metashrew_height", json!([])).await;
    let (code, data) = reply.error("memory for request and response bodies is in use");
    assert_eq!((reply.status, code, &data["reason"]), (503, -32001, &json!("no-room")));
    assert_eq!(reply.header("retry-after"), Some("1"));
    drop(stream);
    node.fake.dropped.notified().await;
    assert_eq!(node.result("metashrew_height", json!([])).await, json!("840000"));
}

#[tokio::test]
async fn a_large_result_is_sent_whole() {
    let node = start(RpcSettings::default()).await;
    let result = node.result("metashrew_view", json!(["huge"])).await;
    assert_eq!(result.as_str().unwrap().len(), 2 + (4 << 20));
}

#[tokio::test]
async fn only_json_is_accepted() {
    let node = start(RpcSettings::default()).await;
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"metashrew_height"}"#;
    for good in [
        "application/json",
        "Application/JSON; charset=UTF8",
        "application/json-rpc",
        "text/json",
        "a/b+json",
    ] {
        let reply = node.curl(&format!("Content-Type: {good}\r\n"), body).await;
        assert_eq!(reply.status, 200, "{good}");
    }
    // Content types that a page of any origin can send without a preflight request. `curl -d` sends the first one.
    let wrong = ["Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n", ""];
    for header in wrong.into_iter().chain(["Content-Type: json\r\n"]) {
        let reply = node.curl(header, body).await;
        let (code, _) = reply.error("-H 'content-type: application/json'");
        assert_eq!((reply.status, code), (415, -32600), "{header}");
    }
    let zipped = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let reply = node.curl(zipped, body).await;
    assert_eq!((reply.status, reply.error("must not be compressed").0), (415, -32600));
}

async fn preflight(node: &Running, origin: &str) -> Reply {
    let request = format!(
        "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
         Access-Control-Request-Headers: content-type\r\n\r\n"
    );
    node.send(request.as_bytes()).await
}

#[tokio::test]
async fn browsers_are_told_which_pages_may_call() {
    const ALLOWED: &str = "access-control-allow-origin";
    let call = |origin: &str| format!("Content-Type: application/json\r\nOrigin: {origin}\r\n");
    let body = r#"{"id":1,"method":"metashrew_height"}"#;

    let node = start(RpcSettings { cors: Cors::Any, ..RpcSettings::default() }).await;
    let reply = preflight(&node, "https://a.org").await;
    assert_eq!((reply.status, reply.header(ALLOWED)), (200, Some("*")));
    assert_eq!(reply.header("access-control-allow-methods"), Some("post"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("*"));
    assert_eq!(node.curl(&call("https://a.org"), body).await.header(ALLOWED), Some("*"));

    let cors = "https://a.org,http://localhost:3000".parse().unwrap();
    let node = start(RpcSettings { cors, ..RpcSettings::default() }).await;
    for (origin, allowed) in
        [("https://a.org", true), ("http://localhost:3000", true), ("http://a.org", false), ("null", false)]
    {
        let allowed = allowed.then_some(origin);
        assert_eq!(preflight(&node, origin).await.header(ALLOWED), allowed);
        assert_eq!(node.curl(&call(origin), body).await.header(ALLOWED), allowed);
    }
    // Pages can read HTTP errors, too.
    let reply = node.curl("Content-Type: a/b\r\nOrigin: https://a.org\r\n", body).await;
    assert_eq!((reply.status, reply.header(ALLOWED)), (415, Some("https://a.org")));

    let node = start(RpcSettings::default()).await;
    let reply = preflight(&node, "https://a.org").await;
    assert_eq!((reply.status, reply.header(ALLOWED)), (405, None));
    assert_eq!(node.curl(&call("https://a.org"), body).await.header(ALLOWED), None);
}

#[tokio::test]
async fn the_server_shares_its_path_with_a_page() {
    let page = || {
        Router::new()
            .route("/", get(|| async { "the page" }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "nothing here") })
            .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, "not like this") })
    };
    let settings = || RpcSettings { cors: Cors::Any, ..RpcSettings::default() };
    for calls_first in [true, false] {
        let app = |calls: Router| if calls_first { calls.merge(page()) } else { page().merge(calls) };
        let node = start_with(Fake::new(1), settings(), app).await;
        assert_eq!(node.result("metashrew_height", json!([])).await, json!("840000"));
        assert_eq!(node.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.body, "the page");
        assert_eq!(node.send(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n").await.body, "not like this");
        assert_eq!(node.send(b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n").await.body, "nothing here");
        assert_eq!(preflight(&node, "https://a.org").await.header("access-control-allow-origin"), Some("*"));
    }
}
