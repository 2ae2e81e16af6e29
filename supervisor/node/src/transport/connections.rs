//! The HTTP connections to one node.

use std::sync::Mutex;
use std::time::Duration;

use ureq::Agent;

use super::auth::Auth;
use super::endpoint::Endpoint;
use super::error::TransportError;
use super::quote::quote;
use cofferdam_base::Secret;
use cofferdam_base::sync::lock;

/// The slowest rate of an answer for which a request waits, in bytes a second. This rate and the length limit of an answer
/// determine the time that the answer may take.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// The longest time that a connection attempt may take. It counts towards the time of the request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest HTTP head of an answer, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// The connections to one node.
#[derive(Debug)]
pub(crate) struct Connections {
    agent: Agent,
    endpoint: Endpoint,
    /// The header `Authorization`. With a cookie file, this is the header for the contents that were read last.
    authorization: Mutex<Option<Secret>>,
    /// How long the node may send nothing.
    silence_timeout: Duration,
}

impl Connections {
    /// Connections to the node at `endpoint`, of which at most `connections` are kept open. The node may send nothing for
    /// `silence_timeout`.
    pub(crate) fn new(endpoint: Endpoint, connections: usize, silence_timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The node is reached directly. A proxy that the environment sets for the web must not be used.
            .proxy(None)
            // A node that is slow but keeps sending is waited for: see `answer_timeout`.
            .timeout_per_read(Some(silence_timeout))
            .timeout_per_write(Some(silence_timeout))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(silence_timeout)))
            .max_response_header_size(HEAD_BYTES)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, endpoint, authorization: Mutex::new(None), silence_timeout }
    }

    /// The URL of the node without credentials, for messages and logs.
    pub(crate) fn url(&self) -> &str {
        &self.endpoint.display_url
    }

    /// How requests authenticate.
    pub(crate) fn auth(&self) -> &Auth {
        &self.endpoint.auth
    }

    /// Ends the requests that are under way, and refuses further ones.
    pub(crate) fn close(&self) {
        self.agent.clone().shutdown();
    }

    /// Sends one request, and returns the body of the answer, of at most `limit` bytes.
    pub(super) fn send(&self, body: &[u8], limit: u64) -> Result<Vec<u8>, TransportError> {
        let authorization = self.authorization()?;
        match self.send_as(authorization.as_ref(), body, limit) {
            // The node may have been restarted, and have written another cookie.
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
        let timeout = self.answer_timeout(limit);
        let mut request = self.agent.post(&self.endpoint.uri).content_type("application/json");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization.expose());
        }
        let request = request.config().timeout_global(Some(timeout)).build();
        let transport_error = |error| transport_error(error, limit, timeout);
        let mut response = request.send(body).map_err(transport_error)?;
        let status = response.status().as_u16();
        let read = response.body_mut().with_config().limit(limit).read_to_vec();
        let bytes = read.map_err(transport_error)?;
        // A node sends its own errors with status 500 or 404, and as JSON.
        let is_json = status == 200 || serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        if !is_json || matches!(status, 401 | 403) {
            return Err(TransportError::Status { status, body: quote(&bytes) });
        }
        Ok(bytes)
    }

    /// How long an answer of at most `limit` bytes may take, to its last byte.
    fn answer_timeout(&self, limit: u64) -> Duration {
        self.silence_timeout.saturating_add(Duration::from_secs(limit / SLOWEST_BYTES_PER_SECOND))
    }

    fn authorization(&self) -> Result<Option<Secret>, TransportError> {
        let mut authorization = lock(&self.authorization);
        if authorization.is_none() {
            *authorization = self.endpoint.auth.header()?;
        }
        Ok(authorization.clone())
    }

    /// Drops the stored cookie, so that the next request reads the cookie file again. Returns whether a cookie is used.
    fn forget_cookie(&self) -> bool {
        let is_cookie = matches!(self.endpoint.auth, Auth::CookieFile(_));
        if is_cookie {
            *lock(&self.authorization) = None;
        }
        is_cookie
    }
}

fn transport_error(error: ureq::Error, limit: u64, timeout: Duration) -> TransportError {
    match error {
        ureq::Error::BodyExceedsLimit(_) => TransportError::TooLong(limit),
        ureq::Error::Timeout(ureq::Timeout::Global) => TransportError::TooSlow(timeout),
        ureq::Error::Timeout(_) => TransportError::TimedOut,
        ureq::Error::Io(error) => TransportError::Broken(error.to_string()),
        error => TransportError::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(url: &str, silence_timeout: Duration) -> Connections {
        Connections::new(Endpoint::parse(url, &Auth::None).unwrap(), 1, silence_timeout)
    }

    #[test]
    fn no_debug_output_has_a_password() {
        let connections = connections("http://alice:hunter2@127.0.0.1:1", Duration::from_secs(1));
        let header = connections.authorization().unwrap().unwrap();
        let encoded = header.expose().trim_start_matches("Basic ").to_owned();
        let auth = Auth::UserPass { user: "alice".to_owned(), password: "hunter2".into() };
        let shown = format!("{connections:?} {auth:?} {header:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(&encoded), "{shown}");
    }

    #[test]
    fn a_longer_answer_may_take_longer() {
        let connections = connections("http://host:1", Duration::from_secs(30));
        assert_eq!(connections.answer_timeout(1 << 20), Duration::from_secs(30 + 64));
        assert_eq!(connections.answer_timeout(u64::MAX).as_secs(), 30 + u64::MAX / SLOWEST_BYTES_PER_SECOND);
    }
}
