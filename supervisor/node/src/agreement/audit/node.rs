//! What is asked of a node, and what it can answer.

use std::time::Duration;

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateError;
use thiserror::Error;

use cofferdam_store::StoreError;

pub use crate::rpc::ChainDigest;

/// A node, or a store that one has left or is writing.
pub trait Node: Sync {
    /// What it is called in messages.
    fn name(&self) -> &str;

    /// Whose results it has, and of which heights.
    ///
    /// # Errors
    /// [`NodeError`]
    fn about(&self) -> Result<About, NodeError>;

    /// The chain's digest at `height`.
    ///
    /// # Errors
    /// [`NodeError`]; [`NodeError::BeforeStart`] if its chain begins above.
    fn digest(&self, height: u32) -> Result<ChainDigest, NodeError>;
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The program's version, where that is known.
    pub version: Option<String>,
    /// What its results depend on.
    pub profile: AboutProfile,
    /// The first height of its chain.
    pub start_height: u32,
    /// The newest height, if there is any.
    pub tip: Option<u32>,
    /// The network that its blocks are of, where that is known: `bitcoin`, `testnet`, `testnet4`, `signet` or `regtest`.
    pub network: Option<String>,
}

/// What a node says of its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutProfile {
    /// The profile's hash.
    pub hash: Hash,
    /// SHA-256 of the module. A store does not know it.
    pub module: Option<Hash>,
    /// The rest of the profile, of nodes that tell.
    pub terms: Option<Terms>,
}

/// What a profile has beside the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of memory that a guest may grow to.
    pub memory_bytes: u64,
    /// Fuel for each block, if it is metered.
    pub fuel: Option<u64>,
    /// Bytes that a block may write.
    pub output_bytes: u64,
    /// Engine, version and settings.
    pub engine: String,
}

/// Why a node did not answer a question.
#[derive(Error)]
pub enum NodeError {
    /// There is no way to it.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It takes too long.
    #[error("no answer within {}; a longer --timeout may help", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// HTTP, and nothing of JSON-RPC.
    #[error("HTTP status {status} and no JSON-RPC ({body:?}); is that the address of a node's JSON-RPC?")]
    Status {
        /// The status.
        status: u16,
        /// How the answer begins.
        body: String,
    },
    /// A longer answer than any of these questions has.
    #[error("its answer is longer than {0} bytes; is that the address of a node's JSON-RPC?")]
    TooLong(u64),
    /// Not JSON-RPC.
    #[error("its answer to {method} is no JSON-RPC: {reason}")]
    NotRpc {
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// JSON-RPC, and not the result that the method has.
    #[error("its answer to {method} is not what that should be: {reason}")]
    Garbled {
        /// What was asked.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It has no digests.
    #[error("it does not know {method}: it is no node of this program, or one that is too old")]
    NoMethod {
        /// What was asked.
        method: &'static str,
    },
    /// It says why not.
    #[error("it refuses {method}: {message} (error {code})")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// The error's code.
        code: i32,
        /// The error's message.
        message: String,
    },
    /// Its chain does not reach so far down.
    #[error("it has no height {height}: its chain begins at height {start}")]
    BeforeStart {
        /// The height that was asked for.
        height: u32,
        /// The first one.
        start: u32,
    },
    /// It had the height, and has it no more.
    #[error("it no longer has height {height}: a reorganisation took blocks away meanwhile; ask again")]
    Gone {
        /// The height that was asked for.
        height: u32,
    },
    /// A store of blocks that do not follow each other.
    #[error("it has no block at height {height}, though it has some before and after: nodes leave no gaps")]
    Gap {
        /// The height that was asked for.
        height: u32,
    },
    /// The own store cannot be read.
    #[error(transparent)]
    Store(#[from] StateError),
    /// The own store is not there, or cannot be opened.
    #[error(transparent)]
    NotReadable(#[from] StoreError),
}

cofferdam_protocol::debug_as_display!(NodeError);
