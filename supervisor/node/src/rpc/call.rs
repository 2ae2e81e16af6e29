//! The methods: what they are called, what they take, and what they return.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::backend::{At, Backend, CallError, ChainDigest, Info, Snapshot};
use super::error::RpcError;
use super::params::Params;
use super::settings::RpcSettings;
use cofferdam_pool::MAX_EXPORT_BYTES;

/// A method that this node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    View,
    Preview,
    Height,
    BlockHash,
    StateRoot,
    Snapshot,
    Digest,
    Proof,
    Info,
}

impl Method {
    const ALL: [Self; 9] = [
        Self::View,
        Self::Preview,
        Self::Height,
        Self::BlockHash,
        Self::StateRoot,
        Self::Snapshot,
        Self::Digest,
        Self::Proof,
        Self::Info,
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::View => "metashrew_view",
            Self::Preview => "metashrew_preview",
            Self::Height => "metashrew_height",
            Self::BlockHash => "metashrew_getblockhash",
            Self::StateRoot => "metashrew_stateroot",
            Self::Snapshot => "metashrew_snapshot",
            Self::Digest => "cofferdam_digest",
            Self::Proof => "cofferdam_proof",
            Self::Info => "cofferdam_info",
        }
    }

    /// What it runs, in messages.
    pub(super) fn what(self) -> &'static str {
        if self == Self::Preview { "Preview function" } else { "View function" }
    }

    pub(super) fn timeout(self, settings: &RpcSettings) -> Duration {
        match self {
            Self::View => settings.view_timeout,
            Self::Preview => settings.preview_timeout,
            _ => settings.read_timeout,
        }
    }
}

/// A call that is understood. It holds nothing of its request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    View { function: String, input: Vec<u8>, at: At },
    Preview { block: Vec<u8>, function: String, input: Vec<u8>, at: At },
    Read(Read),
}

/// A call that reads the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Height,
    BlockHash(At),
    StateRoot(At),
    Snapshot,
    Digest(At),
    Proof { key: Vec<u8>, at: At },
    Info,
}

/// What a call returned.
#[derive(Debug)]
pub(super) enum Returned {
    /// Bytes, which are sent in hexadecimal.
    Bytes(Vec<u8>),
    Json(Value),
}

impl Call {
    /// Reads a call of `method` with the parameters `raw`.
    pub(super) fn read(method: Method, raw: Option<&RawValue>) -> Result<Self, RpcError> {
        match method {
            Method::View => {
                let params = Params::read(raw, &["view_name", "input_data", "height"])?;
                let function = params.name(0, MAX_EXPORT_BYTES)?;
                Ok(Self::View { function, input: params.bytes(1)?.unwrap_or_default(), at: params.at(2)? })
            }
            Method::Preview => {
                let params = Params::read(raw, &["block_data", "view_name", "input_data", "height"])?;
                let (block, function) = (params.some_bytes(0)?, params.name(1, MAX_EXPORT_BYTES)?);
                let input = params.bytes(2)?.unwrap_or_default();
                Ok(Self::Preview { block, function, input, at: params.at(3)? })
            }
            _ => Read::of(method, raw).map(Self::Read),
        }
    }

    /// Has `backend` answer it.
    pub(super) async fn run<B: Backend>(self, backend: &Arc<B>) -> Result<Returned, CallError> {
        match self {
            Self::View { function, input, at } => {
                backend.view(function, input, at).await.map(Returned::Bytes)
            }
            Self::Preview { block, function, input, at } => {
                backend.preview(block, function, input, at).await.map(Returned::Bytes)
            }
            Self::Read(read) => {
                let backend = Arc::clone(backend);
                // The disk may be slow, and this thread serves other connections.
                let done = tokio::task::spawn_blocking(move || read.run(&*backend)).await;
                done.unwrap_or_else(|error| Err(CallError::Internal(error.to_string())))
            }
        }
    }
}

impl Read {
    fn of(method: Method, raw: Option<&RawValue>) -> Result<Self, RpcError> {
        let height = || Params::read(raw, &["height"]);
        Ok(match method {
            Method::Height => Self::Height,
            Method::Snapshot => Self::Snapshot,
            Method::BlockHash => Self::BlockHash(height()?.some_at(0)?),
            Method::StateRoot => Self::StateRoot(height()?.at(0)?),
            Method::Digest => Self::Digest(height()?.at(0)?),
            Method::Proof => {
                let params = Params::read(raw, &["key", "height"])?;
                Self::Proof { key: params.some_bytes(0)?, at: params.at(1)? }
            }
            _ => Self::Info,
        })
    }

    fn run<B: Backend>(self, backend: &B) -> Result<Returned, CallError> {
        Ok(Returned::Json(match self {
            // The replaced node has no word for "no block yet".
            Self::Height => json!(backend.height()?.unwrap_or(0).to_string()),
            Self::BlockHash(at) => json!(format!("0x{}", backend.block_hash(at)?)),
            Self::StateRoot(at) => return backend.state_root(at).map(|root| Returned::Bytes(root.to_vec())),
            Self::Snapshot => json!(snapshot(&backend.snapshot()?).to_string()),
            Self::Digest(at) => digest(&backend.digest(at)?),
            Self::Proof { key, at } => backend.proof(key, at)?,
            Self::Info => info(&backend.info()?),
        }))
    }
}

/// The members of the replaced node's answer. It cannot make or apply snapshots here, so nothing of that is ever counted.
fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "enabled": true,
        "current_height": snapshot.next_height,
        "indexed_height": snapshot.indexed_height.unwrap_or(0),
        "total_entries": snapshot.entries,
        "storage_size_bytes": snapshot.storage_bytes,
        "sync_mode": "Normal",
        "snapshots_created": 0,
        "snapshots_applied": 0,
        "last_snapshot_height": null,
        "blocks_synced_normally": snapshot.blocks,
        "blocks_synced_from_snapshots": 0,
    })
}

fn digest(digest: &ChainDigest) -> Value {
    json!({
        "height": digest.height,
        "block": digest.block.to_string(),
        "digest": digest.digest.to_string(),
    })
}

fn info(info: &Info) -> Value {
    json!({
        "version": info.version,
        "profile": info.profile.hash().to_string(),
        "module": info.profile.module.to_string(),
        "memory_bytes": info.profile.memory_bytes,
        "fuel": info.profile.fuel,
        "output_bytes": info.profile.output_bytes,
        "engine": info.profile.engine,
        "network": info.network.map(|network| network.to_string()),
        "start_height": info.start_height,
        "tip": info.tip.map(|(height, hash)| json!({ "height": height, "block": hash.to_string() })),
        "daemon_height": info.daemon_height,
        "lag": info.lag(),
    })
}
