//! The four questions that a node is asked, and what its errors mean.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{BlockHash, Network};
use jsonrpc::error::RpcError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::batches::Batches;
use super::error::DaemonError;
use super::transport::{Capped, Connections, Target, TransportError, cookie_path, refused};
use super::trouble::{Failure, Trouble};
use cofferdam_base::sync::lock;

/// Longest answer to a question that is not for a block, in bytes: a hundred hashes are some twelve thousand.
const ANSWER_BYTES: u64 = 1 << 20;
/// What an answer has besides the block, in bytes, generously.
const ENVELOPE_BYTES: u64 = 4 << 10;

/// Error codes of Bitcoin Core, from its `rpc/protocol.h`.
mod code {
    pub(super) const MISC_ERROR: i32 = -1;
    pub(super) const INVALID_ADDRESS_OR_KEY: i32 = -5;
    pub(super) const INVALID_PARAMETER: i32 = -8;
    pub(super) const IN_WARMUP: i32 = -28;
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
}

/// A node that answers, or does not.
#[derive(Debug)]
pub(super) struct Client {
    connections: Arc<Connections>,
    questions: jsonrpc::Client,
    blocks: jsonrpc::Client,
    timeout: Duration,
    max_block_bytes: u64,
    batches: Batches,
    /// The methods that the node has answered, be it with an error.
    answered: Mutex<Vec<&'static str>>,
}

/// What `getblockchaininfo` says, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ChainInfo {
    /// The network: `main`, `test`, `testnet4`, `signet`, `regtest`, or another's.
    pub(super) chain: String,
    /// Height of the best block.
    pub(super) blocks: u32,
    /// Height of the best header.
    pub(super) headers: u32,
    /// The best block.
    #[serde(rename = "bestblockhash")]
    pub(super) best: BlockHash,
    /// Whether the node is still in its initial download. Not every node says.
    #[serde(rename = "initialblockdownload", default)]
    pub(super) initial_block_download: bool,
}

impl ChainInfo {
    /// The network, if it is one of Bitcoin's.
    pub(super) fn network(&self) -> Option<Network> {
        Network::from_core_arg(&self.chain).ok()
    }
}

/// Why a block was not had.
#[derive(Debug)]
pub(super) enum NoBlock {
    /// As any request may fail.
    Failed(Failure),
    /// The node no longer has it.
    Pruned,
    /// It is longer than it may be.
    TooLarge,
}

impl Client {
    /// Of the node at `target`, asked by `threads` threads.
    pub(super) fn new(target: Target, threads: usize, timeout: Duration, max_block_bytes: u64) -> Self {
        let connections = Arc::new(Connections::new(target, threads, timeout));
        let capped =
            |limit| jsonrpc::Client::with_transport(Capped { connections: Arc::clone(&connections), limit });
        // A block comes in hexadecimal.
        let block_bytes = max_block_bytes.saturating_mul(2).saturating_add(ENVELOPE_BYTES);
        Self {
            questions: capped(ANSWER_BYTES),
            blocks: capped(block_bytes),
            connections,
            timeout,
            max_block_bytes,
            batches: Batches::default(),
            answered: Mutex::default(),
        }
    }

    /// The node, for people.
    pub(super) fn url(&self) -> &str {
        self.connections.url()
    }

    /// Ends the requests that are under way, and refuses further ones.
    pub(super) fn close(&self) {
        self.connections.close();
    }

    /// Where the node's chain is.
    pub(super) fn chain_info(&self) -> Result<ChainInfo, Failure> {
        self.ask("getblockchaininfo", None)
    }

    /// The best block.
    pub(super) fn best_block_hash(&self) -> Result<BlockHash, Failure> {
        self.ask("getbestblockhash", None)
    }

    /// The block at a height of the best chain.
    pub(super) fn block_hash(&self, height: u32) -> Result<BlockHash, Failure> {
        self.ask("getblockhash", Some(&jsonrpc::arg([height])))
    }

    /// The blocks at consecutive heights of the best chain, in as few requests as the node takes.
    pub(super) fn block_hashes(&self, heights: RangeInclusive<u32>) -> Result<Vec<BlockHash>, Failure> {
        let mut left: Vec<u32> = heights.collect();
        let mut hashes = Vec::with_capacity(left.len());
        while let [first, ..] = *left {
            let size = self.batches.size().min(left.len());
            if size == 1 {
                hashes.push(self.block_hash(first)?);
                left.remove(0);
                continue;
            }
            match self.batch_of_hashes(&left[..size]) {
                Ok(batch) => {
                    self.batches.worked();
                    hashes.extend(batch);
                    left.drain(..size);
                }
                Err(failure) if self.batches.may_be_why(&failure) => {
                    // What fails alone, too, says what is really wrong.
                    hashes.push(self.block_hash(first)?);
                    left.remove(0);
                    let smaller = self.batches.refused(size);
                    tracing::info!(
                        "the node at {} does not answer {size} requests in one batch ({}): it is asked {} from now on",
                        self.url(),
                        failure.words(),
                        if smaller == 1 { "one by one".to_owned() } else { format!("{smaller} at a time") }
                    );
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(hashes)
    }

    fn batch_of_hashes(&self, heights: &[u32]) -> Result<Vec<BlockHash>, Failure> {
        const METHOD: &str = "getblockhash";
        let parameters: Vec<_> = heights.iter().map(|height| jsonrpc::arg([height])).collect();
        let request = |parameter| self.questions.build_request(METHOD, Some(parameter));
        let requests: Vec<_> = parameters.iter().map(|parameter| request(&**parameter)).collect();
        let sent = self.questions.send_batch(&requests);
        let responses = sent.map_err(|error| self.failure(METHOD, error))?;
        self.note_answered(METHOD);
        let hashes = responses.into_iter().map(|response| {
            let response = response.ok_or_else(|| garbled("an answer is missing".to_owned()))?;
            self.result(METHOD, &response)
        });
        hashes.collect()
    }

    /// The bytes of a block, not checked for anything but their number.
    pub(super) fn block(&self, hash: BlockHash) -> Result<Vec<u8>, NoBlock> {
        const METHOD: &str = "getblock";
        let parameters = jsonrpc::try_arg((hash, 0)).map_err(|error| garbled(error.to_string()))?;
        let raw: Box<RawValue> = match self.exchange(&self.blocks, METHOD, Some(&parameters)) {
            Ok(raw) => raw,
            Err(jsonrpc::Error::Rpc(error)) if is_pruned(&error) => return Err(NoBlock::Pruned),
            Err(jsonrpc::Error::Transport(error)) if is_too_long(&*error) => return Err(NoBlock::TooLarge),
            Err(error) => return Err(self.failure(METHOD, error).into()),
        };
        let text: &str = serde_json::from_str(raw.get()).map_err(|error| garbled(error.to_string()))?;
        if text.len() as u64 / 2 > self.max_block_bytes {
            return Err(NoBlock::TooLarge);
        }
        hex::decode(text).map_err(|error| garbled(format!("a block is no hexadecimal: {error}")).into())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        parameters: Option<&RawValue>,
    ) -> Result<T, Failure> {
        let asked = self.exchange(&self.questions, method, parameters);
        asked.map_err(|error| self.failure(method, error))
    }

    /// One request. The answer's `jsonrpc` member is not looked at: nodes differ in it, and most have none.
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
    ) -> Result<T, Failure> {
        response.result().map_err(|error| self.failure(method, error))
    }

    fn note_answered(&self, method: &'static str) {
        let mut answered = lock(&self.answered);
        if !answered.contains(&method) {
            answered.push(method);
        }
    }

    /// What comes of an error.
    fn failure(&self, method: &'static str, error: jsonrpc::Error) -> Failure {
        match error {
            jsonrpc::Error::Rpc(error) => self.rpc_failure(method, error),
            jsonrpc::Error::Transport(error) => match error.downcast::<TransportError>() {
                Ok(error) => self.transport_failure(method, *error),
                Err(error) => garbled(error.to_string()),
            },
            error => garbled(error.to_string()),
        }
    }

    fn rpc_failure(&self, method: &'static str, error: RpcError) -> Failure {
        let RpcError { code, message, .. } = error;
        match code {
            code::IN_WARMUP => Failure::Passing(Trouble::Starting(message)),
            // A height above the tip, or a block that is not there: the chain was another when it was planned.
            code::INVALID_PARAMETER | code::INVALID_ADDRESS_OR_KEY => Failure::Moved,
            code::METHOD_NOT_FOUND => {
                DaemonError::Method { url: self.url().to_owned(), method, code, message }.into()
            }
            _ => Failure::Passing(Trouble::Refused { method, code, message }),
        }
    }

    fn transport_failure(&self, method: &'static str, error: TransportError) -> Failure {
        let url = || self.url().to_owned();
        let auth = self.connections.auth();
        match error {
            TransportError::NoCookie(error) => {
                let path = cookie_path(auth).unwrap_or_default();
                Failure::Passing(Trouble::NoCookie { path, reason: error.to_string() })
            }
            TransportError::Status { status: 401, .. } => match cookie_path(auth) {
                Some(path) => Failure::Passing(Trouble::OldCookie { path }),
                None => self.credentials().into(),
            },
            TransportError::Status { status: 403, .. } => self.forbidden(method).into(),
            TransportError::Status { status: status @ (408 | 425 | 429 | 500..), body } => {
                Failure::Passing(Trouble::Busy { status, body })
            }
            TransportError::Status { status, .. } => DaemonError::NoRpc { url: url(), status }.into(),
            TransportError::TimedOut => Failure::Passing(Trouble::Silent(self.timeout)),
            TransportError::TooSlow(limit) => Failure::Passing(Trouble::Slow(limit)),
            TransportError::Broken(words) => Failure::Passing(Trouble::Unreachable(words)),
            error @ (TransportError::TooLong(_) | TransportError::NotJson(_)) => garbled(error.to_string()),
        }
    }

    /// Why a method is refused with HTTP 403. Bitcoin Core says so, without a word more, to a host that `rpcallowip` lacks
    /// and to a user whose `rpcwhitelist` lacks the method. A host that is not let in has no answer to any method.
    fn forbidden(&self, method: &'static str) -> DaemonError {
        let url = self.url().to_owned();
        let answered = lock(&self.answered);
        match answered.first() {
            Some(other) if !answered.contains(&method) => {
                DaemonError::NotWhitelisted { url, method, answered: other }
            }
            _ => DaemonError::Forbidden { url, method },
        }
    }

    /// The error of someone who is not let in.
    pub(super) fn credentials(&self) -> DaemonError {
        let (what, advice) = refused(self.connections.auth());
        DaemonError::Credentials { url: self.url().to_owned(), what, advice }
    }
}

impl From<Failure> for NoBlock {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn garbled(words: String) -> Failure {
    Failure::Passing(Trouble::Garbled(words))
}

fn is_pruned(error: &RpcError) -> bool {
    error.code == code::MISC_ERROR && error.message.contains("pruned")
}

fn is_too_long(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(TransportError::TooLong(_)))
}
