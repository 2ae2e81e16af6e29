//! A backend whose views do what their names say, and an HTTP client that sends bytes unchanged.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use bitcoin::hashes::Hash as _;
use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify};

use crate::rpc::{Backend, CallError, ChainDigest, NodeInfo, RpcSettings, StateAt, StoreFigures, router};
use cofferdam_chain::blocks::{BlockHash, Network};

/// The newest height.
pub(super) const TIP: u32 = 840_000;
/// The first height.
pub(super) const START: u32 = 100;

pub(super) struct Fake {
    /// Whether no block is indexed.
    pub(super) empty: bool,
    /// The barrier at which views called `meet` wait for each other.
    pub(super) barrier: Barrier,
    pub(super) running: AtomicUsize,
    pub(super) most_running: AtomicUsize,
    pub(super) calls: AtomicUsize,
    /// Notified when a view called `never` begins, and when it is dropped.
    pub(super) begun: Arc<Notify>,
    pub(super) dropped: Arc<Notify>,
}

impl Fake {
    pub(super) fn new(meeting: usize) -> Self {
        Self {
            empty: false,
            barrier: Barrier::new(meeting),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            begun: Arc::default(),
            dropped: Arc::default(),
        }
    }

    fn resolve(&self, at: StateAt) -> Result<u32, CallError> {
        match at {
            _ if self.empty => Err(CallError::NothingIndexed),
            StateAt::Latest => Ok(TIP),
            StateAt::Height(height) if height > TIP => Err(CallError::NotYet { height, tip: TIP }),
            StateAt::Height(height) if height < START => Err(CallError::BeforeStart { height, start: START }),
            StateAt::Height(height) => Ok(height),
        }
    }
}

/// A hash whose first bytes, as the hash is shown, are the height.
fn hash_of(height: u32) -> BlockHash {
    let mut bytes = [0xab; 32];
    bytes[28..].copy_from_slice(&height.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

struct NotifyWhenDropped(Arc<Notify>);

impl Drop for NotifyWhenDropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Backend for Fake {
    async fn view(&self, function: String, input: Vec<u8>, at: StateAt) -> Result<Vec<u8>, CallError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let height = self.resolve(at)?;
        if let Some(verdict) = GuestVerdict::from_name(&function) {
            return Err(CallError::Guest { verdict, detail: "it said so".into() });
        }
        match function.as_str() {
            "echo" => Ok(input),
            "height" => Ok(height.to_be_bytes().to_vec()),
            "large" => Ok(vec![0; 1000]),
            "huge" => Ok(vec![0; 2 << 20]),
            "abandoned" => Err(CallError::Abandoned { height }),
            "killed" => Err(CallError::Host { verdict: HostVerdict::OomKilled, detail: "twice".into() }),
            "stuck" => Err(CallError::Host { verdict: HostVerdict::Deadline, detail: "1 s".into() }),
            "saturated" => Err(CallError::Saturated),
            "starting" => Err(CallError::NotReady("committing".into())),
            "too-large" => Err(CallError::InputTooLarge { bytes: 3 << 20, limit: 1 << 20 }),
            "broken" => Err(CallError::Internal("the store is gone".into())),
            "meet" => {
                let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_running.fetch_max(running, Ordering::SeqCst);
                self.barrier.wait().await;
                self.running.fetch_sub(1, Ordering::SeqCst);
                Ok(input)
            }
            "never" => {
                let _dropped = NotifyWhenDropped(Arc::clone(&self.dropped));
                self.begun.notify_one();
                pending().await
            }
            _ => Err(CallError::Guest { verdict: GuestVerdict::NoSuchExport, detail: function }),
        }
    }

    async fn preview(
        &self,
        block: Vec<u8>,
        function: String,
        input: Vec<u8>,
        at: StateAt,
    ) -> Result<Vec<u8>, CallError> {
        let height = self.resolve(at)?;
        match function.as_str() {
            "off" => Err(CallError::NotEnabled { what: "metashrew_preview", how: "--enable-preview" }),
            "trap" => Err(CallError::Guest { verdict: GuestVerdict::Trap, detail: "in the block".into() }),
            "length" => Ok(block.len().to_be_bytes().to_vec()),
            _ => Ok([&block[..], &input[..], &height.to_be_bytes()[..]].concat()),
        }
    }

    fn height(&self) -> Result<Option<u32>, CallError> {
        Ok((!self.empty).then_some(TIP))
    }

    fn block_hash(&self, at: StateAt) -> Result<BlockHash, CallError> {
        self.resolve(at).map(hash_of)
    }

    fn state_root(&self, at: StateAt) -> Result<[u8; 32], CallError> {
        let height = self.resolve(at)?;
        let mut root = [0x11; 32];
        root[..4].copy_from_slice(&height.to_be_bytes());
        Ok(root)
    }

    fn digest(&self, at: StateAt) -> Result<ChainDigest, CallError> {
        let height = self.resolve(at)?;
        Ok(ChainDigest { height, block: hash_of(height), digest: Hash([0x22; 32]) })
    }

    fn figures(&self) -> Result<StoreFigures, CallError> {
        Ok(StoreFigures {
            indexed_height: Some(TIP),
            next_height: TIP + 1,
            entries: 12,
            storage_bytes: Some(4096),
            blocks: 7,
        })
    }

    fn proof(&self, key: Vec<u8>, at: StateAt) -> Result<Value, CallError> {
        match key.is_empty() {
            true => Err(CallError::NotEnabled { what: "cofferdam_proof", how: "--state-root" }),
            false => Ok(json!({ "key": hex::encode(key), "height": self.resolve(at)? })),
        }
    }

    fn info(&self) -> Result<NodeInfo, CallError> {
        Ok(NodeInfo {
            version: "1.2.3".into(),
            profile: profile(),
            network: Some(Network::Regtest),
            start_height: START,
            tip: (!self.empty).then(|| (TIP, hash_of(TIP))),
            daemon_height: Some(TIP + 2),
        })
    }
}

/// The profile of the backend.
pub(super) fn profile() -> Profile {
    let engine = "an engine".to_owned();
    Profile { module: Hash([0x44; 32]), memory_bytes: 1 << 32, fuel: None, output_bytes: 1 << 27, engine }
}

/// A running server.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) fake: Arc<Fake>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn start(settings: RpcSettings) -> Running {
    start_with(Fake::new(1), settings, |calls| calls).await
}

pub(super) async fn start_with(
    fake: Fake,
    settings: RpcSettings,
    app: impl FnOnce(Router) -> Router,
) -> Running {
    let fake = Arc::new(fake);
    let app = app(router(Arc::clone(&fake), settings));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Running { address, fake, task }
}

/// A response, as it was received.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The head, in lower case.
    head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(given, _)| *given == name).map(|(_, value)| value).next()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error's code and data. Its message must contain `part`.
    pub(super) fn error(&self, part: &str) -> (i64, Value) {
        let error = &self.json()["error"];
        let message = error["message"].as_str().unwrap_or_else(|| panic!("{self:?}"));
        assert!(message.contains(part), "{message} should say {part}");
        (error["code"].as_i64().unwrap(), error["data"].clone())
    }
}

/// Reads one response. Panics if it does not arrive within 60 s.
pub(super) async fn read_reply(stream: &mut TcpStream) -> Reply {
    tokio::time::timeout(Duration::from_secs(60), async {
        let mut bytes = Vec::new();
        let (head, body) = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break (String::from_utf8(bytes[..end].to_vec()).unwrap(), bytes.split_off(end + 4));
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "{}", String::from_utf8_lossy(&bytes));
        };
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: String::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = body;
        while body.len() < length {
            assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0, "{reply:?}");
        }
        reply.body = String::from_utf8(body).unwrap();
        reply
    })
    .await
    .unwrap()
}

impl Running {
    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads one response.
    pub(super) async fn send(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_reply(&mut stream).await
    }

    /// Sends `body` as curl does, with these additional headers.
    pub(super) async fn curl(&self, headers: &str, body: &str) -> Reply {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n{headers}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await
    }

    /// Sends `body` as JSON.
    pub(super) async fn post(&self, body: &str) -> Reply {
        self.curl("Content-Type: application/json\r\n", body).await
    }

    /// Calls `method` and reads one response.
    pub(super) async fn call(&self, method: &str, params: Value) -> Reply {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.post(&body.to_string()).await
    }

    /// Calls `method`, and returns its result.
    pub(super) async fn result(&self, method: &str, params: Value) -> Value {
        let reply = self.call(method, params).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let mut json = reply.json();
        assert_eq!(json["id"], 1);
        assert_eq!(json["jsonrpc"], "2.0");
        json["result"].take()
    }
}
