//! The `jsonrpc` client's transport, with a limit on the length of every answer.

use std::fmt;
use std::sync::Arc;

use jsonrpc::error::RpcError;
use jsonrpc::{Request, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connections::Connections;
use super::error::TransportError;
use super::quote::quote;

/// Sends requests over shared connections, and accepts answers of at most `limit` bytes.
#[derive(Debug)]
pub(crate) struct LimitedTransport {
    pub(crate) connections: Arc<Connections>,
    /// The longest accepted answer, in bytes.
    pub(crate) limit: u64,
}

/// The answer of a node that takes no batches, or no batch of this size: one error for the whole batch.
#[derive(Deserialize)]
struct Refusal {
    error: RpcError,
}

impl LimitedTransport {
    fn post(&self, request: impl Serialize) -> Result<Vec<u8>, jsonrpc::Error> {
        let body = serde_json::to_vec(&request)?;
        let sent = self.connections.send(&body, self.limit);
        sent.map_err(|error| jsonrpc::Error::Transport(error.into()))
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, jsonrpc::Error> {
    serde_json::from_slice(answer).map_err(|error| {
        let reason = format!("{error} in \"{}\"", quote(answer));
        jsonrpc::Error::Transport(TransportError::NotJson(reason).into())
    })
}

fn read_batch(answer: &[u8]) -> Result<Vec<Response>, jsonrpc::Error> {
    read(answer).map_err(|error| match serde_json::from_slice(answer) {
        Ok(Refusal { error }) => error.into(),
        Err(_) => error,
    })
}

impl jsonrpc::client::Transport for LimitedTransport {
    fn send_request(&self, request: Request<'_>) -> Result<Response, jsonrpc::Error> {
        read(&self.post(request)?)
    }

    fn send_batch(&self, requests: &[Request<'_>]) -> Result<Vec<Response>, jsonrpc::Error> {
        read_batch(&self.post(requests)?)
    }

    fn fmt_target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.connections.url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_answered_or_refused_as_a_whole() {
        let refused = br#"{"result":null,"error":{"code":-32600,"message":"no batches"},"id":null}"#;
        assert!(matches!(read_batch(refused), Err(jsonrpc::Error::Rpc(error)) if error.code == -32600));
        let answered = br#"[{"result":"x","error":null,"id":1}]"#;
        assert_eq!(read_batch(answered).unwrap().len(), 1);
        assert!(matches!(read_batch(b"{}"), Err(jsonrpc::Error::Transport(_))));
    }
}
