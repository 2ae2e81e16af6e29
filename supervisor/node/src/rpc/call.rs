//! The calls: the parameters that each method takes, and the result that it returns.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::backend::{Backend, CallError, ChainDigest, NodeInfo, StateAt, StoreFigures};
use super::error::RpcError;
use super::method::Method;
use super::params::Params;
use cofferdam_pool::MAX_EXPORT_BYTES;

/// A call whose parameters were read. It borrows nothing from its request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    View { function: String, input: Vec<u8>, at: StateAt },
    Preview { block: Vec<u8>, function: String, input: Vec<u8>, at: StateAt },
    Read(Read),
}

/// A call that reads the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Height,
    BlockHash(StateAt),
    StateRoot(StateAt),
    Snapshot,
    Digest(StateAt),
    Proof { key: Vec<u8>, at: StateAt },
    Info,
}

/// The result of a call.
#[derive(Debug)]
pub(super) enum Returned {
    /// Bytes. They are sent in hexadecimal.
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
                let (block, function) = (params.required_bytes(0)?, params.name(1, MAX_EXPORT_BYTES)?);
                let input = params.bytes(2)?.unwrap_or_default();
                Ok(Self::Preview { block, function, input, at: params.at(3)? })
            }
            _ => Read::of(method, raw).map(Self::Read),
        }
    }

    /// Has `backend` answer the call.
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
                // The disk may be slow, and this thread must go on to serve other connections.
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
            Method::BlockHash => Self::BlockHash(height()?.required_at(0)?),
            Method::StateRoot => Self::StateRoot(height()?.at(0)?),
            Method::Digest => Self::Digest(height()?.at(0)?),
            Method::Proof => {
                let params = Params::read(raw, &["key", "height"])?;
                Self::Proof { key: params.required_bytes(0)?, at: params.at(1)? }
            }
            _ => Self::Info,
        })
    }

    fn run<B: Backend>(self, backend: &B) -> Result<Returned, CallError> {
        Ok(Returned::Json(match self {
            // Before any block is indexed, the replaced node returns "0", too.
            Self::Height => json!(backend.height()?.unwrap_or(0).to_string()),
            Self::BlockHash(at) => json!(format!("0x{}", backend.block_hash(at)?)),
            Self::StateRoot(at) => return backend.state_root(at).map(|root| Returned::Bytes(root.to_vec())),
            Self::Snapshot => json!(figures(&backend.figures()?).to_string()),
            Self::Digest(at) => digest(&backend.digest(at)?),
            Self::Proof { key, at } => backend.proof(key, at)?,
            Self::Info => info(&backend.info()?),
        }))
    }
}

/// The members of the replaced node's answer. This node has no snapshots of that kind, so the counters of snapshots are always 0.
fn figures(figures: &StoreFigures) -> Value {
    json!({
        "enabled": true,
        "current_height": figures.next_height,
        "indexed_height": figures.indexed_height.unwrap_or(0),
        "total_entries": figures.entries,
        "storage_size_bytes": figures.storage_bytes,
        "sync_mode": "Normal",
        "snapshots_created": 0,
        "snapshots_applied": 0,
        "last_snapshot_height": null,
        "blocks_synced_normally": figures.blocks,
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

fn info(info: &NodeInfo) -> Value {
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
