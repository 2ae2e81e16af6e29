//! `cofferdam node` as an operator starts it and as its clients meet it, and the guest by which its tests see what state a
//! block ran on.

use std::path::{Path, PathBuf};

use cofferdam::blocks::BlockHash;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::command::{Cofferdam, Output, guest, wait_until};
use super::daemon::hash_of;
use super::serve::{Client, Metrics, address};

/// A node that runs, and keeps its state for as long as this lives.
#[derive(Debug)]
pub struct Node {
    /// Its process.
    pub running: super::command::Running,
    /// Where it serves.
    pub address: std::net::SocketAddr,
}

/// Directories of one test's own.
#[derive(Debug)]
pub struct Place(TempDir);

impl Default for Place {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Place {
    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of blk records in it, of regtest.
    pub fn records(&self, name: &str, blocks: &[Vec<u8>]) -> PathBuf {
        let path = self.at(name);
        let record = |block: &Vec<u8>| {
            let length = u32::try_from(block.len()).expect("a block is short");
            [&[0xfa, 0xbf, 0xb5, 0xda], length.to_le_bytes().as_slice(), block].concat()
        };
        std::fs::write(&path, blocks.iter().flat_map(record).collect::<Vec<_>>()).expect("it can be written");
        path
    }
}

/// `cofferdam node` for `chain.wat` on small workers, with its state in `db`.
pub fn node(db: &Path) -> Cofferdam<'static> {
    // By variables, so that an argument can say otherwise.
    let command =
        Cofferdam::new(["node"]).path("--db-path", db).variable("COFFERDAM_INDEXER", guest("chain.wat"));
    let command = command.variable("COFFERDAM_MEMORY", "16MiB").variable("COFFERDAM_SPARES", "0");
    command.variable("COFFERDAM_DRAIN_DELAY", "0s")
}

/// What the guest comes to after `blocks`, the first of them at height 0: its sum and the height, as its view returns them.
pub fn expected_sum(blocks: &[Vec<u8>]) -> String {
    let mix =
        |sum: u64, more: u8| (sum ^ u64::from(more)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut sum = 0;
    for (height, block) in (0u32..).zip(blocks) {
        sum = height.to_le_bytes().iter().chain(block).fold(sum, |sum, byte| mix(sum, *byte));
    }
    let height = u32::try_from(blocks.len() - 1).expect("a short chain");
    format!("0x{}{}", hex::encode(sum.to_le_bytes()), hex::encode(height.to_le_bytes()))
}

impl Node {
    /// Starts the command on an address of its own, and waits until it listens.
    pub fn start(command: Cofferdam<'_>) -> Self {
        let address = address();
        let mut running = command.with(&format!("--host {} --port {}", address.ip(), address.port())).start();
        wait_until("the node listens", || {
            assert!(running.is_running(), "it has ended: {}", running.ended().stderr);
            std::net::TcpStream::connect(address).ok()
        });
        Self { running, address }
    }

    /// Runs a command that is to end by itself, on an address of its own, to its end.
    pub fn to_the_end(command: Cofferdam<'_>) -> Output {
        let address = address();
        command.with(&format!("--host {} --port {}", address.ip(), address.port())).output()
    }

    /// A call: its result, or its error.
    ///
    /// # Errors
    /// The error object.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, Value> {
        call(&mut Client::connect(self.address), method, params)
    }

    /// A call that is to have a result.
    pub fn ask(&self, method: &str, params: &Value) -> Value {
        self.call(method, params).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// The newest height, as it says itself; none before the first block.
    pub fn height(&self) -> Option<u32> {
        // Before its workers are there it does not say.
        let tip = self.call("cofferdam_info", &json!([])).ok()?["tip"]["height"].as_u64()?;
        Some(u32::try_from(tip).expect("a height"))
    }

    /// Waits until the block with this hash is the newest.
    pub fn await_tip(&self, block: &[u8]) {
        let hash = hash_of(block).to_string();
        wait_until("the block is indexed", || {
            // Workers that are not there yet are no reason to give up.
            let info = self.call("cofferdam_info", &json!([])).ok()?;
            (info["tip"]["block"] == hash.as_str()).then_some(())
        });
    }

    /// What the view `sum` returns.
    ///
    /// # Errors
    /// The error object.
    pub fn sum(&self, at: &Value) -> Result<Value, Value> {
        self.call("metashrew_view", &json!(["sum", "0x", at]))
    }

    /// What stands in `/v1/status` of the chain.
    pub fn chain(&self) -> Value {
        Client::connect(self.address).get("/v1/status").json()["chain"].clone()
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&Client::connect(self.address).get("/metrics").text())
    }

    /// Status code and text of `/readyz?verbose`.
    pub fn readiness(&self) -> (u16, String) {
        let response = Client::connect(self.address).get("/readyz?verbose");
        (response.status, response.text())
    }

    /// Waits until it is ready.
    pub fn await_ready(&self) {
        wait_until("the node is ready", || (self.readiness().0 == 200).then_some(()));
    }

    /// Asks it to end, as a service manager would, and waits for that.
    pub fn end(self) -> Output {
        self.running.signal(Signal::SIGTERM);
        self.running.finish().expect_code(0)
    }
}

/// A call on a connection: its result, or its error.
///
/// # Errors
/// The error object.
pub fn call(client: &mut Client, method: &str, params: &Value) -> Result<Value, Value> {
    let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let body = serde_json::to_vec(&request).expect("it is JSON");
    let response = client.post("/", &["Content-Type: application/json"], &body);
    let mut answer = response.json();
    assert_eq!(
        (response.status, &answer["id"], &answer["jsonrpc"]),
        (200, &json!(7), &json!("2.0")),
        "{answer}"
    );
    match answer["error"].take() {
        Value::Null => Ok(answer["result"].take()),
        error => Err(error),
    }
}

/// What is committed in a store that no process writes: hashes, digests and verdicts of all blocks, and a hash of all values.
pub fn contents(db: &Path) -> (Vec<String>, String) {
    let store = open(db);
    let tip = store.tip().expect("it can be read").map_or(0, |tip| tip.height + 1);
    let records = (0..tip).filter_map(|height| store.block(height).expect("it can be read"));
    let records = records.map(|record| format!("{record:?}")).collect();
    (records, store.content_hash().expect("it can be read").to_string())
}

/// The store of `chain.wat` on small workers.
pub fn open(db: &Path) -> cofferdam::store::Store {
    use cofferdam::store::{Durability, Identity, Store};
    let module = std::fs::read(guest("chain.wat")).expect("it is there");
    let profile = super::pool::small(module).profile().expect("it is a module").hash();
    Store::open(db, &Identity { profile, network: None }, Durability::None).expect("nobody writes it")
}

/// The hash of a block, as it is written.
pub fn hash_text(block: &[u8]) -> String {
    let hash: BlockHash = hash_of(block);
    hash.to_string()
}
