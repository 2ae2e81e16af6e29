//! The server's routes in somebody else's application: `supervisor/cofferdam/examples/embed_http.rs`, built and asked.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cofferdam_tests::support::command::{EARLY_RECORDS, cut_records, extend_digest, repository, wait_until};
use cofferdam_tests::support::pool::{descriptors, is_running};
use cofferdam_tests::support::serve::Client;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The example, built in the profile of this test.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace's features, as this test was built with, so that nothing is compiled twice.
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--example",
            "embed_http",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(directory.parent().expect("a profile's directory lies in the target directory"))
        .current_dir(repository())
        .status()
        .expect("cargo can be started");
    assert!(built.success(), "the example could not be built");
    directory.join("examples/embed_http")
}

#[test]
fn someones_own_application_serves_the_pool_under_a_path_of_its_own() {
    let mut child = Command::new(example())
        .arg("127.0.0.1:0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut value = |name: &str| {
        let line = lines.next().expect("a line").expect("a text");
        line.strip_prefix(name).unwrap_or_else(|| panic!("{line}")).trim().to_owned()
    };
    let profile = value("profile ");
    let address = value("serving on ").parse().expect("an address");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/hello").expect(200).body, b"hello");
    client.get("/indexer/readyz").expect(200);
    for page in ["/indexer", "/indexer/"] {
        let found = client.get(page).expect(200).text();
        let (_, events) = found.split_once("new EventSource(\"").expect("the page listens to events");
        let (events, _) = events.split_once('"').expect("the address ends");
        // As a browser resolves it, against the path of the page.
        let (directory, _) = page.rsplit_once('/').expect("a path");
        let mut client = Client::connect(address);
        let request = format!("GET {directory}/{events} HTTP/1.1\r\nHost: test\r\n\r\n");
        client.send(request.as_bytes()).expect("it is sent");
        // The events themselves have no end.
        let head = client.head().expect("an answer").expect(200);
        assert_eq!(head.must("content-type"), "text/event-stream", "{page}");
    }
    let genesis = cut_records(EARLY_RECORDS).remove(0);
    let response = client.post("/indexer/v1/blocks/0", &[], &genesis).expect(200);
    assert_eq!(response.must("cofferdam-profile"), profile);
    let writes = hex::encode(Sha256::digest(&response.body));
    let line = json!({ "height": 0, "verdict": "completed", "writes_sha256": writes });
    assert_eq!(response.must("cofferdam-digest"), extend_digest(&profile, &genesis, &line));
    client.post("/indexer/v1/views/stats", &[], b"").expect(200);
    client.post("/indexer/v1/blocks/x", &[], b"").problem(400, "urn:cofferdam:problem:malformed");
    client.get("/v1/status").expect(404);
    let status = client.get("/indexer/v1/status").expect(200).json();
    let workers: Vec<u32> = status["workers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|worker| worker["pid"].as_u64()?.try_into().ok())
        .collect();
    assert!(workers.len() == 2 && workers.iter().all(|pid| !descriptors(*pid).is_empty()), "{status}");
    drop(client);
    drop(child.stdin.take());
    let ended = wait_until("it ends", || child.try_wait().expect("it is a child of ours"));
    assert!(ended.success(), "{ended}");
    assert!(!workers.iter().any(|pid| is_running(*pid)), "it left workers behind");
}
