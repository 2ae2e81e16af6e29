//! Real HAProxy and real nginx, by the configurations that are shipped, before three `cofferdam serve`: workers are killed
//! twice a second, each process is rolled once, one is killed with -9, and no client sees any of it. nginx does not ask
//! whether a host is ready, and so sends requests to one that has just been started: they wait there. And what HAProxy is told follows what is true within a second.
//!
//! `COFFERDAM_LB_REQUESTS` is how many requests go through each balancer (default 20,000). A run lasts for as long as its disturbances, so more requests are mostly a higher rate.
//!
//! The -9 comes when requests are known to be in flight on that process: for a while, all requests take long. Where retries are off, nothing that was sent to a
//! host is sent to another one: then these fail, and no other, so of each client at most one. What was not sent, because no
//! connection could be made, goes elsewhere in either case.

mod balancers;
mod health;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_tests::support::balancer::{Balancer, Kind, Retries};
use cofferdam_tests::support::command::{Output, exclusively, send, wait_until};
use cofferdam_tests::support::hosts::{Network, Server, get};
use cofferdam_tests::support::load::{Client, Failure, Load, Reply, Tally, Work, percentile, runtime};
use cofferdam_tests::support::pool::process_state;
use cofferdam_tests::support::random::Random;
use nix::sys::signal::Signal;

/// How each of the three processes is started.
const HOST: &str = "--workers 1 --spares 2";
/// Workers are killed so often, over all processes. A slot bears twenty deaths a minute, and there are nine, so
/// that this can go on for as long as the requests last.
const BETWEEN_KILLS: Duration = Duration::from_millis(500);
/// About how long the disturbances take.
const DISTURBED: Duration = Duration::from_secs(25);
/// Requests that are answered between two disturbances, at the least: one in so many of all.
const BETWEEN: u64 = 25;
/// Requests that are to be in flight on a process that is killed with -9, at the least.
const IN_FLIGHT: u64 = 2;
/// What the kernel may need to close the connections of a process that is gone.
const SLACK: Duration = Duration::from_millis(100);
