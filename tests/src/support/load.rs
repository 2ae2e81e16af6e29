//! Load generators that keep connections, and know of every request what became of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};

/// What `serve_works.wat` is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Whether as a view; otherwise as a block.
    pub view: bool,
    /// The height.
    pub height: u32,
    /// The body.
    pub body: Bytes,
}

impl Work {
    /// Of so many rounds, with more bytes that count.
    #[must_use]
    pub fn new(view: bool, height: u32, rounds: u32, bytes: &[u8]) -> Self {
        Self { view, height, body: [&rounds.to_le_bytes(), bytes].concat().into() }
    }

    /// The path that it is posted to.
    #[must_use]
    pub fn path(&self) -> String {
        match self.view {
            true => format!("/v1/views/sum?height={}", self.height),
            false => format!("/v1/blocks/{}", self.height),
        }
    }

    /// The right answer, by a model of the guest.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let mix = |sum: u64, more: u64| (sum ^ more).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let (rounds, bytes) = self.body.split_first_chunk::<4>().expect("a body begins with its rounds");
        let sum = mix(0, self.height.into());
        let sum = bytes.iter().fold(sum, |sum, byte| mix(sum, (*byte).into()));
        let rounds = (1..=u32::from_le_bytes(*rounds)).rev();
        let sum = rounds.fold(sum, |sum, round| mix(sum, round.into())).to_le_bytes();
        match self.view {
            true => sum.to_vec(),
            // A pair as it is written everywhere: each length, then the bytes.
            false => [[3, 0, 0, 0].as_slice(), b"sum", &[8, 0, 0, 0], &sum].concat(),
        }
    }

    /// The right digest under a profile, by the words of the design and none of the product's code.
    #[must_use]
    pub fn digest(&self, profile: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(hex::decode(profile).expect("a profile is hexadecimal"));
        hasher.update(self.height.to_le_bytes());
        hasher.update(Sha256::digest(&self.body));
        hasher.update("completed");
        hasher.update(Sha256::digest(self.answer()));
        hex::encode(hasher.finalize())
    }
}

/// A response, all of it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// A header as text; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A client with one connection, which it keeps for as long as the other end does.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// One that is not connected yet.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, sender: None }
    }

    /// One that is connected.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn connected(address: SocketAddr) -> Result<Self, String> {
        let mut client = Self::new(address);
        client.sender = Some(client.connection().await?);
        Ok(client)
    }

    /// Posts `work` and reads the whole response. Sent anew only if it was not sent at all, because the connection had
    /// been closed since the request before.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn post(&mut self, work: &Work) -> Result<Reply, String> {
        let mut request = Request::post(work.path())
            .header(HOST, "cofferdam")
            .body(Full::new(work.body.clone()))
            .map_err(|error| error.to_string())?;
        loop {
            let mut sender = self.connection().await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(|error| format!("in the body: {error:?}"))?;
                    self.sender = Some(sender);
                    return Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(format!("{:?}", error.into_error())),
                },
            }
        }
    }

    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, String> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let connected = tokio::net::TcpStream::connect(self.address).await;
        let stream = connected.map_err(|error| format!("connecting: {error}"))?;
        // Without it, a body that is sent behind its headers waits for the other end's acknowledgement.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// One request of a load, and what became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its number.
    pub index: u64,
    /// The number of the client that sent it; of a flood, where each request is a client's only one, the same number.
    pub client: u64,
    /// When it was sent.
    pub began: Instant,
    /// When all of the answer was there.
    pub ended: Instant,
    /// The answer, or why there is none.
    pub reply: Result<Reply, String>,
}

impl Outcome {
    /// How long it took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.ended - self.began
    }
}

/// A request that did not get what is right.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was wrong.
    pub what: String,
    /// The request.
    pub outcome: Outcome,
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were sent.
    pub requests: u64,
    /// Those that did not get the right answer.
    pub failures: Vec<Failure>,
    /// How long each of the others took.
    pub times: Vec<Duration>,
    /// How many jobs took how many attempts, by the word of the host.
    pub attempts: BTreeMap<String, u64>,
}

/// A load of requests one after the other on each of some connections, which are kept.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Requests a second on all of them together, unless answers come too slowly for that.
    pub rate: u32,
}

impl Load {
    /// Sends what `work` says for each number until that says nothing, or `stop` says so; `check` says what is wrong with
    /// an answer.
    ///
    /// # Panics
    /// If either does.
    pub fn run(
        self,
        stop: &Arc<AtomicBool>,
        work: impl Fn(u64) -> Work + Send + Sync + 'static,
        check: impl Fn(u64, &Reply) -> Result<(), String> + Send + Sync + 'static,
    ) -> Tally {
        let (work, check) = (Arc::new(work), Arc::new(check));
        let (next, tally) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Tally::default())));
        let begun = Instant::now();
        runtime().block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..self.connections as u64 {
                let (stop, next, tally) = (Arc::clone(stop), Arc::clone(&next), Arc::clone(&tally));
                let (work, check) = (Arc::clone(&work), Arc::clone(&check));
                tasks.spawn(async move {
                    let mut client = Client::new(self.address);
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let due = begun + Duration::from_secs_f64(index as f64 / f64::from(self.rate));
                        tokio::time::sleep_until(due.into()).await;
                        let work = work(index);
                        let began = Instant::now();
                        let reply = client.post(&work).await;
                        let outcome = Outcome { index, client: number, began, ended: Instant::now(), reply };
                        let wrong = match &outcome.reply {
                            Ok(reply) => check(index, reply).err(),
                            Err(error) => Some(error.clone()),
                        };
                        tally.lock().unwrap_or_else(PoisonError::into_inner).add(outcome, wrong);
                    }
                });
            }
            while let Some(joined) = tasks.join_next().await {
                joined.expect("a connection's task does not panic");
            }
        });
        std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tally {
    fn add(&mut self, outcome: Outcome, wrong: Option<String>) {
        self.requests += 1;
        if let Ok(reply) = &outcome.reply {
            *self.attempts.entry(reply.header("cofferdam-attempts").to_owned()).or_default() += 1;
        }
        match wrong {
            None => self.times.push(outcome.took()),
            Some(what) => self.failures.push(Failure { what, outcome }),
        }
    }
}

/// A runtime for clients.
///
/// # Panics
/// If no threads can be started.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads can be started")
}

/// So many hundredths of `times` are at most this long; 0 if there are none.
#[must_use]
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(rank).copied().unwrap_or_default()
}

/// A load that does not wait for answers: so many requests come each second, whatever becomes of those before.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Where to.
    pub address: SocketAddr,
    /// Requests a second.
    pub rate: f64,
    /// For how long they come.
    pub lasting: Duration,
}

impl Flood {
    /// Sends what `work` says for each number. Each goes by a connection on which nothing is under way, a new one if there
    /// is none.
    ///
    /// # Panics
    /// If a task does.
    pub fn run(self, work: impl Fn(u64) -> Work) -> Vec<Outcome> {
        let idle = Arc::new(Mutex::new(Vec::new()));
        let begun = Instant::now();
        runtime().block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for index in 0.. {
                let due = Duration::from_secs_f64(index as f64 / self.rate);
                if due >= self.lasting {
                    break;
                }
                tokio::time::sleep_until((begun + due).into()).await;
                let (work, idle, address) = (work(index), Arc::clone(&idle), self.address);
                tasks.spawn(async move {
                    let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let mut client = kept.unwrap_or_else(|| Client::new(address));
                    let began = Instant::now();
                    let reply = client.post(&work).await;
                    let outcome = Outcome { index, client: index, began, ended: Instant::now(), reply };
                    idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                    outcome
                });
            }
            tasks.join_all().await
        })
    }
}
