//! The follower against a node of the tests' own: what it gives, what it takes back, and what it makes of every trouble
//! that a node can be in.

mod access;
mod chain;
mod distrust;
mod limits;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cofferdam::blocks::Network;
use cofferdam::node::daemon::{Auth, DaemonError, Follower, FollowerSettings};
use cofferdam::node::feed::FeedEvent;
use cofferdam_tests::support::command::{Files, cut_records, shared_blocks, wait_until};
use cofferdam_tests::support::daemon::{BatchRefusal, Daemon, hash_of};
use cofferdam_tests::support::following::{Following, indexed};
use cofferdam_tests::support::regtest::{chain, extend, extend_with};

/// Often asked, so that tests are short.
fn settings(daemon: &Daemon) -> FollowerSettings {
    FollowerSettings { poll_interval: Duration::from_millis(10), ..FollowerSettings::new(daemon.url()) }
}

fn tip(blocks: &[Vec<u8>]) -> cofferdam::blocks::BlockHash {
    hash_of(blocks.last().expect("a chain has a block"))
}

fn words(error: &DaemonError, expected: &[&str]) {
    let words = error.to_string();
    for part in expected {
        assert!(words.contains(part), "no {part:?} in: {words}");
    }
}
