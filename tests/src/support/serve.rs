//! `cofferdam serve` as its clients meet it: the real binary on a port of its own, and connections that send exactly the
//! bytes they are told to. A proper HTTP client could not be made to misbehave.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use sha2::{Digest, Sha256};

pub use super::client::{Client, Response, post};
use super::command::{Cofferdam, Output, Running, extend_digest, guest, wait_until};
use super::guests::{Act, good_pair, key_value_flush};
pub use super::metrics::Metrics;

/// `cofferdam serve` for this module, on one small worker without a spare, that waits for nothing when it is to end.
pub fn serve(module: &Path) -> Cofferdam<'static> {
    // By variables, so that an argument can say otherwise.
    let command = Cofferdam::new(["serve"]).arg(module).variable("COFFERDAM_MEMORY", "16MiB");
    command.variable("COFFERDAM_SPARES", "0").variable("COFFERDAM_DRAIN_DELAY", "0s")
}

/// An address that no other process of these tests listens on, outside of the range from which clients get theirs.
pub fn address() -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 10_000 + COUNT.fetch_add(1, Ordering::Relaxed) % 20_000;
    (Ipv4Addr::new(127, 64 | (high & 0x3f), middle, low), port).into()
}

/// A server under test.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub running: Running,
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its admin API is.
    pub admin: SocketAddr,
}

impl Server {
    /// Starts the command on addresses of its own, and waits until it answers.
    pub fn start(command: Cofferdam<'_>) -> Self {
        let (address, admin) = (address(), address());
        let mut running = command.with(&format!("--listen {address} --admin {admin}")).start();
        wait_until("the server listens", || {
            assert!(running.is_running(), "it has ended: {}", running.ended().stderr);
            TcpStream::connect(address).ok()
        });
        Self { running, address, admin }
    }

    /// Starts the command, and waits until it is ready.
    pub fn ready(command: Cofferdam<'_>) -> Self {
        let server = Self::start(command);
        server.await_ready();
        server
    }

    /// Waits until it is ready.
    pub fn await_ready(&self) {
        wait_until("the server is ready", || (self.get("/readyz").status == 200).then_some(()));
    }

    /// A connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A GET on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(path)
    }

    /// A POST on a connection of its own. Headers as `Name: value`.
    pub fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> Response {
        self.connect().post(path, headers, body)
    }

    /// A POST to the admin API.
    pub fn admin(&self, path: &str, body: &[u8]) -> Response {
        Client::connect(self.admin).post(path, &[], body)
    }

    /// What `/v1/status` says.
    pub fn status(&self) -> Value {
        self.get("/v1/status").json()
    }

    /// The profile that is served now.
    pub fn profile(&self) -> String {
        self.status()["profile"].as_str().expect("a profile is served").to_owned()
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").text())
    }

    /// Asks it to end, as a service manager would, and waits for that.
    pub fn end(self) -> Output {
        self.running.signal(Signal::SIGTERM);
        self.running.finish().expect_code(0)
    }
}

/// Rounds of [`Act::Spin`] that take a second or so: long enough to do something meanwhile.
pub const SECOND: u32 = 600_000_000;

/// The server for the guest that does what its block says.
pub fn script() -> Cofferdam<'static> {
    serve(&guest("script.wat"))
}

/// A block that flushes a pair, and the pair.
pub fn good(height: u32) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (key, value) = good_pair(height);
    (Act::Flush(&key_value_flush(&[&key, &value])).input(), key, value)
}

/// The digest that a block's answer must carry, by the words of the design.
pub fn digest(profile: &str, height: u32, block: &[u8], verdict: &str, writes: &[u8]) -> String {
    let writes = hex::encode(Sha256::digest(writes));
    extend_digest(profile, block, &json!({ "height": height, "verdict": verdict, "writes_sha256": writes }))
}

/// Waits until a guest runs, and gives the process id of its worker.
///
/// A worker counts as busy from when its job is sent. Killed before it has looked at the job it costs no attempt, so
/// this waits until it has computed for longer than a worker does that only wakes.
pub fn await_busy(server: &Server) -> u32 {
    const AWAKE_NS: u64 = 5_000_000;
    let mut first_seen = HashMap::new();
    wait_until("a worker is busy", || {
        let status = server.status();
        let busy = status["workers"].as_array()?.iter().find(|worker| worker["state"] == "busy")?;
        let pid = u32::try_from(busy["pid"].as_u64()?).ok()?;
        let computed = processor_time_ns(pid)?;
        let before = *first_seen.entry(pid).or_insert(computed);
        (computed > before + AWAKE_NS).then_some(pid)
    })
}

/// The time that a process has spent on processors, in nanoseconds: the first figure of `/proc/PID/schedstat`.
fn processor_time_ns(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Sends a POST, and gives the connection that its answer will come on.
pub fn begin(server: &Server, path: &str, headers: &[&str], body: &[u8]) -> Client {
    let mut client = server.connect();
    client.send(&post(path, headers, body)).expect("it is sent");
    client
}

/// How many requests of a kind came to a verdict, by `/metrics`.
pub fn requests(server: &Server, kind: &str, verdict: &str) -> f64 {
    server.metrics().get(&format!("cofferdam_requests_total{{kind=\"{kind}\",verdict=\"{verdict}\"}}"))
}
