//! What the node of the tests knows and answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::block::Header;
use bitcoin::consensus::Decodable;
use serde_json::{Value, json};

/// What this node does, and what is wrong with it. The default is a node without a fault.
#[derive(Clone, Debug)]
pub struct Switches {
    /// `user:password` that must be given.
    pub credentials: Option<String>,
    /// The network that it says it is of.
    pub network: &'static str,
    /// Error -28 with these words, to everything.
    pub warm_up: Option<&'static str>,
    /// Blocks below this height were pruned.
    pub pruned_below: u32,
    /// How many headers it has more than blocks; any at all is an initial download.
    pub headers_ahead: u32,
    /// It takes requests and does not answer.
    pub hangs: bool,
    /// It answers every request with this HTTP status and a line that is no JSON.
    pub status: Option<u16>,
    /// So many answers are cut off in the middle, and their connection with them.
    pub torn_answers: u32,
    /// So many blocks are answered with the bytes of the genesis block.
    pub lies: u32,
    /// What it says of a height, whatever its chain has there.
    pub claims: HashMap<u32, BlockHash>,
    /// How long each block takes.
    pub delay: Duration,
    /// Requests for blocks of this height and above wait.
    pub holds_from: Option<u32>,
    /// How many calls a batch may have.
    pub most_in_batch: usize,
    /// What it answers to a larger batch.
    pub batch_refusal: BatchRefusal,
    /// A method that it refuses as Bitcoin Core does by `rpcwhitelist`: HTTP status 403, and no word.
    pub forbidden: Option<&'static str>,
    /// Longer answers, as of blocks, come in so many pieces, with such a pause before each.
    pub drip: Option<(usize, Duration)>,
}

/// What nodes and proxies answer that take no batches, or only small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchRefusal {
    /// One response object with an error.
    Error,
    /// An HTTP status, and no JSON.
    Status(u16),
    /// An error for each call.
    Each,
    /// Answers to as many calls as it takes.
    Short,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            credentials: None,
            network: "regtest",
            warm_up: None,
            pruned_below: 0,
            headers_ahead: 0,
            hangs: false,
            status: None,
            torn_answers: 0,
            lies: 0,
            claims: HashMap::new(),
            delay: Duration::ZERO,
            holds_from: None,
            most_in_batch: usize::MAX,
            batch_refusal: BatchRefusal::Error,
            forbidden: None,
            drip: None,
        }
    }
}

/// What the connections share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) switches: Switches,
    /// The best chain, from the genesis block on.
    pub(super) chain: Vec<BlockHash>,
    /// Every block that it ever had: height, bytes.
    pub(super) blocks: HashMap<BlockHash, (u32, Arc<[u8]>)>,
    pub(super) counts: HashMap<String, u64>,
    /// Requests for blocks that wait.
    pub(super) held_back: u32,
    /// How many calls each batch had, refused ones included.
    pub(super) batches: Vec<usize>,
    pub(super) connections: u64,
}

/// What becomes of an answer.
pub(super) enum Answer {
    /// It is sent.
    Json(Value),
    /// It is sent with this status.
    Error(u16, Value),
    /// No JSON.
    Text(u16, &'static str),
}

impl Node {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while requests hang; whether the server goes on.
    pub(super) fn wait_while_hanging(&self, stop: &AtomicBool) -> bool {
        let stopped = || stop.load(Ordering::Relaxed);
        let waited = self.changed.wait_while(self.lock(), |state| state.switches.hangs && !stopped());
        drop(waited);
        !stopped()
    }

    /// Waits while a block is held back, or until the server stops.
    fn wait_for_block(&self, params: &Value, stop: &AtomicBool) {
        let held_back = |state: &mut State| state.is_held_back(params) && !stop.load(Ordering::Relaxed);
        let mut state = self.lock();
        state.held_back += 1;
        let mut state = self.changed.wait_while(state, held_back).unwrap_or_else(PoisonError::into_inner);
        state.held_back -= 1;
    }

    /// Answers the body of a request.
    pub(super) fn answer(&self, authorized: impl Fn(&str) -> bool, body: &[u8], stop: &AtomicBool) -> Answer {
        let switches = self.lock().switches.clone();
        if switches.credentials.as_ref().is_some_and(|credentials| !authorized(credentials)) {
            return Answer::Text(401, "");
        }
        if let Some(status) = switches.status {
            return Answer::Text(status, "<html>not now</html>");
        }
        let asked = serde_json::from_slice::<Value>(body);
        let is_forbidden = |call: &Value| switches.forbidden.is_some_and(|method| call["method"] == method);
        match asked {
            Ok(Value::Array(calls)) if calls.iter().any(is_forbidden) => Answer::Text(403, ""),
            Ok(call) if is_forbidden(&call) => Answer::Text(403, ""),
            Ok(Value::Array(calls)) => self.answer_batch(&calls, &switches, stop),
            Ok(call) => match self.call(&call, stop) {
                (200, answer) => Answer::Json(answer),
                (status, answer) => Answer::Error(status, answer),
            },
            Err(error) => {
                let error = json!({ "code": -32700, "message": error.to_string() });
                Answer::Error(500, json!({ "result": null, "error": error, "id": null }))
            }
        }
    }

    fn answer_batch(&self, calls: &[Value], switches: &Switches, stop: &AtomicBool) -> Answer {
        self.lock().batches.push(calls.len());
        let taken = if calls.len() > switches.most_in_batch {
            let error = json!({ "code": -32600, "message": "Batch requests are not supported" });
            let refusal = |id: &Value| json!({ "result": null, "error": error, "id": id });
            match switches.batch_refusal {
                BatchRefusal::Error => return Answer::Json(refusal(&Value::Null)),
                BatchRefusal::Status(status) => return Answer::Text(status, "<html>too much</html>"),
                BatchRefusal::Each => {
                    return Answer::Json(calls.iter().map(|call| refusal(&call["id"])).collect());
                }
                BatchRefusal::Short => switches.most_in_batch,
            }
        } else {
            calls.len()
        };
        Answer::Json(calls[..taken].iter().map(|call| self.call(call, stop).1).collect())
    }

    /// One call: HTTP status, and the response object.
    fn call(&self, call: &Value, stop: &AtomicBool) -> (u16, Value) {
        let method = call["method"].as_str().unwrap_or_default();
        let delay = {
            let mut state = self.lock();
            *state.counts.entry(method.to_owned()).or_default() += 1;
            if method == "getblock" { state.switches.delay } else { Duration::ZERO }
        };
        if method == "getblock" {
            self.wait_for_block(&call["params"], stop);
        }
        thread::sleep(delay);
        match self.lock().result(method, &call["params"]) {
            Ok(result) => (200, json!({ "result": result, "error": null, "id": call["id"] })),
            Err((code, message)) => {
                let error = json!({ "code": code, "message": message });
                let status = if code == -32601 { 404 } else { 500 };
                (status, json!({ "result": null, "error": error, "id": call["id"] }))
            }
        }
    }
}

impl State {
    pub(super) fn adopt(&mut self, blocks: &[Vec<u8>]) {
        self.chain.clear();
        for (height, bytes) in (0..).zip(blocks) {
            let hash = hash_of(bytes);
            self.chain.push(hash);
            self.blocks.entry(hash).or_insert_with(|| (height, bytes.as_slice().into()));
        }
    }

    fn result(&mut self, method: &str, params: &Value) -> Result<Value, (i32, String)> {
        if let Some(words) = self.switches.warm_up {
            return Err((-28, words.to_owned()));
        }
        let best = self.chain.last().expect("a node has a genesis block").to_string();
        match method {
            "getbestblockhash" => Ok(json!(best)),
            "getblockchaininfo" => {
                let blocks = self.chain.len() - 1;
                let ahead = self.switches.headers_ahead;
                Ok(json!({
                    "chain": self.switches.network,
                    "blocks": blocks,
                    "headers": blocks + ahead as usize,
                    "bestblockhash": best,
                    "initialblockdownload": ahead > 0,
                    "pruned": self.switches.pruned_below > 0,
                }))
            }
            "getblockhash" => self.hash_at(&params[0]).ok_or((-8, "Block height out of range".to_owned())),
            "getblock" => self.block(params),
            _ => Err((-32601, "Method not found".to_owned())),
        }
    }

    /// Whether the block that is asked for is one of those that are held back.
    fn is_held_back(&self, params: &Value) -> bool {
        let Some(from) = self.switches.holds_from else { return false };
        let hash = params[0].as_str().and_then(|hash| hash.parse::<BlockHash>().ok());
        hash.and_then(|hash| self.blocks.get(&hash)).is_some_and(|(height, _)| *height >= from)
    }

    fn hash_at(&self, height: &Value) -> Option<Value> {
        let height = u32::try_from(height.as_u64()?).ok()?;
        let own = self.chain.get(height as usize)?;
        Some(json!(self.switches.claims.get(&height).unwrap_or(own).to_string()))
    }

    fn block(&mut self, params: &Value) -> Result<Value, (i32, String)> {
        assert_eq!(params[1], json!(0), "blocks are wanted as they are");
        let hash: BlockHash = params[0].as_str().and_then(|hash| hash.parse().ok()).expect("a hash");
        let Some((height, bytes)) = self.blocks.get(&hash) else {
            return Err((-5, "Block not found".to_owned()));
        };
        if *height < self.switches.pruned_below {
            return Err((-1, "Block not available (pruned data)".to_owned()));
        }
        if self.switches.lies > 0 {
            self.switches.lies -= 1;
            return Ok(json!(hex::encode(&self.blocks[&self.chain[0]].1)));
        }
        Ok(json!(hex::encode(bytes)))
    }
}

/// The hash of a serialised block.
#[must_use]
pub fn hash_of(block: &[u8]) -> BlockHash {
    let header = Header::consensus_decode(&mut &block[..]).expect("a block begins with its header");
    header.block_hash()
}
