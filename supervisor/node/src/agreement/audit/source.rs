//! What an audit compares: a node or a store that has chain digests, and what such a source can answer.

use std::time::Duration;

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateError;
use thiserror::Error;

use cofferdam_store::StoreError;

pub use crate::rpc::ChainDigest;

/// A source of chain digests: a node, or a store that a node has written or is writing.
pub trait DigestSource: Sync {
    /// The name of the source in messages.
    fn name(&self) -> &str;

    /// The profile of the results, and the heights that the source has.
    ///
    /// # Errors
    /// [`SourceError`]
    fn info(&self) -> Result<SourceInfo, SourceError>;

    /// The chain digest at `height`.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::BeforeStart`] if the chain begins above `height`.
    fn digest(&self, height: u32) -> Result<ChainDigest, SourceError>;
}

/// What a source says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// The version of the program, if it is known.
    pub version: Option<String>,
    /// What the results depend on.
    pub profile: ProfileInfo,
    /// The first height of the chain.
    pub start_height: u32,
    /// The newest height, if any block is indexed.
    pub tip: Option<u32>,
    /// The network of the blocks, if it is known: `bitcoin`, `testnet`, `testnet4`, `signet` or `regtest`.
    pub network: Option<String>,
}

/// What a source says about its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileInfo {
    /// The hash of the profile.
    pub hash: Hash,
    /// SHA-256 of the module. An older store does not know it.
    pub module: Option<Hash>,
    /// The rest of the profile, if the source tells it.
    pub settings: Option<ProfileSettings>,
}

/// What a profile holds besides the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileSettings {
    /// How many bytes the guest's memory may grow to.
    pub memory_bytes: u64,
    /// The fuel of each block, if fuel is metered.
    pub fuel: Option<u64>,
    /// How many bytes a block may write.
    pub output_bytes: u64,
    /// The engine, its version and its settings.
    pub engine: String,
}

/// Why a source did not answer. The text follows the name of the source: "http://host: …".
#[derive(Error)]
pub enum SourceError {
    /// The node cannot be reached.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// The node took too long to answer.
    #[error("no answer within {}; a longer --timeout may help", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The server answered with an HTTP status, and without JSON-RPC.
    #[error(
        "HTTP status {status} and no JSON-RPC ({body:?}); check that this is the address of a node's JSON-RPC"
    )]
    Status {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The answer is longer than any answer to these methods.
    #[error("the answer is longer than {0} bytes; check that this is the address of a node's JSON-RPC")]
    TooLong(u64),
    /// The answer is not JSON-RPC.
    #[error("the answer to {method} is not JSON-RPC: {reason}")]
    NotRpc {
        /// The method that was called.
        method: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The answer is JSON-RPC, but does not have the result that the method should have.
    #[error("the answer to {method} has a wrong result: {reason}")]
    WrongResult {
        /// The method that was called.
        method: &'static str,
        /// What is wrong with the result.
        reason: String,
    },
    /// The node does not have the method.
    #[error("the node does not know {method}: it is not a Cofferdam node, or its version is too old")]
    NoMethod {
        /// The method that was called.
        method: &'static str,
    },
    /// The node answered with an error.
    #[error("the node refuses {method}: {message} (error {code})")]
    Refused {
        /// The method that was called.
        method: &'static str,
        /// The error's code.
        code: i32,
        /// The error's message.
        message: String,
    },
    /// The chain begins above the height.
    #[error("height {height} is not there: the chain begins at height {start}")]
    BeforeStart {
        /// The requested height.
        height: u32,
        /// The first height.
        start: u32,
    },
    /// The source had the height before, and no longer has it.
    #[error(
        "height {height} is no longer there: a reorganisation rolled it back meanwhile; run the audit again"
    )]
    Gone {
        /// The requested height.
        height: u32,
    },
    /// The store lacks a block between two others.
    #[error(
        "the store has blocks before and after height {height}, but none at it; the store of a node has no gaps"
    )]
    Gap {
        /// The requested height.
        height: u32,
    },
    /// The local store cannot be read.
    #[error(transparent)]
    Store(#[from] StateError),
    /// The local store does not exist, or cannot be opened.
    #[error(transparent)]
    NotReadable(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(SourceError);
