//! The interface between the JSON-RPC server and the node. With it, the server needs neither a pool nor a store.

use std::future::Future;
use std::time::Duration;

use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use serde_json::Value;
use thiserror::Error;

use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::{BlockHash, Network};

/// Which state a call reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAt {
    /// The state after the newest indexed block at the moment of the call.
    Latest,
    /// The state after the block at this height.
    Height(u32),
}

/// A node that answers JSON-RPC calls.
///
/// The server drops the future of a call when its client disconnects, or when the call takes too long. The methods without a
/// future read the store, and may wait for the disk. The server calls them on a thread that may block.
pub trait Backend: Send + Sync + 'static {
    /// Runs the module's export `function` on `input`, and returns the bytes that the export returns.
    ///
    /// # Errors
    /// [`CallError`]
    fn view(
        &self,
        function: String,
        input: Vec<u8>,
        at: StateAt,
    ) -> impl Future<Output = Result<Vec<u8>, CallError>> + Send;

    /// Runs `block` on the state `at`, and then the view `function` on the state after the block. Nothing is stored.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::NotEnabled`] if the node does not allow previews.
    fn preview(
        &self,
        block: Vec<u8>,
        function: String,
        input: Vec<u8>,
        at: StateAt,
    ) -> impl Future<Output = Result<Vec<u8>, CallError>> + Send;

    /// The newest indexed height, if any block is indexed.
    ///
    /// # Errors
    /// [`CallError`]
    fn height(&self) -> Result<Option<u32>, CallError>;

    /// The hash of the indexed block.
    ///
    /// # Errors
    /// [`CallError`]
    fn block_hash(&self, at: StateAt) -> Result<BlockHash, CallError>;

    /// The root over the whole state: the root of the state tree or, without a tree, the chain's digest.
    ///
    /// # Errors
    /// [`CallError`]
    fn state_root(&self, at: StateAt) -> Result<[u8; 32], CallError>;

    /// The chain's digest, and the last block that the digest covers. Two nodes agree on everything up to a height if, and only
    /// if, their digests at that height are equal.
    ///
    /// # Errors
    /// [`CallError`]
    fn digest(&self, at: StateAt) -> Result<ChainDigest, CallError>;

    /// Figures about the store.
    ///
    /// # Errors
    /// [`CallError`]
    fn figures(&self) -> Result<StoreFigures, CallError>;

    /// A proof, against the state root `at`, of the value under `key`, or of the absence of a value.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::NotEnabled`] if the node keeps no state tree.
    fn proof(&self, key: Vec<u8>, at: StateAt) -> Result<Value, CallError>;

    /// What this node is, and how far it has indexed.
    ///
    /// # Errors
    /// [`CallError`]
    fn info(&self) -> Result<NodeInfo, CallError>;
}

/// The chain's digest at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainDigest {
    /// The height of the last block that the digest covers.
    pub height: u32,
    /// The hash of that block.
    pub block: BlockHash,
    /// The digest.
    pub digest: Hash,
}

/// Figures about a store, for `metashrew_snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFigures {
    /// The newest indexed height, if any block is indexed.
    pub indexed_height: Option<u32>,
    /// The height that is indexed next.
    pub next_height: u32,
    /// How many versions of values the store holds.
    pub entries: u64,
    /// How many bytes the store takes on disk, if that is known.
    pub storage_bytes: Option<u64>,
    /// How many blocks this process has indexed.
    pub blocks: u64,
}

/// Facts about a node, for `cofferdam_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The program's version.
    pub version: String,
    /// The profile: everything that the results depend on.
    pub profile: Profile,
    /// The network of the blocks, once it is known.
    pub network: Option<Network>,
    /// The first height that this node indexes.
    pub start_height: u32,
    /// The height and the hash of the newest indexed block, if any block is indexed.
    pub tip: Option<(u32, BlockHash)>,
    /// The newest height of the Bitcoin node, if it has answered yet.
    pub daemon_height: Option<u32>,
}

impl NodeInfo {
    /// How many blocks of the Bitcoin node are not indexed yet, if that is known.
    pub fn lag(&self) -> Option<u32> {
        let next = self.tip.map_or(self.start_height, |(height, _)| height.saturating_add(1));
        // Both are numbers of blocks: the chain up to height h has h + 1 blocks.
        Some(self.daemon_height?.saturating_add(1).saturating_sub(next))
    }
}

/// Why a call has no result. The table in the [module](super) has the codes that clients receive.
#[derive(Clone, Error, PartialEq, Eq)]
pub enum CallError {
    /// No block is indexed yet.
    #[error("no block is indexed yet")]
    NothingIndexed,
    /// The height is above the newest indexed height.
    #[error("height {height} is not indexed yet: the newest indexed height is {tip}")]
    NotYet {
        /// The requested height.
        height: u32,
        /// The newest indexed height.
        tip: u32,
    },
    /// The height is below the first height of this node.
    #[error("height {height} is not indexed: this node starts at height {start}")]
    BeforeStart {
        /// The requested height.
        height: u32,
        /// The first height that this node indexes.
        start: u32,
    },
    /// A reorganisation rolled the block back while the call ran.
    #[error(
        "the block at height {height} was abandoned by a reorganisation while the call ran: repeat the call"
    )]
    Abandoned {
        /// The requested height.
        height: u32,
    },
    /// The guest failed. Every node gives the same verdict for the same call.
    #[error("{}: {detail}", verdict.name())]
    Guest {
        /// The verdict.
        verdict: GuestVerdict,
        /// The message of the guest or of the runtime.
        detail: String,
    },
    /// This machine failed. The same call may succeed on another machine, or later.
    #[error("{}: {detail}", verdict.name())]
    Host {
        /// What happened to the worker.
        verdict: HostVerdict,
        /// What is known about the failure.
        detail: String,
    },
    /// The input is longer than the pool accepts.
    #[error("the input has {}, above the limit of {}", Bytes(*bytes), Bytes(*limit))]
    InputTooLarge {
        /// The length of the input, in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The call took longer than its method may.
    #[error("Request timed out after {0:?}")]
    Deadline(Duration),
    /// The queue of waiting calls is full.
    #[error("view-runtime saturated, retry later")]
    Saturated,
    /// The node cannot answer now, because it is starting or stopping.
    #[error("{0}")]
    NotReady(String),
    /// The operator has not enabled this.
    #[error("{what} is not enabled on this node (start it with {how} to allow it)")]
    NotEnabled {
        /// The method.
        what: &'static str,
        /// The flag that enables it.
        how: &'static str,
    },
    /// A defect of the node, or a failure of its store.
    #[error("internal error: {0}")]
    Internal(String),
}

cofferdam_protocol::debug_as_display!(CallError);
