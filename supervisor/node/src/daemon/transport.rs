//! JSON-RPC's way to the node: HTTP with a connection kept open for each thread, a bound on the node's silence, a cap on
//! every answer in bytes and in time, and a switch that ends all requests at once.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonrpc::error::RpcError;
use jsonrpc::{Request, Response};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::http::Uri;

use super::error::DaemonError;
use super::settings::Auth;
use cofferdam_base::Secret;

/// The slowest answer that is waited for, in bytes a second: by this the longest answer bounds the time that one may take.
const SLOWEST: u64 = 16 << 10;
/// The longest time that a connection is tried for, within a request's own.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest answer's head, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// Longest cookie file, in bytes. Bitcoin Core's has 75.
const COOKIE_BYTES: u64 = 4 << 10;
/// How much of an answer that is no JSON is repeated, in characters.
const QUOTED: usize = 120;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error("the cookie file cannot be read: {0}")]
    NoCookie(io::Error),
    #[error("HTTP status {status}: {body}")]
    Status { status: u16, body: String },
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer was not complete after {0:?}")]
    TooSlow(Duration),
    #[error("{0}")]
    Broken(String),
    #[error("{0}")]
    NotJson(String),
}

/// Where a node is, from a URL.
#[derive(Debug)]
pub(crate) struct Target {
    uri: Uri,
    auth: Auth,
    /// Without name and password, for people.
    pub(crate) shown: String,
}

impl Target {
    /// Takes a URL apart, of which name and password count where `auth` has none.
    pub(crate) fn new(url: &str, auth: &Auth) -> Result<Self, DaemonError> {
        // Not even a part of the URL is repeated: until it is understood, any part of it may be the password.
        let refused = |reason: String| DaemonError::Url { reason };
        let (inside, rest) = cut_userinfo(url).map_err(|reason| refused(reason.to_owned()))?;
        let uri: Uri = rest.parse().map_err(|error| refused(format!("it is no URL ({error})")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                let reason = "TLS is not spoken here; put a proxy or a tunnel before the node".to_owned();
                return Err(refused(reason));
            }
            _ => return Err(refused("it does not begin with http://".to_owned())),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(refused("it names no host".to_owned()));
        }
        // What stands behind the host is a port, or the library would find out with each request.
        let has_port =
            uri.authority().is_some_and(|authority| !authority.as_str().ends_with(authority.host()));
        if has_port && uri.port_u16().is_none_or(|port| port == 0) {
            return Err(refused("its port is no number from 1 to 65535".to_owned()));
        }
        let auth = match (auth, inside) {
            (Auth::None, Some((user, password))) => Auth::UserPass { user, password },
            _ => auth.clone(),
        };
        Ok(Self { uri, auth, shown: rest.trim_end_matches('/').to_owned() })
    }

    /// How one is let in.
    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }
}

/// What a URL names before the `@`.
type UserInfo = (String, Secret);

/// Cuts `user:password@` out of a URL.
fn cut_userinfo(url: &str) -> Result<(Option<UserInfo>, String), &'static str> {
    let Some((scheme, rest)) = url.split_once("://") else { return Err("it does not begin with http://") };
    // As RFC 3986 has it, the first of these ends the host, and so a name and a password before it.
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if path.contains('@') {
        return Err(
            "it has an @ behind a /, ? or #. In a name or a password write / as %2F, ? as %3F, # as %23, and @ \
                    as %40; in a path write @ as %40",
        );
    }
    let Some((inside, host)) = authority.rsplit_once('@') else { return Ok((None, url.to_owned())) };
    let (user, password) = inside.split_once(':').unwrap_or((inside, ""));
    let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Ok((Some((plain(user), plain(password).into())), format!("{scheme}://{host}{path}")))
}

/// The connections to one node.
#[derive(Debug)]
pub(crate) struct Connections {
    agent: Agent,
    target: Target,
    /// The header `Authorization`, for a cookie as it was when last read.
    authorization: Mutex<Option<Secret>>,
    /// How long the node may send nothing.
    silence: Duration,
}

impl Connections {
    /// To the node at `target`, of which `connections` at most are kept open. The node may send nothing for `silence`.
    pub(crate) fn new(target: Target, connections: usize, silence: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A node is reached as it is named: a proxy for the web is not for it.
            .proxy(None)
            // A slow node that goes on sending is waited for: see `whole`.
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .timeout_connect(Some(CONNECT.min(silence)))
            .max_response_header_size(HEAD_BYTES)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, target, authorization: Mutex::new(None), silence }
    }

    /// Ends the requests that are under way, and refuses further ones.
    pub(super) fn close(&self) {
        self.agent.clone().shutdown();
    }

    fn send(&self, body: &[u8], limit: u64) -> Result<Vec<u8>, TransportError> {
        let authorization = self.authorization()?;
        match self.send_as(authorization.as_ref(), body, limit) {
            // The node may have been started again, and have written another cookie.
            Err(TransportError::Status { status: 401, .. }) if self.forget_cookie() => {
                let fresh = self.authorization()?;
                self.send_as(fresh.as_ref(), body, limit)
            }
            sent => sent,
        }
    }

    fn send_as(
        &self,
        authorization: Option<&Secret>,
        body: &[u8],
        limit: u64,
    ) -> Result<Vec<u8>, TransportError> {
        let whole = self.whole(limit);
        let mut request = self.agent.post(&self.target.uri).content_type("application/json");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization.expose());
        }
        let request = request.config().timeout_global(Some(whole)).build();
        let broken = |error| broken(error, limit, whole);
        let mut response = request.send(body).map_err(broken)?;
        let status = response.status().as_u16();
        let read = response.body_mut().with_config().limit(limit).read_to_vec();
        let bytes = read.map_err(broken)?;
        // An error that the node names comes with status 500 or 404, and as JSON.
        let is_named = status == 200 || serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        if !is_named || matches!(status, 401 | 403) {
            return Err(TransportError::Status { status, body: quote(&bytes) });
        }
        Ok(bytes)
    }

    /// How long an answer of at most `limit` bytes may take, to its last byte.
    fn whole(&self, limit: u64) -> Duration {
        self.silence.saturating_add(Duration::from_secs(limit / SLOWEST))
    }

    fn authorization(&self) -> Result<Option<Secret>, TransportError> {
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if authorization.is_none() {
            *authorization = match &self.target.auth {
                Auth::None => None,
                Auth::UserPass { user, password } => Some(basic(&format!("{user}:{}", password.expose()))),
                Auth::CookieFile(path) => {
                    Some(basic(read_cookie(path).map_err(TransportError::NoCookie)?.expose().trim()))
                }
            };
        }
        Ok(authorization.clone())
    }

    /// Lets the cookie be read again; whether there is one.
    fn forget_cookie(&self) -> bool {
        let is_cookie = matches!(self.target.auth, Auth::CookieFile(_));
        if is_cookie {
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        is_cookie
    }
}

fn basic(credentials: &str) -> Secret {
    format!("Basic {}", BASE64.encode(credentials)).into()
}

fn read_cookie(path: &Path) -> io::Result<Secret> {
    let mut cookie = String::new();
    File::open(path)?.take(COOKIE_BYTES).read_to_string(&mut cookie)?;
    Ok(cookie.into())
}

fn broken(error: ureq::Error, limit: u64, whole: Duration) -> TransportError {
    match error {
        ureq::Error::BodyExceedsLimit(_) => TransportError::TooLong(limit),
        ureq::Error::Timeout(ureq::Timeout::Global) => TransportError::TooSlow(whole),
        ureq::Error::Timeout(_) => TransportError::TimedOut,
        ureq::Error::Io(error) => TransportError::Broken(error.to_string()),
        error => TransportError::Broken(error.to_string()),
    }
}

/// The beginning of an answer, on one line.
fn quote(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(4 * QUOTED)];
    let text = String::from_utf8_lossy(head);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(QUOTED).collect()
}

/// The connections, for answers of at most `limit` bytes.
#[derive(Debug)]
pub(crate) struct Capped {
    pub(crate) connections: Arc<Connections>,
    pub(crate) limit: u64,
}

/// What nodes answer that take no batches, or not such large ones.
#[derive(Deserialize)]
struct Refusal {
    error: RpcError,
}

impl Capped {
    fn post(&self, question: impl Serialize) -> Result<Vec<u8>, jsonrpc::Error> {
        let body = serde_json::to_vec(&question)?;
        let sent = self.connections.send(&body, self.limit);
        sent.map_err(|error| jsonrpc::Error::Transport(error.into()))
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, jsonrpc::Error> {
    serde_json::from_slice(answer).map_err(|error| {
        let words = format!("{error} in \"{}\"", quote(answer));
        jsonrpc::Error::Transport(TransportError::NotJson(words).into())
    })
}

fn read_batch(answer: &[u8]) -> Result<Vec<Response>, jsonrpc::Error> {
    read(answer).map_err(|error| match serde_json::from_slice(answer) {
        Ok(Refusal { error }) => error.into(),
        Err(_) => error,
    })
}

impl jsonrpc::client::Transport for Capped {
    fn send_request(&self, request: Request<'_>) -> Result<Response, jsonrpc::Error> {
        read(&self.post(request)?)
    }

    fn send_batch(&self, requests: &[Request<'_>]) -> Result<Vec<Response>, jsonrpc::Error> {
        read_batch(&self.post(requests)?)
    }

    fn fmt_target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.connections.target.shown)
    }
}

impl Connections {
    /// The node, for people.
    pub(crate) fn url(&self) -> &str {
        &self.target.shown
    }

    /// How one is let in.
    pub(super) fn auth(&self) -> &Auth {
        self.target.auth()
    }
}

/// What a refused way in was, and what to do about it.
pub(super) fn refused(auth: &Auth) -> (String, &'static str) {
    match auth {
        Auth::None => ("a request without name and password".to_owned(), "give --auth USER:PASSWORD"),
        // A name without a password is mostly a token, and so a secret.
        Auth::UserPass { password, .. } if password.expose().is_empty() => (
            "the name without a password that the URL has".to_owned(),
            "give http://USER:PASSWORD@HOST:PORT, or --auth USER:PASSWORD",
        ),
        Auth::UserPass { user, .. } => (
            format!("the name {user:?} with its password"),
            "compare --auth with the node's rpcuser and rpcpassword, or rpcauth",
        ),
        Auth::CookieFile(path) => (
            format!("the cookie in {}", path.display()),
            "give the file .cookie of that very node's data directory",
        ),
    }
}

/// The cookie file, if that is the way in.
pub(super) fn cookie_path(auth: &Auth) -> Option<PathBuf> {
    match auth {
        Auth::CookieFile(path) => Some(path.clone()),
        Auth::None | Auth::UserPass { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, String> {
        Target::new(url, &Auth::None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_may_carry_name_and_password_which_are_never_shown() {
        let found = target("http://alice:p%40ss%2Fy:w@127.0.0.1:8332/").unwrap();
        let expected = Auth::UserPass { user: "alice".to_owned(), password: "p@ss/y:w".into() };
        assert_eq!(found.auth, expected);
        assert_eq!(found.shown, "http://127.0.0.1:8332");
        assert!(!format!("{found:?}").contains("ss/y"), "{found:?}");
        let given = Auth::UserPass { user: "bob".to_owned(), password: "b".into() };
        assert_eq!(Target::new("http://alice:a@host:1", &given).unwrap().auth, given);
        // The last @ ends the password.
        let found = target("http://alice:p@ss@host:1/wallet").unwrap();
        assert_eq!(found.auth, Auth::UserPass { user: "alice".to_owned(), password: "p@ss".into() });
        assert_eq!(found.shown, "http://host:1/wallet");
    }

    #[test]
    fn what_is_no_node_is_refused_in_words_without_the_url() {
        for (url, word) in [
            ("https://alice:secret@host:8332", "TLS"),
            ("host:8332", "http://"),
            ("alice:secret@host:8332", "http://"),
            ("http:/alice:secret@host:8332", "http://"),
            ("ftp://alice:secret@host", "http://"),
            ("http://", "no URL"),
            ("http://alice:secret@ho st:1", "no URL"),
            ("http://alice:se/cret@host:1", "%2F"),
            ("http://alice:se?cret@host:1", "%3F"),
            ("http://alice:se#cret@host:1", "%23"),
            ("http://alice:s@e/cret@host:1", "%2F"),
            ("http://alice:secret@", "no"),
            ("http://alice:secret@host:99999", "port"),
            ("http://alice:secret@host:x", "port"),
            ("http://alice:secret@host:", "port"),
        ] {
            let words = target(url).unwrap_err();
            assert!(words.contains(word) && words.contains("http://HOST:PORT"), "{words}");
            assert!(!words.contains("cret") && !words.contains("alice"), "{words}");
        }
    }

    #[test]
    fn no_debug_output_has_a_password() {
        let secret = "http://alice:hunter2@127.0.0.1:1";
        let connections = Connections::new(target(secret).unwrap(), 1, Duration::from_secs(1));
        let header = connections.authorization().unwrap().unwrap();
        let encoded = header.expose().trim_start_matches("Basic ").to_owned();
        let settings = crate::daemon::Settings {
            auth: Auth::UserPass { user: "alice".to_owned(), password: "hunter2".into() },
            ..crate::daemon::Settings::new(secret)
        };
        let shown = format!("{connections:?} {settings:?} {header:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&encoded), "{shown}");
    }

    #[test]
    fn an_answer_may_take_longer_the_longer_it_may_be() {
        let connections = Connections::new(target("http://host:1").unwrap(), 1, Duration::from_secs(30));
        assert_eq!(connections.whole(1 << 20), Duration::from_secs(30 + 64));
        assert_eq!(connections.whole(u64::MAX).as_secs(), 30 + u64::MAX / SLOWEST);
    }

    #[test]
    fn a_batch_is_answered_or_refused_as_a_whole() {
        let refused = br#"{"result":null,"error":{"code":-32600,"message":"no batches"},"id":null}"#;
        assert!(matches!(read_batch(refused), Err(jsonrpc::Error::Rpc(error)) if error.code == -32600));
        let answered = br#"[{"result":"x","error":null,"id":1}]"#;
        assert_eq!(read_batch(answered).unwrap().len(), 1);
        assert!(matches!(read_batch(b"{}"), Err(jsonrpc::Error::Transport(_))));
    }

    #[test]
    fn answers_are_quoted_on_one_short_line() {
        assert_eq!(quote(b"<html>\n  Bad\tGateway\x1b[1m"), "<html> Bad Gateway[1m");
        assert_eq!(quote(&[b'x'; 5000]).len(), QUOTED);
    }
}
