//! Answers JSON-RPC calls. Views run on the pool, and all other calls read the store and the state of the node.

use std::sync::Arc;

use cofferdam_protocol::verdict::Verdict;
use cofferdam_protocol::writes::Writes;
use serde_json::{Value, json};

use crate::node_state::NodeState;
use crate::rpc::{Backend, CallError, ChainDigest, NodeInfo, StateAt, StoreFigures};
use cofferdam_chain::blocks::{BlockHash, Network};
use cofferdam_chain::hash_of;
use cofferdam_http::{Call, CallAnswer, CallRejection, Service};
use cofferdam_pool::StateLayer;
use cofferdam_store::{BlockRecord, ProvenValue, Store};

/// The most runs of one view or preview. A call runs again if blocks were rolled back while it ran.
const ATTEMPTS: usize = 3;

/// The node as a JSON-RPC backend.
#[derive(Debug)]
pub struct NodeBackend {
    /// The HTTP service, whose pool runs the views.
    pub service: Service,
    /// The store of committed blocks.
    pub store: Arc<Store>,
    /// The state that the indexing thread writes.
    pub state: Arc<NodeState>,
    /// The first height to index, if the store is empty.
    pub start_height: u32,
    /// The network, if the operator or the store names it. If the Bitcoin node names a network, that network is reported instead.
    pub network: Option<Network>,
}

/// The part of the state that one run of a view sees.
struct ViewContext {
    /// The height that the view is given.
    height: u32,
    /// The uncommitted layers over the store, newest first.
    layers: Vec<StateLayer>,
    /// The newest height of the store that the view sees under the layers. `None` stands for `height`.
    base: Option<u32>,
}

impl NodeBackend {
    /// The height that a call names, if its block is committed.
    fn resolve(&self, at: StateAt) -> Result<u32, CallError> {
        let tip = self.state.tip().ok_or(CallError::NothingIndexed)?.height;
        match at {
            StateAt::Latest => Ok(tip),
            StateAt::Height(height) if height > tip => Err(CallError::NotYet { height, tip }),
            StateAt::Height(height) => {
                let start = self.store.first_height().map_err(internal)?.unwrap_or(self.start_height);
                if height < start { Err(CallError::BeforeStart { height, start }) } else { Ok(height) }
            }
        }
    }

    fn record(&self, at: StateAt) -> Result<BlockRecord, CallError> {
        let height = self.resolve(at)?;
        // If there is no record, the block was rolled back after the height was resolved.
        self.store.block(height).map_err(internal)?.ok_or(CallError::Abandoned { height })
    }

    async fn run(&self, call: Call) -> Result<CallAnswer, CallError> {
        let bytes = call.input.len() as u64;
        let answer = self.service.call(call).await.map_err(|rejection| call_error(rejection, bytes))?;
        match answer.verdict {
            Verdict::COMPLETED => Ok(answer),
            Verdict::Guest(verdict) => Err(CallError::Guest { verdict, detail: answer.detail }),
            Verdict::Host(verdict) => Err(CallError::Host { verdict, detail: answer.detail }),
        }
    }

    /// Runs `block` on the state at `height`, and returns the context of a view on the state after it.
    async fn context_after(&self, height: u32, block: Vec<u8>) -> Result<ViewContext, CallError> {
        let next = height.saturating_add(1);
        let call = Call { height: next, export: None, input: block, layers: Vec::new(), base: None };
        let answer = self.run(call).await?;
        let pool = self.service.pool().ok_or_else(|| CallError::NotReady("no worker is ready".to_owned()))?;
        // The writes can be large. Copying them also waits for the arena of layers, because the indexing thread uses the same
        // arena.
        let copied = tokio::task::spawn_blocking(move || {
            let writes = Writes::parse(answer.output.into()).map_err(internal)?;
            // There is no room while too many blocks wait for their commit, or too many previews run.
            pool.layer(next, &writes).ok_or(CallError::Saturated)
        });
        let layer = copied.await.map_err(internal)??;
        Ok(ViewContext { height: next, layers: vec![layer], base: Some(height) })
    }

    async fn view_in(
        &self,
        context: ViewContext,
        function: String,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let ViewContext { height, layers, base } = context;
        let call = Call { height, export: Some(function), input, layers, base };
        Ok(self.run(call).await?.output.into())
    }
}

impl Backend for NodeBackend {
    async fn view(&self, function: String, input: Vec<u8>, at: StateAt) -> Result<Vec<u8>, CallError> {
        let mut height = 0;
        for _ in 0..ATTEMPTS {
            let epoch = self.state.settled_epoch().await;
            height = self.resolve(at)?;
            let context = ViewContext { height, layers: Vec::new(), base: None };
            let result = self.view_in(context, function.clone(), input.clone()).await;
            // After a rollback, the view may have read values of two branches.
            if self.state.epoch() == epoch {
                return result;
            }
        }
        Err(CallError::Abandoned { height })
    }

    async fn preview(
        &self,
        block: Vec<u8>,
        function: String,
        input: Vec<u8>,
        at: StateAt,
    ) -> Result<Vec<u8>, CallError> {
        let mut height = 0;
        for _ in 0..ATTEMPTS {
            let epoch = self.state.settled_epoch().await;
            height = self.resolve(at)?;
            let result = match self.context_after(height, block.clone()).await {
                Ok(context) => self.view_in(context, function.clone(), input.clone()).await,
                Err(error) => Err(error),
            };
            if self.state.epoch() == epoch {
                return result;
            }
        }
        Err(CallError::Abandoned { height })
    }

    fn height(&self) -> Result<Option<u32>, CallError> {
        Ok(self.state.tip().map(|tip| tip.height))
    }

    fn block_hash(&self, at: StateAt) -> Result<BlockHash, CallError> {
        Ok(hash_of(self.record(at)?.hash))
    }

    fn state_root(&self, at: StateAt) -> Result<[u8; 32], CallError> {
        let record = self.record(at)?;
        let root = self.store.tree_root(record.height).map_err(internal)?;
        Ok(root.unwrap_or(record.digest).0)
    }

    fn digest(&self, at: StateAt) -> Result<ChainDigest, CallError> {
        let record = self.record(at)?;
        Ok(ChainDigest { height: record.height, block: hash_of(record.hash), digest: record.digest })
    }

    fn figures(&self) -> Result<StoreFigures, CallError> {
        let tip = self.state.tip().map(|tip| tip.height);
        let (entries, bytes) = self.store.size().map_err(internal)?;
        Ok(StoreFigures {
            indexed_height: tip,
            next_height: tip.map_or(self.start_height, |tip| tip.saturating_add(1)),
            entries,
            storage_bytes: Some(bytes),
            blocks: self.state.blocks(),
        })
    }

    fn proof(&self, key: Vec<u8>, at: StateAt) -> Result<Value, CallError> {
        let height = self.resolve(at)?;
        let proven = self.store.prove(&key, height).map_err(internal)?;
        let Some(ProvenValue { root, value, proof }) = proven else {
            return Err(CallError::NotEnabled { what: "cofferdam_proof", how: "--state-tree" });
        };
        Ok(json!({
            "height": height,
            "root": root.to_string(),
            "key": format!("0x{}", hex::encode(&key)),
            "value": value.map(|value| format!("0x{}", hex::encode(value))),
            "proof": proof,
        }))
    }

    fn info(&self) -> Result<NodeInfo, CallError> {
        let pool = self
            .service
            .pool()
            .ok_or_else(|| CallError::NotReady("the workers are committing their memory".to_owned()))?;
        let daemon = self.state.daemon();
        Ok(NodeInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: pool.profile().clone(),
            network: daemon.as_ref().and_then(|daemon| daemon.network).or(self.network),
            start_height: self.store.first_height().map_err(internal)?.unwrap_or(self.start_height),
            tip: self.state.tip().map(|tip| (tip.height, tip.hash)),
            daemon_height: daemon.and_then(|daemon| daemon.tip).map(|(height, _)| height),
        })
    }
}

fn internal(error: impl std::fmt::Display) -> CallError {
    CallError::Internal(error.to_string())
}

fn call_error(problem: CallRejection, bytes: u64) -> CallError {
    match problem {
        CallRejection::Saturated => CallError::Saturated,
        CallRejection::NotServing(reason) => CallError::NotReady(reason),
        CallRejection::InputTooLarge { limit } => CallError::InputTooLarge { bytes, limit },
        CallRejection::Other(reason) => CallError::Internal(reason),
    }
}
