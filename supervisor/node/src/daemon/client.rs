//! The four methods that the follower calls on the node, and the meaning of the node's errors.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{BlockHash, Network};
use jsonrpc::error::RpcError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::batch_limit::BatchLimit;
use super::error::DaemonError;
use super::transient::{RequestFailure, TransientError};
use crate::transport::{Connections, Endpoint, LimitedTransport, TransportError};
use cofferdam_base::sync::lock;

/// The longest accepted answer without a block, in bytes. A hundred hashes take about twelve thousand.
const ANSWER_BYTES: u64 = 1 << 20;
/// A generous bound on what an answer holds apart from the block, in bytes.
const ENVELOPE_BYTES: u64 = 4 << 10;

/// Error codes of Bitcoin Core, from its `rpc/protocol.h`.
mod code {
    pub(super) const MISC_ERROR: i32 = -1;
    pub(super) const INVALID_ADDRESS_OR_KEY: i32 = -5;
    pub(super) const INVALID_PARAMETER: i32 = -8;
    pub(super) const IN_WARMUP: i32 = -28;
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
}

/// The JSON-RPC client of one Bitcoin node.
#[derive(Debug)]
pub(super) struct Client {
    connections: Arc<Connections>,
    /// For answers without a block.
    short_answers: jsonrpc::Client,
    /// For answers with a block.
    block_answers: jsonrpc::Client,
    silence_timeout: Duration,
    max_block_bytes: u64,
    batch_limit: BatchLimit,
    /// The methods that the node has answered, with a result or with an error.
    answered: Mutex<Vec<&'static str>>,
}

/// The fields of `getblockchaininfo` that the follower uses.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ChainInfo {
    /// The name of the network: `main`, `test`, `testnet4`, `signet`, `regtest`, or the name of a network that is not
    /// Bitcoin's.
    pub(super) chain: String,
    /// The height of the best block.
    pub(super) blocks: u32,
    /// The height of the best header.
    pub(super) headers: u32,
    /// The hash of the best block.
    #[serde(rename = "bestblockhash")]
    pub(super) best: BlockHash,
    /// Whether the node is still in its initial block download. Not every node reports this.
    #[serde(rename = "initialblockdownload", default)]
    pub(super) initial_block_download: bool,
}

impl ChainInfo {
    /// The network, if it is one of Bitcoin's.
    pub(super) fn network(&self) -> Option<Network> {
        Network::from_core_arg(&self.chain).ok()
    }
}

/// Why a block could not be fetched.
#[derive(Debug)]
pub(super) enum FetchError {
    /// The request failed, as any request may.
    Failed(RequestFailure),
    /// The node has pruned the block.
    Pruned,
    /// The block is longer than the limit.
    TooLarge,
}

impl Client {
    /// A client of the node at `endpoint`, for `threads` threads.
    pub(super) fn new(
        endpoint: Endpoint,
        threads: usize,
        silence_timeout: Duration,
        max_block_bytes: u64,
    ) -> Self {
        let connections = Arc::new(Connections::new(endpoint, threads, silence_timeout));
        let client = |limit| {
            let connections = Arc::clone(&connections);
            jsonrpc::Client::with_transport(LimitedTransport { connections, limit })
        };
        // A block arrives in hexadecimal: two characters a byte.
        let block_answer_bytes = max_block_bytes.saturating_mul(2).saturating_add(ENVELOPE_BYTES);
        Self {
            short_answers: client(ANSWER_BYTES),
            block_answers: client(block_answer_bytes),
            connections,
            silence_timeout,
            max_block_bytes,
            batch_limit: BatchLimit::default(),
            answered: Mutex::default(),
        }
    }

    /// The URL of the node without credentials, for messages and logs.
    pub(super) fn url(&self) -> &str {
        self.connections.url()
    }

    /// Ends the requests that are under way, and refuses further ones.
    pub(super) fn close(&self) {
        self.connections.close();
    }

    /// Asks for the network, the best block and the best header of the node.
    pub(super) fn chain_info(&self) -> Result<ChainInfo, RequestFailure> {
        self.call("getblockchaininfo", None)
    }

    /// Asks for the hash of the best block.
    pub(super) fn best_block_hash(&self) -> Result<BlockHash, RequestFailure> {
        self.call("getbestblockhash", None)
    }

    /// Asks for the hash of the block at a height of the best chain.
    pub(super) fn block_hash(&self, height: u32) -> Result<BlockHash, RequestFailure> {
        self.call("getblockhash", Some(&jsonrpc::arg([height])))
    }

    /// Asks for the hashes of the blocks at consecutive heights of the best chain, in batches as large as the node accepts.
    pub(super) fn block_hashes(
        &self,
        heights: RangeInclusive<u32>,
    ) -> Result<Vec<BlockHash>, RequestFailure> {
        let mut left: Vec<u32> = heights.collect();
        let mut hashes = Vec::with_capacity(left.len());
        while let [first, ..] = *left {
            let size = self.batch_limit.size().min(left.len());
            if size == 1 {
                hashes.push(self.block_hash(first)?);
                left.remove(0);
                continue;
            }
            match self.batch_of_hashes(&left[..size]) {
                Ok(batch) => {
                    self.batch_limit.accepted();
                    hashes.extend(batch);
                    left.drain(..size);
                }
                Err(failure) if self.batch_limit.may_explain(&failure) => {
                    // If a single request fails, too, the batch was not the reason, and the error of the single request is
                    // returned.
                    hashes.push(self.block_hash(first)?);
                    left.remove(0);
                    let smaller = self.batch_limit.lower(size);
                    tracing::info!(
                        "the node at {} does not answer {size} requests in one batch ({}): from now on requests are sent {}",
                        self.url(),
                        failure.describe(),
                        if smaller == 1 { "one by one".to_owned() } else { format!("{smaller} at a time") }
                    );
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(hashes)
    }

    fn batch_of_hashes(&self, heights: &[u32]) -> Result<Vec<BlockHash>, RequestFailure> {
        const METHOD: &str = "getblockhash";
        let parameters: Vec<_> = heights.iter().map(|height| jsonrpc::arg([height])).collect();
        let request = |parameter| self.short_answers.build_request(METHOD, Some(parameter));
        let requests: Vec<_> = parameters.iter().map(|parameter| request(&**parameter)).collect();
        let sent = self.short_answers.send_batch(&requests);
        let responses = sent.map_err(|error| self.failure(METHOD, error))?;
        self.note_answered(METHOD);
        let hashes = responses.into_iter().map(|response| {
            let response = response.ok_or_else(|| malformed("an answer is missing".to_owned()))?;
            self.result(METHOD, &response)
        });
        hashes.collect()
    }

    /// Fetches the bytes of a block. Only their number is checked.
    pub(super) fn block(&self, hash: BlockHash) -> Result<Vec<u8>, FetchError> {
        const METHOD: &str = "getblock";
        let parameters = jsonrpc::try_arg((hash, 0)).map_err(|error| malformed(error.to_string()))?;
        let raw: Box<RawValue> = match self.exchange(&self.block_answers, METHOD, Some(&parameters)) {
            Ok(raw) => raw,
            Err(jsonrpc::Error::Rpc(error)) if is_pruned(&error) => return Err(FetchError::Pruned),
            Err(jsonrpc::Error::Transport(error)) if is_too_long(&*error) => {
                return Err(FetchError::TooLarge);
            }
            Err(error) => return Err(self.failure(METHOD, error).into()),
        };
        let text: &str = serde_json::from_str(raw.get()).map_err(|error| malformed(error.to_string()))?;
        if text.len() as u64 / 2 > self.max_block_bytes {
            return Err(FetchError::TooLarge);
        }
        hex::decode(text).map_err(|error| malformed(format!("a block is not hexadecimal: {error}")).into())
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        parameters: Option<&RawValue>,
    ) -> Result<T, RequestFailure> {
        let result = self.exchange(&self.short_answers, method, parameters);
        result.map_err(|error| self.failure(method, error))
    }

    /// Sends one request. The member `jsonrpc` of the answer is ignored: nodes differ in it, and most send none.
    fn exchange<T: DeserializeOwned>(
        &self,
        client: &jsonrpc::Client,
        method: &'static str,
        parameters: Option<&RawValue>,
    ) -> Result<T, jsonrpc::Error> {
        let request = client.build_request(method, parameters);
        let id = request.id.clone();
        let response = client.send_request(request)?;
        self.note_answered(method);
        if response.error.is_none() && response.id != id {
            return Err(jsonrpc::Error::NonceMismatch);
        }
        response.result()
    }

    fn result<T: DeserializeOwned>(
        &self,
        method: &'static str,
        response: &jsonrpc::Response,
    ) -> Result<T, RequestFailure> {
        response.result().map_err(|error| self.failure(method, error))
    }

    fn note_answered(&self, method: &'static str) {
        let mut answered = lock(&self.answered);
        if !answered.contains(&method) {
            answered.push(method);
        }
    }

    /// Converts an error of a request. The result says what the follower does about the error.
    fn failure(&self, method: &'static str, error: jsonrpc::Error) -> RequestFailure {
        match error {
            jsonrpc::Error::Rpc(error) => self.rpc_failure(method, error),
            jsonrpc::Error::Transport(error) => match error.downcast::<TransportError>() {
                Ok(error) => self.transport_failure(method, *error),
                Err(error) => malformed(error.to_string()),
            },
            error => malformed(error.to_string()),
        }
    }

    fn rpc_failure(&self, method: &'static str, error: RpcError) -> RequestFailure {
        let RpcError { code, message, .. } = error;
        match code {
            code::IN_WARMUP => transient(TransientError::Starting(message)),
            // The height is above the tip, or the block does not exist: the chain has changed since the request was planned.
            code::INVALID_PARAMETER | code::INVALID_ADDRESS_OR_KEY => RequestFailure::ChainMoved,
            code::METHOD_NOT_FOUND => {
                DaemonError::Method { url: self.url().to_owned(), method, code, message }.into()
            }
            _ => transient(TransientError::Refused { method, code, message }),
        }
    }

    fn transport_failure(&self, method: &'static str, error: TransportError) -> RequestFailure {
        let url = || self.url().to_owned();
        let auth = self.connections.auth();
        match error {
            TransportError::NoCookie(error) => {
                let path = auth.cookie_path().unwrap_or_default();
                transient(TransientError::NoCookie { path, reason: error.to_string() })
            }
            TransportError::Status { status: 401, .. } => match auth.cookie_path() {
                Some(path) => transient(TransientError::OldCookie { path }),
                None => self.credentials_error().into(),
            },
            TransportError::Status { status: 403, .. } => self.forbidden_error(method).into(),
            TransportError::Status { status: status @ (408 | 425 | 429 | 500..), body } => {
                transient(TransientError::Busy { status, body })
            }
            TransportError::Status { status, .. } => DaemonError::NoRpc { url: url(), status }.into(),
            TransportError::TimedOut => transient(TransientError::Silent(self.silence_timeout)),
            TransportError::TooSlow(limit) => transient(TransientError::Slow(limit)),
            TransportError::Broken(reason) => transient(TransientError::Unreachable(reason)),
            error @ (TransportError::TooLong(_) | TransportError::NotJson(_)) => malformed(error.to_string()),
        }
    }

    /// The error for HTTP status 403. Bitcoin Core sends this status, without an explanation, to a host that `rpcallowip`
    /// lacks, and to a user whose `rpcwhitelist` lacks the method. A host that `rpcallowip` lacks gets no answer to any method.
    fn forbidden_error(&self, method: &'static str) -> DaemonError {
        let url = self.url().to_owned();
        let answered = lock(&self.answered);
        match answered.first() {
            Some(other) if !answered.contains(&method) => {
                DaemonError::NotWhitelisted { url, method, answered: other }
            }
            _ => DaemonError::Forbidden { url, method },
        }
    }

    /// The error for credentials that the node refuses.
    pub(super) fn credentials_error(&self) -> DaemonError {
        let (what, advice) = self.connections.auth().refusal();
        DaemonError::Credentials { url: self.url().to_owned(), what, advice }
    }
}

impl From<RequestFailure> for FetchError {
    fn from(failure: RequestFailure) -> Self {
        Self::Failed(failure)
    }
}

fn transient(error: TransientError) -> RequestFailure {
    RequestFailure::Transient(error)
}

fn malformed(reason: String) -> RequestFailure {
    transient(TransientError::Malformed(reason))
}

fn is_pruned(error: &RpcError) -> bool {
    error.code == code::MISC_ERROR && error.message.contains("pruned")
}

fn is_too_long(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(TransportError::TooLong(_)))
}
