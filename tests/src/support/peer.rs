//! Nodes that are made up: they answer `cofferdam_info` and `cofferdam_digest` over HTTP as they are told, and count what
//! they are asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a peer has and says.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What `cofferdam_info` says besides heights.
    pub about: Value,
    /// The first height.
    pub start: u32,
    /// The newest height.
    pub tip: u32,
    /// From this height on its digests are no longer everybody's.
    pub parts_at: Option<u32>,
    /// From this height on its blocks are no longer everybody's.
    pub forks_at: Option<u32>,
    /// Block hashes and digests that it has instead of made-up ones.
    pub chain: BTreeMap<u32, (String, String)>,
}

impl Facts {
    /// A node like every other, whose newest height is `tip`.
    pub fn new(tip: u32) -> Self {
        let about = json!({ "version": "0.1.0", "profile": "33".repeat(32), "module": "44".repeat(32) });
        Self { about, start: 0, tip, parts_at: None, forks_at: None, chain: BTreeMap::new() }
    }

    fn answer(&self, method: &str, height: &Value) -> Result<Value, Value> {
        match method {
            "cofferdam_info" => {
                let mut info = self.about.clone();
                info["start_height"] = self.start.into();
                info["tip"] = json!({ "height": self.tip, "block": self.block(self.tip) });
                Ok(info)
            }
            "cofferdam_digest" => self.digest(height),
            _ => Err(json!({ "code": -32601, "message": "Method not found" })),
        }
    }

    fn digest(&self, height: &Value) -> Result<Value, Value> {
        let refused = |reason: &str, name: &str, bound: u32| {
            let data = json!({ "reason": reason, "retryable": false, "height": height, name: bound });
            json!({ "code": -32003, "message": format!("height {height} is not indexed"), "data": data })
        };
        let at = height.as_u64().and_then(|height| u32::try_from(height).ok());
        let at = at.ok_or_else(|| json!({ "code": -32602, "message": "a height is a number" }))?;
        if at < self.start {
            return Err(refused("before-start", "start", self.start));
        }
        if at > self.tip {
            return Err(refused("not-yet", "tip", self.tip));
        }
        let own = self.parts_at.is_some_and(|from| at >= from);
        let digest = self.chain.get(&at).map(|(_, digest)| digest.clone());
        let digest = digest.unwrap_or_else(|| made_up("digest", at, false));
        let digest = if own { hex::encode(Sha256::digest(digest)) } else { digest };
        Ok(json!({ "height": at, "block": self.block(at), "digest": digest }))
    }

    fn block(&self, at: u32) -> String {
        let own = self.forks_at.is_some_and(|from| at >= from);
        self.chain.get(&at).map_or_else(|| made_up("block", at, own), |(block, _)| block.clone())
    }
}

fn made_up(what: &str, height: u32, own: bool) -> String {
    hex::encode(Sha256::digest(format!("{what} {height} {own}")))
}

/// A peer that answers until it is dropped.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    facts: Facts,
    /// Methods, each with the height that it was about.
    asked: Mutex<Vec<(String, Value)>>,
    stop: AtomicBool,
}

impl Peer {
    /// Starts one on a free port of this machine.
    pub fn start(facts: Facts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { facts, asked: Mutex::default(), stop: AtomicBool::new(false) });
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&listener, &shared)
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The block and the digest that it has at `height`.
    pub fn has(&self, height: u32) -> (String, String) {
        let digest = self.shared.facts.digest(&height.into()).expect("it has the height");
        let field = |name: &str| digest[name].as_str().expect("a text").to_owned();
        (field("block"), field("digest"))
    }

    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.shared.asked().clone()
    }

    /// The heights that it was asked for a digest of, in order.
    pub fn heights(&self) -> Vec<u64> {
        let asked = self.asked().into_iter().filter(|(method, _)| method == "cofferdam_digest");
        asked.map(|(_, height)| height.as_u64().expect("a height")).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread from `accept`.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Vec<(String, Value)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, body: &[u8]) -> Value {
        let call: Value = serde_json::from_slice(body).expect("a call is JSON");
        let method = call["method"].as_str().expect("a call has a method");
        let height = &call["params"][0];
        self.asked().push((method.to_owned(), height.clone()));
        let mut answer = json!({ "jsonrpc": "2.0", "id": call["id"] });
        match self.facts.answer(method, height) {
            Ok(result) => answer["result"] = result,
            Err(error) => answer["error"] = error,
        }
        answer
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(shared);
        // Ends with its connection, which the client closes.
        thread::spawn(move || while let Ok(true) = exchange(&stream, &shared) {});
    }
}

/// Takes one request and answers it; whether there may be another.
fn exchange(stream: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(digits) = line.strip_prefix("content-length:") {
            length = digits.trim().parse().expect("a length is a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let answer = shared.answer(&body).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        answer.len()
    );
    let mut stream = stream;
    stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat())?;
    Ok(true)
}
