//! `cofferdam serve` answers as its documentation says: each route, header and status code, asked for over a socket, and
//! compared with what the guest was told to do.

mod answers;
mod idempotency;
mod store;

use std::fs;

use cofferdam_tests::support::command::{
    Cofferdam, EARLY_RECORDS, Files, Output, guest, number, record, send, sums_blocks, text, wait_until,
};
use cofferdam_tests::support::guests::{Act, key_value_flush};
use cofferdam_tests::support::serve::{
    Client, Response, SECOND, Server, await_busy, begin, digest, good, requests, script, serve,
};
use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Checks the headers of an answer that a guest gave at the first attempt.
fn assert_headers(server: &Server, response: &Response, verdict: &str, digest: &str) {
    assert_eq!(response.must("cofferdam-verdict"), verdict);
    assert_eq!(response.must("cofferdam-digest"), digest);
    assert_eq!(response.must("cofferdam-attempts"), "1");
    assert_eq!(response.must("cofferdam-profile"), server.profile());
    let workers = server.running.workers();
    let slot = |pid: &u32| response.must("cofferdam-worker") == format!("pid={pid};slot=0");
    assert!(workers.iter().any(slot), "{response:?} {workers:?}");
    assert_server_timing(response.must("server-timing"));
}

/// Checks for `queue;dur=0.012, guest;dur=…, overhead;dur=…`.
fn assert_server_timing(value: &str) {
    let metrics: Vec<_> = value.split(", ").map(|metric| metric.split_once(";dur=").expect(value)).collect();
    let names: Vec<_> = metrics.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["queue", "guest", "overhead"], "{value}");
    assert!(metrics.iter().all(|(_, dur)| dur.parse::<f64>().is_ok_and(|dur| dur >= 0.0)), "{value}");
}
