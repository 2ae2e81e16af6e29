//! `cofferdam serve` as its clients meet it: the real binary on a port of its own, and connections that send exactly the
//! bytes they are told to. A proper HTTP client could not be made to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use sha2::{Digest, Sha256};

use super::command::{Cofferdam, Output, PATIENCE, Running, extend_digest, guest, wait_until};
use super::guests::{Act, good_pair, key_value_flush};

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

/// Samples of Prometheus' text format, by name and labels as they are written.
#[derive(Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Parses the text, and takes nothing that is not in the format
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
    pub fn parse(text: &str) -> Self {
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) = (words.next(), words.next(), words.next());
                assert!(matches!(kind, Some("HELP" | "TYPE")), "{line:?}");
                assert!(
                    is_name(name.unwrap_or_default()) && rest.is_some_and(|rest| !rest.is_empty()),
                    "{line:?}"
                );
                let is_counter = kind == Some("TYPE") && rest == Some("counter");
                assert!(!is_counter || name.is_some_and(|name| name.ends_with("_total")), "{line:?}");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
            let name = match sample.split_once('{') {
                None => sample,
                Some((name, labels)) => {
                    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line:?}"));
                    for label in labels.split(',') {
                        let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
                        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                        let plain = quoted.is_some_and(|value| !value.contains(['"', '\\', '\n']));
                        assert!(is_name(label) && plain, "{line:?}");
                    }
                    name
                }
            };
            assert!(is_name(name), "{line:?}");
            let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line:?}"));
            assert_eq!(samples.insert(sample.to_owned(), value), None, "twice: {line:?}");
        }
        Self(samples)
    }

    /// A sample; 0 if there is none, for what never happened is not listed.
    pub fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the server takes connections")
    }

    /// Connects, if there is somebody.
    ///
    /// # Errors
    /// The system's, if there is nobody.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The system's, if the other end has closed.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Says that no more will be sent.
    pub fn end(&self) {
        // It may have been closed from the other end.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// GETs.
    pub fn get(&mut self, path: &str) -> Response {
        self.try_get(path).expect("an answer")
    }

    /// GETs, if that is possible.
    ///
    /// # Errors
    /// The system's, or that the answer was not one.
    pub fn try_get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// POSTs.
    pub fn post(&mut self, path: &str, headers: &[&str], body: &[u8]) -> Response {
        self.try_post(path, headers, body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// POSTs, if that is possible.
    ///
    /// # Errors
    /// The system's, or that the answer was not one.
    pub fn try_post(&mut self, path: &str, headers: &[&str], body: &[u8]) -> io::Result<Response> {
        self.send(&post(path, headers, body))?;
        self.response()
    }

    /// Reads a line without its end.
    ///
    /// # Errors
    /// The system's, or that there is none.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let ended = line.strip_suffix("\r\n").or(line.strip_suffix('\n'));
        Ok(ended.ok_or(io::ErrorKind::UnexpectedEof)?.to_owned())
    }

    /// Reads a response's status and headers.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn head(&mut self) -> io::Result<Response> {
        let wrong = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no response: {line:?}"));
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").or(first.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| wrong(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| wrong(&line))?;
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// Reads a response; not one that answers to HEAD, and none of 1xx.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head()?;
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            response.body = vec![0; length];
            self.0.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads one chunk of a body; none if it was the last.
    ///
    /// # Errors
    /// The system's, or that it is none.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16);
        let length = length.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut chunk = vec![0; length];
        self.0.read_exact(&mut chunk)?;
        self.line()?;
        Ok((length > 0).then_some(chunk))
    }

    /// Whether the other end closes within this time, however it does.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.stream().set_read_timeout(Some(time)).expect("a time");
        let read = io::copy(&mut self.0, &mut io::sink());
        !read.is_err_and(|error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

/// The bytes of a POST.
pub fn post(path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, if it is there; once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        Some(&value.1)
    }

    /// A header that must be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// This response, if it has that status.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// This problem document, if it is one of that status and type.
    pub fn problem(self, status: u16, r#type: &str) -> Value {
        let response = self.expect(status);
        assert_eq!(response.must("content-type"), "application/problem+json");
        let body = response.json();
        assert_eq!((&body["type"], &body["status"]), (&Value::from(r#type), &Value::from(status)), "{body}");
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "no {member}: {body}");
        }
        body
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
