//! The server over a real connection: every method and every error. The tests of limits and headers are in `http`.

mod fake;
mod http;

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::RpcSettings;
use fake::{Fake, TIP, read_reply, start, start_with};

/// The hash of the newest block, as text.
fn tip_hash() -> String {
    format!("{TIP:08x}{}", "ab".repeat(28))
}

#[tokio::test]
async fn documented_curl_calls_of_the_replaced_node_are_answered_as_there() {
    let node = start(RpcSettings::default()).await;
    let json = "Content-Type: application/json\r\n";
    // The call as in that node's README, over two lines, and as in its pages.
    let view = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"metashrew_view\",\n       \"params\":[\"echo\",\"0x1a2b3c4d\",\"latest\"]}";
    let reply = node.curl(json, view).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json(), json!({ "jsonrpc": "2.0", "id": 1, "result": "0x1a2b3c4d" }));
    let height = r#"{"jsonrpc":"2.0","id":1,"method":"metashrew_height","params":[]}"#;
    let reply = node.curl(json, height).await;
    assert_eq!(reply.body, r#"{"jsonrpc":"2.0","result":"840000","id":1}"#);
    // The same over HTTP/1.0, and with the headers of a browser.
    let old = format!("POST / HTTP/1.0\r\n{json}Content-Length: {}\r\n\r\n{height}", height.len());
    assert_eq!(node.send(old.as_bytes()).await.json()["result"], "840000");
    let browser = "Content-Type: application/json;charset=UTF-8\r\nOrigin: http://localhost:3000\r\n";
    assert_eq!(node.curl(browser, height).await.json()["result"], "840000");
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{json}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{height}\r\n0\r\n\r\n",
        height.len()
    );
    assert_eq!(node.send(chunked.as_bytes()).await.json()["result"], "840000");
}

#[tokio::test]
async fn a_block_of_several_megabytes_is_previewed_after_100_continue() {
    const BLOCK_BYTES: usize = 4_000_000;
    let node = start(RpcSettings::default()).await;
    let params = json!([format!("0x{}", "5a".repeat(BLOCK_BYTES)), "length", "", "latest"]);
    let body =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "metashrew_preview", "params": params }).to_string();
    let mut stream = node.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream).await.status, 100);
    stream.write_all(body.as_bytes()).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.json()["result"], format!("0x{BLOCK_BYTES:016x}"));
}

#[tokio::test]
async fn every_method_answers() {
    let node = start(RpcSettings::default()).await;
    let height = format!("0x{TIP:08x}");
    for at in [json!([]), json!(["latest"]), json!([TIP]), json!([TIP.to_string()]), json!([null])] {
        let root = format!("{height}{}", "11".repeat(28));
        assert_eq!(node.result("metashrew_stateroot", at.clone()).await, json!(root), "{at}");
        let digest = node.result("cofferdam_digest", at.clone()).await;
        let expected = json!({ "height": TIP, "block": tip_hash(), "digest": "22".repeat(32) });
        assert_eq!(digest, expected, "{at}");
    }
    for at in [json!(["latest"]), json!([TIP]), json!([TIP.to_string()])] {
        let hash = node.result("metashrew_getblockhash", at).await;
        assert_eq!(hash, json!(format!("0x{}", tip_hash())));
    }
    let view = |params| node.result("metashrew_view", params);
    assert_eq!(view(json!(["echo"])).await, json!("0x"));
    assert_eq!(view(json!(["echo", null, null])).await, json!("0x"));
    assert_eq!(view(json!(["echo", "AbCd", 700_000, "more"])).await, json!("0xabcd"));
    assert_eq!(view(json!(["height", "0x", "700000:00ab"])).await, json!("0x000aae60"));
    assert_eq!(view(json!({ "view_name": "height", "height": 700_000 })).await, json!("0x000aae60"));
    let preview = json!(["0x0102", "both", "0x03", 700_000]);
    assert_eq!(node.result("metashrew_preview", preview).await, json!("0x010203000aae60"));
    let figures = node.result("metashrew_snapshot", Value::Null).await;
    let figures: Value = serde_json::from_str(figures.as_str().unwrap()).unwrap();
    assert_eq!(figures["indexed_height"], TIP);
    assert_eq!(figures["current_height"], TIP + 1);
    assert_eq!(figures["enabled"], true);
    assert_eq!(figures.as_object().unwrap().len(), 11);
    let proof = node.result("cofferdam_proof", json!(["0xff", TIP])).await;
    assert_eq!(proof, json!({ "key": "ff", "height": TIP }));
    let info = node.result("cofferdam_info", json!([])).await;
    let profile = fake::profile();
    assert_eq!(info["profile"], profile.hash().to_string());
    assert_eq!(info["module"], "44".repeat(32));
    assert_eq!((&info["memory_bytes"], &info["fuel"]), (&json!(1u64 << 32), &Value::Null));
    assert_eq!((&info["output_bytes"], &info["engine"]), (&json!(1 << 27), &json!("an engine")));
    assert_eq!(info["tip"], json!({ "height": TIP, "block": tip_hash() }));
    assert_eq!(info["lag"], 2);
    assert_eq!(info["network"], "regtest");
}

#[tokio::test]
async fn params_may_be_missing_or_null() {
    let node = start(RpcSettings::default()).await;
    for params in ["", r#","params":null"#, r#","params":{}"#, r#","params":[]"#] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"metashrew_stateroot"{params}}}"#);
        assert!(node.post(&body).await.json()["result"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn a_node_without_blocks_says_so() {
    let node = start_with(Fake { empty: true, ..Fake::new(1) }, RpcSettings::default(), |calls| calls).await;
    assert_eq!(node.result("metashrew_height", json!([])).await, json!("0"));
    let info = node.result("cofferdam_info", json!([])).await;
    assert_eq!(info["tip"], Value::Null);
    assert_eq!(info["lag"], TIP + 3 - fake::START);
    let reply = node.call("metashrew_stateroot", json!([])).await;
    let (code, data) = reply.error("Storage error: State root not found: no block is indexed yet");
    assert_eq!((code, &data["reason"]), (-32003, &json!("nothing-indexed")));
}

#[tokio::test]
async fn ids_are_sent_back_unchanged() {
    let node = start(RpcSettings::default()).await;
    for id in ["0", "-7", "1.50", "1e400", "123456789012345678901234567890", r#""""#, r#""a\u0062""#, "null"]
    {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"metashrew_height"}}"#);
        let reply = node.post(&body).await;
        assert_eq!(reply.body, format!(r#"{{"jsonrpc":"2.0","result":"840000","id":{id}}}"#));
    }
    let long = format!(r#"{{"id":"{}","method":"metashrew_height"}}"#, "x".repeat(2000));
    assert_eq!(node.post(&long).await.error("longer than 1024 bytes").0, -32600);
    // Older clients name no version, or another one.
    for version in ["", r#""jsonrpc":"1.0","#] {
        let reply = node.post(&format!(r#"{{{version}"method":"metashrew_height"}}"#)).await;
        assert_eq!(reply.body, r#"{"jsonrpc":"2.0","result":"840000","id":null}"#);
    }
}

#[tokio::test]
async fn notifications_are_neither_answered_nor_run() {
    let node = start(RpcSettings::default()).await;
    let one = r#"{"jsonrpc":"2.0","method":"metashrew_view","params":["echo"]}"#;
    for body in [one.to_owned(), format!("[{one},{one}]"), r#"{"jsonrpc":"2.0","method":"x"}"#.to_owned()] {
        let reply = node.post(&body).await;
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{body}");
    }
    let mixed = format!(r#"[{one},{{"jsonrpc":"2.0","id":1,"method":"metashrew_height"}}]"#);
    assert_eq!(node.post(&mixed).await.json(), json!([{ "jsonrpc": "2.0", "id": 1, "result": "840000" }]));
    assert_eq!(node.fake.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_batch_is_answered_in_its_order() {
    let node = start(RpcSettings::default()).await;
    let body = r#" [
        {"jsonrpc":"2.0","id":"a","method":"metashrew_view","params":["echo","0x01"]},
        {"jsonrpc":"2.0","method":"metashrew_height"},
        1,
        [],
        {"jsonrpc":"2.0","id":2,"method":"foo"},
        {"jsonrpc":"2.0","id":3,"method":"metashrew_height"}
    ]"#;
    let answers = node.post(body).await.json();
    let answers = answers.as_array().unwrap();
    let ids: Vec<_> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!("a"), &Value::Null, &Value::Null, &json!(2), &json!(3)]);
    let codes: Vec<_> = answers.iter().filter_map(|answer| answer["error"]["code"].as_i64()).collect();
    assert_eq!(codes, [-32600, -32600, -32601]);
    assert_eq!(answers[0]["result"], "0x01");
    assert_eq!(answers[4]["result"], "840000");
}

#[tokio::test]
async fn as_many_calls_of_a_batch_run_at_a_time_as_allowed_and_no_more() {
    const AT_A_TIME: usize = 3;
    let settings = RpcSettings { batch_concurrency: AT_A_TIME, ..RpcSettings::default() };
    // The calls wait for each other: if fewer ran at a time, none would be answered.
    let node = start_with(Fake::new(AT_A_TIME), settings, |calls| calls).await;
    let call = |id: usize| json!({ "id": id, "method": "metashrew_view", "params": ["meet", "0x01"] });
    let batch: Vec<_> = (0..4 * AT_A_TIME).map(call).collect();
    let answers = node.post(&json!(batch).to_string()).await.json();
    for (id, answer) in answers.as_array().unwrap().iter().enumerate() {
        assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &json!("0x01")));
    }
    assert_eq!(answers.as_array().unwrap().len(), 4 * AT_A_TIME);
    assert_eq!(node.fake.most_running.load(Ordering::SeqCst), AT_A_TIME);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_a_parse_error() {
    let node = start(RpcSettings::default()).await;
    for body in ["", " ", "{", "[", "[1,", "nul", "{\"id\":1}x", "[1]2", "{'id':1}", "\u{feff}{}", "[1,]"] {
        let reply = node.post(body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.error("Parse error").0, -32700, "{body}");
        assert_eq!(reply.json()["id"], Value::Null);
    }
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n";
    let no_text = [head.as_bytes(), b"{\"id\":\"\xff\"}"].concat();
    assert_eq!(node.send(&no_text).await.error("Parse error").0, -32700);
    // Deep nesting must not overflow the stack.
    let deep = "[".repeat(1 << 20);
    assert_eq!(node.post(&deep).await.error("Parse error").0, -32700);
    let deep = format!(
        r#"{{"id":1,"method":"metashrew_view","params":[{}{}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(node.post(&deep).await.error("view_name").0, -32602);
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let node = start(RpcSettings::default()).await;
    for body in ["1", "null", "\"x\"", "{}", "[]", r#"{"jsonrpc":"2.0","method":1,"params":"bar"}"#] {
        let reply = node.post(body).await;
        assert_eq!(reply.status, 200, "{body}");
        assert_eq!(reply.error("Invalid Request").0, -32600, "{body}");
    }
    let reply = node.call("metashrew_query", json!(["0x00"])).await;
    assert_eq!(reply.error("Method not found: metashrew_query").0, -32601);
    let reply = node.call(&"x".repeat(100_000), json!([])).await;
    assert!(reply.body.len() < 300, "a long name is not repeated whole");
}

#[tokio::test]
async fn wrong_parameters_are_named() {
    let node = start(RpcSettings::default()).await;
    for (method, params, part) in [
        ("metashrew_view", json!([]), "view_name (parameter 1): it is missing"),
        ("metashrew_view", json!([""]), "view_name (parameter 1): it is missing"),
        ("metashrew_view", json!([7]), "view_name (parameter 1): it must be a string"),
        ("metashrew_view", json!(["x".repeat(1025)]), "longer than 1024 bytes"),
        (
            "metashrew_view",
            json!(["echo", "0xabc"]),
            "input_data (parameter 2): Invalid hex input: Odd number",
        ),
        ("metashrew_view", json!(["echo", "0xhexInput"]), "Invalid hex input: Invalid character 'h'"),
        ("metashrew_view", json!(["echo", {}]), "input_data (parameter 2): it must be a string"),
        ("metashrew_view", json!(["echo", "", "newest"]), "height (parameter 3): Invalid height"),
        ("metashrew_view", json!(["echo", "", -1]), "Invalid height"),
        ("metashrew_view", json!(["echo", "", 4_294_967_296_u64]), "Invalid height"),
        ("metashrew_view", json!(["echo", "", true]), "Invalid height"),
        ("metashrew_view", json!({ "name": "echo" }), "\"name\" is unknown: the parameters are view_name"),
        ("metashrew_view", json!("echo"), "params must be an array or an object"),
        ("metashrew_preview", json!([]), "block_data (parameter 1): it is missing"),
        ("metashrew_preview", json!(["0x00"]), "view_name (parameter 2): it is missing"),
        ("metashrew_preview", json!(["zz", "f"]), "block_data (parameter 1): Invalid hex input"),
        ("metashrew_getblockhash", json!([]), "height (parameter 1): it is missing"),
        ("metashrew_getblockhash", json!([{}]), "Invalid height"),
        ("cofferdam_proof", json!([]), "key (parameter 1): it is missing"),
        ("metashrew_view", json!(["too-large"]), "the input has 3 MiB, above the limit of 1 MiB"),
    ] {
        let reply = node.call(method, params).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.error(part).0, -32602);
        assert_eq!(reply.json()["id"], 1);
    }
}

#[tokio::test]
async fn errors_about_heights_name_the_indexed_heights() {
    let node = start(RpcSettings::default()).await;
    let above = TIP + 1;
    let data = json!({ "reason": "not-yet", "retryable": true, "height": above, "tip": TIP });
    for (method, params, part) in [
        ("metashrew_view", json!(["echo", "", above]), "height 840001 is not indexed yet"),
        ("metashrew_preview", json!(["00", "f", "", above]), "height 840001 is not indexed yet"),
        ("metashrew_getblockhash", json!([above]), "Storage error: Block hash not found for height 840001: "),
        ("metashrew_stateroot", json!([above]), "Storage error: State root not found for height 840001: "),
        ("cofferdam_digest", json!([above]), "the newest indexed height is 840000"),
    ] {
        assert_eq!(node.call(method, params).await.error(part), (-32003, data.clone()));
    }
    let data = json!({ "reason": "before-start", "retryable": false, "height": 99, "start": 100 });
    let reply = node.call("metashrew_getblockhash", json!([99])).await;
    assert_eq!(reply.error("this node starts at height 100"), (-32003, data));
    let data = json!({ "reason": "abandoned", "retryable": true, "height": TIP });
    let reply = node.call("metashrew_view", json!(["abandoned"])).await;
    assert_eq!(reply.error("abandoned by a reorganisation"), (-32003, data));
}

#[tokio::test]
async fn failures_of_the_guest_have_a_verdict() {
    let node = start(RpcSettings::default()).await;
    for (verdict, code) in [
        ("trap", -32000),
        ("abort", -32000),
        ("incomplete", -32000),
        ("bad-output", -32000),
        ("no-such-export", -32000),
        ("memory-exhausted", -32002),
        ("fuel-exhausted", -32002),
        ("output-too-large", -32002),
    ] {
        let reply = node.call("metashrew_view", json!([verdict])).await;
        let message = format!("View function error: View function failed: {verdict}: it said so");
        let data =
            json!({ "reason": "guest", "retryable": false, "verdict": verdict, "detail": "it said so" });
        assert_eq!(reply.error(&message), (code, data));
    }
    let reply = node.call("metashrew_preview", json!(["00", "trap"])).await;
    reply.error("View function error: Preview function failed: trap: in the block");
}

#[tokio::test]
async fn failures_of_the_node_are_distinguished() {
    let node = start(RpcSettings::default()).await;
    for (view, part, code, reason, retryable) in [
        ("killed", "oom-killed: twice", -32001, "host", true),
        ("stuck", "deadline: 1 s", -32000, "host", true),
        ("saturated", "view-runtime saturated, retry later", -32001, "saturated", true),
        ("starting", "committing", -32001, "not-ready", true),
    ] {
        let (given, data) = node.call("metashrew_view", json!([view])).await.error(part);
        assert_eq!(given, code, "{view}");
        assert_eq!((&data["reason"], &data["retryable"]), (&json!(reason), &json!(retryable)), "{view}");
    }
    let reply = node.call("metashrew_view", json!(["broken"])).await;
    assert_eq!(reply.error("Internal error: the store is gone"), (-32603, Value::Null));
    let off = "metashrew_preview is not enabled on this node (start it with --enable-preview to allow it)";
    let (code, data) = node.call("metashrew_preview", json!(["00", "off"])).await.error(off);
    assert_eq!((code, &data["reason"]), (-32000, &json!("not-enabled")));
    let (code, data) = node.call("cofferdam_proof", json!([""])).await.error("--state-root");
    assert_eq!((code, &data["reason"]), (-32000, &json!("not-enabled")));
}
