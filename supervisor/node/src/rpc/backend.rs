//! What answers the calls: the node as its JSON-RPC face sees it, so that the face needs neither pool nor store.

use std::future::Future;
use std::time::Duration;

use cofferdam_protocol::profile::{Hash, Profile};
use cofferdam_protocol::verdict::{GuestVerdict, HostVerdict};
use serde_json::Value;
use thiserror::Error;

use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::{BlockHash, Network};

/// The state that a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After the newest indexed block at the moment of the call.
    Latest,
    /// After the block at this height.
    Height(u32),
}

/// A node that is asked over JSON-RPC.
///
/// A call's future is dropped when its client has gone or its time is over. The methods that are not `async` read the
/// store and may wait for the disk: they are called on a thread that may block.
pub trait Backend: Send + Sync + 'static {
    /// Runs the export `function` of the module on `input`, and returns what it returned.
    ///
    /// # Errors
    /// [`CallError`]
    fn view(
        &self,
        function: String,
        input: Vec<u8>,
        at: At,
    ) -> impl Future<Output = Result<Vec<u8>, CallError>> + Send;

    /// Runs `block` on the state at `at`, then the view on the state after it, and keeps nothing of either.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::NotEnabled`] where previews are switched off.
    fn preview(
        &self,
        block: Vec<u8>,
        function: String,
        input: Vec<u8>,
        at: At,
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
    fn block_hash(&self, at: At) -> Result<BlockHash, CallError>;

    /// The root over the whole state.
    ///
    /// # Errors
    /// [`CallError`]
    fn state_root(&self, at: At) -> Result<[u8; 32], CallError>;

    /// The chain's digest and the block that it reaches to: two nodes agree on everything up to a height exactly when
    /// their digests at that height are equal.
    ///
    /// # Errors
    /// [`CallError`]
    fn digest(&self, at: At) -> Result<ChainDigest, CallError>;

    /// Figures of the store.
    ///
    /// # Errors
    /// [`CallError`]
    fn snapshot(&self) -> Result<Snapshot, CallError>;

    /// A proof of what is stored under `key`, or that nothing is, against the state root at `at`.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::NotEnabled`] where no proofs are kept.
    fn proof(&self, key: Vec<u8>, at: At) -> Result<Value, CallError>;

    /// What this node is and how far it is.
    ///
    /// # Errors
    /// [`CallError`]
    fn info(&self) -> Result<Info, CallError>;
}

/// A digest at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainDigest {
    /// The height of the last block in it.
    pub height: u32,
    /// The hash of that block.
    pub block: BlockHash,
    /// The digest.
    pub digest: Hash,
}

/// What `metashrew_snapshot` tells of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
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

/// What `cofferdam_info` tells of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The program's version.
    pub version: String,
    /// What results depend on.
    pub profile: Profile,
    /// The network that the blocks are of, once that is known.
    pub network: Option<Network>,
    /// The first height that this node indexes.
    pub start_height: u32,
    /// The newest indexed block, if any is.
    pub tip: Option<(u32, BlockHash)>,
    /// The newest height of the daemon, if it has answered yet.
    pub daemon_height: Option<u32>,
}

impl Info {
    /// How many of the daemon's blocks are not indexed yet, if that is known.
    pub fn lag(&self) -> Option<u32> {
        let next = self.tip.map_or(self.start_height, |(height, _)| height.saturating_add(1));
        // The daemon's own blocks end at its height: there is one more of them than that says.
        Some(self.daemon_height?.saturating_add(1).saturating_sub(next))
    }
}

/// Why a call has no result. The codes that clients see are in the table of the [module](super).
#[derive(Clone, Error, PartialEq, Eq)]
pub enum CallError {
    /// Nothing at all is indexed yet.
    #[error("no block is indexed yet")]
    NothingIndexed,
    /// The height is above the newest indexed one.
    #[error("height {height} is not indexed yet: the newest indexed height is {tip}")]
    NotYet {
        /// The height that was asked for.
        height: u32,
        /// The newest indexed height.
        tip: u32,
    },
    /// The height is below the first one.
    #[error("height {height} is not indexed: this node starts at height {start}")]
    BeforeStart {
        /// The height that was asked for.
        height: u32,
        /// The first height that this node indexes.
        start: u32,
    },
    /// A reorganisation took the block away while the call ran.
    #[error("the block at height {height} was abandoned by a reorganisation while the call ran: ask again")]
    Abandoned {
        /// The height that was asked for.
        height: u32,
    },
    /// The guest did not do it. Every node says the same of the same call.
    #[error("{}: {detail}", verdict.name())]
    Guest {
        /// What came of it.
        verdict: GuestVerdict,
        /// What the guest or its runtime said.
        detail: String,
    },
    /// This machine did not do it: the same call may well succeed elsewhere or later.
    #[error("{}: {detail}", verdict.name())]
    Host {
        /// What happened to the worker.
        verdict: HostVerdict,
        /// What is known of it.
        detail: String,
    },
    /// The input is larger than any that is run.
    #[error("the input has {}, above the limit of {}", Bytes(*bytes), Bytes(*limit))]
    InputTooLarge {
        /// The input's size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// It was not done in time.
    #[error("Request timed out after {0:?}")]
    Deadline(Duration),
    /// As many calls wait already as may.
    #[error("view-runtime saturated, retry later")]
    Saturated,
    /// The node does not answer this now: it starts, or it stops.
    #[error("{0}")]
    NotReady(String),
    /// The operator has not switched this on.
    #[error("{what} is not enabled on this node (start it with {how} to allow it)")]
    NotEnabled {
        /// What was asked for.
        what: &'static str,
        /// The flag that enables it.
        how: &'static str,
    },
    /// A defect, or a failure of the store.
    #[error("internal error: {0}")]
    Internal(String),
}

cofferdam_protocol::debug_as_display!(CallError);
