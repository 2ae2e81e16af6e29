//! `cofferdam serve` as its operators meet it: probes, metrics, events, logs, its start, its drain, and its ends.

mod end;
mod events;
mod observing;
mod page;
mod start;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cofferdam_test_skips::skip;
use cofferdam_tests::support::command::{Cofferdam, Files, PATIENCE, guest, number, send, text, wait_until};
use cofferdam_tests::support::guests::Act;
use cofferdam_tests::support::serve::{
    Client, SECOND, Server, address, await_busy, begin, good, script, serve,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn agent_line(agent: SocketAddr) -> String {
    let mut line = String::new();
    let mut stream = TcpStream::connect(agent).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.read_to_string(&mut line).expect("a line");
    line
}

fn await_waiting(server: &Server, blocks: u64, views: u64) {
    let here = json!([blocks, views]);
    wait_until("requests wait", || {
        let queue = &server.status()["queue"];
        (json!([queue["blocks"], queue["views"]]) == here).then_some(())
    });
}
