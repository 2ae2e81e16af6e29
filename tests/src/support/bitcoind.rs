//! A real bitcoind on regtest, alone on this machine, with a directory of its own that goes with it.
//!
//! Which one: `BITCOIND`, or what `scripts/fetch-bitcoind` has put under the target directory (Bitcoin SV 1.0.13, whose
//! JSON-RPC is that of older versions of Bitcoin Core).

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bitcoin::BlockHash;
use cofferdam_test_skips::skip;
use serde_json::{Value, json};

use super::command::{Files, wait_until};
use super::serve::Client;

/// What Bitcoin SV wants to be told, and Bitcoin Core passes over in a file; and a fee for the wallet of the latter.
const CONFIGURATION: &str = "maxstackmemoryusageconsensus=0\nexcessiveblocksize=10000000000\n\
                             minminingtxfee=0.00000500\nfallbackfee=0.0001\n";

/// A bitcoind, which is killed when dropped.
#[derive(Debug)]
pub struct Bitcoind {
    program: PathBuf,
    files: Files,
    address: SocketAddr,
    child: Option<Child>,
}

impl Bitcoind {
    /// Starts one with nothing but the genesis block. None, and a word about it, where there is no bitcoind.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = program()?;
        let files = Files::new();
        files.add("bitcoin.conf", CONFIGURATION);
        let address = free_address();
        let mut bitcoind = Self { program, files, address, child: None };
        bitcoind.resume();
        // Bitcoin Core makes no wallet by itself any more.
        if bitcoind.try_call("getnewaddress", &json!([])).is_err() {
            bitcoind.call("createwallet", &json!(["tests"]));
        }
        Some(bitcoind)
    }

    /// Starts it again after [`Bitcoind::stop`], with the same blocks and at the same address.
    pub fn resume(&mut self) {
        let log = File::create(self.files.at("output")).expect("a file can be made");
        let errors = log.try_clone().expect("a descriptor can be copied");
        let mut command = Command::new(&self.program);
        command.args(["-regtest", "-listen=0", "-connect=0", "-dnsseed=0", "-discover=0", "-server=1"]);
        command.arg(format!("-datadir={}", self.files.at("").display()));
        command.args(["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"]);
        command.arg(format!("-rpcport={}", self.address.port()));
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.child = Some(child.expect("a bitcoind can be started"));
        wait_until("bitcoind answers", || {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("it is a child of ours");
            let output = || fs::read_to_string(self.files.at("output")).unwrap_or_default();
            assert!(ended.is_none(), "bitcoind ended while it started:\n{}", output());
            self.try_call("getblockchaininfo", &json!([])).ok()
        });
    }

    /// Stops it as its operator would, and waits until it has ended.
    pub fn stop(&mut self) {
        self.call("stop", &json!([]));
        let mut child = self.child.take().expect("it runs");
        child.wait().expect("it is a child of ours");
    }

    /// Where it answers, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The cookie that it wrote at its last start.
    #[must_use]
    pub fn cookie(&self) -> PathBuf {
        self.files.at("regtest/.cookie")
    }

    /// Name and password, as `USER:PASSWORD`, that are good until it is started again.
    #[must_use]
    pub fn credentials(&self) -> String {
        fs::read_to_string(self.cookie()).expect("the cookie is there while it runs")
    }

    /// Calls a method.
    ///
    /// # Panics
    /// If the node answers with an error.
    pub fn call(&self, method: &str, params: &Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    fn try_call(&self, method: &str, params: &Value) -> Result<Value, String> {
        let credentials = fs::read_to_string(self.cookie()).map_err(|error| error.to_string())?;
        let authorization = format!("Authorization: Basic {}", BASE64.encode(credentials));
        let body = json!({ "id": 1, "method": method, "params": params }).to_string();
        let mut client = Client::try_connect(self.address).map_err(|error| error.to_string())?;
        let response = client.try_post("/", &[&authorization], body.as_bytes());
        let response = response.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
        if answer["error"].is_null() { Ok(answer["result"].take()) } else { Err(answer["error"].to_string()) }
    }

    /// Mines blocks with everything that waits, to an address that was never used: blocks mined after others were
    /// invalidated are not those again.
    pub fn mine(&self, blocks: u32) {
        let address = self.call("getnewaddress", &json!([]));
        self.call("generatetoaddress", &json!([blocks, address]));
    }

    /// Pays an amount from the node's wallet to itself, so many times. There must be a hundred blocks after one of its own.
    pub fn pay(&self, times: u32) {
        let address = self.call("getnewaddress", &json!([]));
        for _ in 0..times {
            self.call("sendtoaddress", &json!([address, 0.01]));
        }
    }

    /// Makes the node leave its best chain from this height on.
    pub fn invalidate(&self, height: u32) {
        let hash = self.call("getblockhash", &json!([height]));
        self.call("invalidateblock", &json!([hash]));
    }

    /// The height of its best block.
    #[must_use]
    pub fn height(&self) -> u32 {
        let height = self.call("getblockcount", &json!([])).as_u64().expect("a height");
        u32::try_from(height).expect("a height")
    }

    /// Its best block.
    #[must_use]
    pub fn best(&self) -> BlockHash {
        parse(&self.call("getbestblockhash", &json!([])))
    }

    /// Heights and hashes of its best chain.
    #[must_use]
    pub fn chain(&self) -> Vec<(u32, BlockHash)> {
        let hash = |height| parse(&self.call("getblockhash", &json!([height])));
        (0..=self.height()).map(|height| (height, hash(height))).collect()
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BITCOIND") {
        return Some(path.into());
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // A test lies in target/PROFILE/deps.
    let target = test.ancestors().nth(3).expect("a test lies in the target directory");
    let versions = fs::read_dir(target.join("bitcoind")).into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bitcoind")).find(|path| path.is_file());
    if found.is_none() {
        skip("there is no bitcoind: run scripts/fetch-bitcoind, or set BITCOIND to the path of one");
    }
    found
}

fn parse(hash: &Value) -> BlockHash {
    hash.as_str().and_then(|hash| hash.parse().ok()).expect("a hash")
}

/// An address where nobody listens at this moment.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}
