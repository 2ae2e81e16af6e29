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
