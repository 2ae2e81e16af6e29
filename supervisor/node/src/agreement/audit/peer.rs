//! A node that an audit queries over JSON-RPC.

use std::sync::Arc;
use std::time::Duration;

use jsonrpc::error::RpcError;
use serde::de::DeserializeOwned;

use super::answer::{DIGEST, DigestResult, INFO, InfoResult, Reason, plain};
use super::source::{ChainDigest, DigestSource, SourceError, SourceInfo};
use crate::transport::{Auth, Connections, Endpoint, LimitedTransport, TransportError};

/// The longest accepted answer, in bytes. The answers have a few hundred bytes.
const ANSWER_BYTES: u64 = 64 << 10;
/// The code of an unknown method (JSON-RPC 2.0, section 5.1).
const METHOD_NOT_FOUND: i32 = -32601;

/// A node at a URL.
#[derive(Debug)]
pub struct Peer {
    name: String,
    client: jsonrpc::Client,
    timeout: Duration,
}

impl Peer {
    /// The node at `url`, which may hold a name and a password for a proxy in front of the node. One call may take `timeout`.
    ///
    /// # Errors
    /// What is wrong with the URL, without the URL itself.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, String> {
        let endpoint = Endpoint::parse(url, &Auth::None)?;
        let name = endpoint.display_url.clone();
        let connections = Arc::new(Connections::new(endpoint, 1, timeout));
        let client = jsonrpc::Client::with_transport(LimitedTransport { connections, limit: ANSWER_BYTES });
        Ok(Self { name, client, timeout })
    }

    /// Calls `method`, with the parameter `height` if there is one.
    fn call<T: DeserializeOwned>(&self, method: &'static str, height: Option<u32>) -> Result<T, SourceError> {
        let parameters = height.map(|height| jsonrpc::arg([height]));
        let request = self.client.build_request(method, parameters.as_deref());
        let id = request.id.clone();
        let response = self.client.send_request(request).map_err(|error| self.failure(method, error))?;
        if let Some(error) = response.error {
            return Err(refused(method, height, error));
        }
        if response.id != id {
            return Err(SourceError::NotRpc { method, reason: "it answers another request".to_owned() });
        }
        response.result().map_err(|error| {
            let jsonrpc::Error::Json(error) = error else { return self.failure(method, error) };
            SourceError::WrongResult { method, reason: plain(&error.to_string()) }
        })
    }

    fn failure(&self, method: &'static str, error: jsonrpc::Error) -> SourceError {
        let error = match error {
            jsonrpc::Error::Transport(error) => error,
            error => return SourceError::NotRpc { method, reason: plain(&error.to_string()) },
        };
        match error.downcast::<TransportError>().map(|error| *error) {
            Ok(TransportError::TimedOut) => SourceError::TimedOut(self.timeout),
            Ok(TransportError::Status { status, body }) => SourceError::Status { status, body },
            Ok(TransportError::TooLong(limit)) => SourceError::TooLong(limit),
            Ok(TransportError::NotJson(reason)) => SourceError::NotRpc { method, reason },
            Ok(error) => SourceError::Unreachable(error.to_string()),
            Err(error) => SourceError::Unreachable(error.to_string()),
        }
    }
}

fn refused(method: &'static str, height: Option<u32>, error: RpcError) -> SourceError {
    let RpcError { code, message, data } = error;
    let reason: Reason = data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
    match (reason.reason.as_str(), reason.start, height) {
        ("before-start", Some(start), Some(height)) => SourceError::BeforeStart { height, start },
        ("not-yet" | "nothing-indexed" | "abandoned", _, Some(height)) => SourceError::Gone { height },
        _ if code == METHOD_NOT_FOUND => SourceError::NoMethod { method },
        _ => SourceError::Refused { method, code, message: plain(&message) },
    }
}

impl DigestSource for Peer {
    fn name(&self) -> &str {
        &self.name
    }

    fn info(&self) -> Result<SourceInfo, SourceError> {
        let info: InfoResult = self.call(INFO, None)?;
        info.decode().map_err(|reason| SourceError::WrongResult { method: INFO, reason })
    }

    fn digest(&self, height: u32) -> Result<ChainDigest, SourceError> {
        let digest: DigestResult = self.call(DIGEST, Some(height))?;
        digest.decode(height).map_err(|reason| SourceError::WrongResult { method: DIGEST, reason })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A server that gives one connection this answer to any request, and then closes it.
    fn answering(answer: Vec<u8>) -> (Peer, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::new(&format!("http://{}", listener.local_addr().unwrap()), Duration::from_secs(30));
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                let mut part = [0; 1024];
                let length = stream.read(&mut part).unwrap();
                assert_ne!(length, 0, "the request ends with its body");
                asked.extend_from_slice(&part[..length]);
            }
            // A client that stops reading closes the connection early.
            let _ = stream.write_all(&answer);
            let _ = stream.shutdown(Shutdown::Write);
        };
        (peer.unwrap(), thread::spawn(serve))
    }

    fn http(status: &str, body: &str) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    fn info_error(answer: Vec<u8>) -> SourceError {
        let (peer, thread) = answering(answer);
        let error = peer.info().unwrap_err();
        thread.join().unwrap();
        error
    }

    fn digest(body: &str) -> Result<ChainDigest, SourceError> {
        let (peer, thread) = answering(http("200 OK", body));
        let digest = peer.digest(7);
        thread.join().unwrap();
        digest
    }

    #[test]
    fn a_wrong_url_is_refused() {
        for (url, part) in [("https://host", "TLS"), ("host:1", "http://"), ("http://", "not a URL")] {
            let error = Peer::new(url, Duration::from_secs(1)).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
        }
        let peer = Peer::new("http://me:secret@host:1/rpc/", Duration::from_secs(1)).unwrap();
        assert_eq!(peer.name(), "http://host:1/rpc");
    }

    #[test]
    fn an_unreachable_node_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Peer::new(&url, Duration::from_secs(30)).unwrap().info().unwrap_err();
        assert!(matches!(error, SourceError::Unreachable(_)), "{error}");
    }

    #[test]
    fn a_silent_node_is_reported_after_the_timeout() {
        // The kernel accepts the connection, and nobody answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let timeout = Duration::from_millis(50);
        let peer = Peer::new(&format!("http://{}", listener.local_addr().unwrap()), timeout).unwrap();
        let error = peer.info().unwrap_err();
        assert!(matches!(error, SourceError::TimedOut(waited) if waited == timeout), "{error}");
        assert!(error.to_string().contains("no answer within 50ms"), "{error}");
    }

    #[test]
    fn an_answer_that_is_not_json_rpc_is_reported() {
        let error = info_error(http("404 Not Found", "<html>\nno such page"));
        assert!(
            matches!(&error, SourceError::Status { status: 404, body } if body.contains("no such page")),
            "{error}"
        );
        assert!(matches!(info_error(http("200 OK", "hello")), SourceError::NotRpc { method: INFO, .. }));
        assert!(matches!(info_error(http("200 OK", "[]")), SourceError::NotRpc { method: INFO, .. }));
        let error = info_error(http("200 OK", r#"{"jsonrpc":"2.0","id":"mine","result":{}}"#));
        assert!(error.to_string().contains("another request"), "{error}");
        let error = info_error(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());
        assert!(matches!(error, SourceError::Unreachable(_)), "{error:?}");
        let error = info_error(b"SSH-2.0-OpenSSH_9\r\n".to_vec());
        assert!(matches!(error, SourceError::Unreachable(_)), "{error:?}");
    }

    #[test]
    fn an_answer_is_not_read_beyond_its_limit() {
        let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{}"}}"#, "x".repeat(1 << 20));
        let error = info_error(http("200 OK", &long));
        assert!(matches!(error, SourceError::TooLong(ANSWER_BYTES)), "{error:?}");
    }

    #[test]
    fn results_and_refusals_are_distinguished() {
        let (block, hash) = ("00".repeat(32), "11".repeat(32));
        let good = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"height":7,"block":"{block}","digest":"{hash}"}}}}"#
        );
        assert_eq!(digest(&good).unwrap().digest.0, [0x11; 32]);
        let error = digest(r#"{"jsonrpc":"2.0","id":1,"result":null}"#).unwrap_err();
        assert!(matches!(error, SourceError::WrongResult { method: DIGEST, .. }), "{error:?}");
        let refusal = |code: i32, data: &str| {
            let error = format!(r#"{{"code":{code},"message":"no\u001b[1m","data":{data}}}"#);
            digest(&format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#)).unwrap_err()
        };
        let error = refusal(-32003, r#"{"reason":"before-start","start":9}"#);
        assert!(matches!(error, SourceError::BeforeStart { height: 7, start: 9 }), "{error:?}");
        for reason in ["not-yet", "nothing-indexed", "abandoned"] {
            let error = refusal(-32003, &format!(r#"{{"reason":"{reason}"}}"#));
            assert!(matches!(error, SourceError::Gone { height: 7 }), "{error:?}");
        }
        assert!(matches!(refusal(-32601, "null"), SourceError::NoMethod { method: DIGEST }));
        let error = refusal(-32001, r#"{"reason":"saturated"}"#);
        assert_eq!(error.to_string(), "the node refuses cofferdam_digest: no[1m (error -32001)");
        assert!(matches!(refusal(-1, "[]"), SourceError::Refused { code: -1, .. }));
    }
}
