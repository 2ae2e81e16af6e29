//! What clients ask of the chain: views on committed workers, and figures from the store.

use std::sync::Arc;

use cofferdam_protocol::verdict::Verdict;
use cofferdam_protocol::writes::Writes;
use serde_json::{Value, json};

use super::rpc::{At, Backend, CallError, ChainDigest, Info, Snapshot};
use super::state::NodeState;
use cofferdam_chain::blocks::{BlockHash, Network};
use cofferdam_chain::hash_of;
use cofferdam_http::{InternalAnswer, InternalJob, InternalProblem, Service};
use cofferdam_pool::StateLayer;
use cofferdam_store::{BlockRecord, Proven, Store};

/// How often a view is run again because blocks were taken back meanwhile.
const RERUNS: usize = 3;

/// The node, as its clients ask it.
#[derive(Debug)]
pub struct Node {
    /// Where views run.
    pub service: Service,
    /// What is committed.
    pub store: Arc<Store>,
    /// How far the chain is.
    pub state: Arc<NodeState>,
    /// The first height that is wanted.
    pub start_height: u32,
    /// The network, where the operator or the store names it.
    pub network: Option<Network>,
}

/// One run of a view: what it is over.
struct Ground {
    /// The height that the view is told.
    height: u32,
    layers: Vec<StateLayer>,
    base: Option<u32>,
}

impl Node {
    /// The height that is asked for, if its block is committed.
    fn resolve(&self, at: At) -> Result<u32, CallError> {
        let tip = self.state.tip().ok_or(CallError::NothingIndexed)?.height;
        match at {
            At::Latest => Ok(tip),
            At::Height(height) if height > tip => Err(CallError::NotYet { height, tip }),
            At::Height(height) => {
                let start = self.store.first_height().map_err(internal)?.unwrap_or(self.start_height);
                if height < start { Err(CallError::BeforeStart { height, start }) } else { Ok(height) }
            }
        }
    }

    fn record(&self, at: At) -> Result<BlockRecord, CallError> {
        let height = self.resolve(at)?;
        // Taken back since.
        self.store.block(height).map_err(internal)?.ok_or(CallError::Abandoned { height })
    }

    async fn run(&self, job: InternalJob) -> Result<InternalAnswer, CallError> {
        let bytes = job.input.len() as u64;
        let answer = self.service.run(job).await.map_err(|problem| refused(problem, bytes))?;
        match answer.verdict {
            Verdict::COMPLETED => Ok(answer),
            Verdict::Guest(verdict) => Err(CallError::Guest { verdict, detail: answer.detail }),
            Verdict::Host(verdict) => Err(CallError::Host { verdict, detail: answer.detail }),
        }
    }

    /// What the state is after `block` was run on the one at `height`.
    async fn ground_of(&self, height: u32, block: Vec<u8>) -> Result<Ground, CallError> {
        let next = height.saturating_add(1);
        let job = InternalJob { height: next, export: None, input: block, layers: Vec::new(), base: None };
        let answer = self.run(job).await?;
        let pool = self.service.pool().ok_or_else(|| CallError::NotReady("no worker is ready".to_owned()))?;
        // It can be much, and the arena is shared with the chain.
        let laid = tokio::task::spawn_blocking(move || {
            let writes = Writes::parse(answer.output.into()).map_err(internal)?;
            // Too many blocks wait for their commit at this moment, or other previews.
            pool.layer(next, &writes).ok_or(CallError::Saturated)
        });
        let layer = laid.await.map_err(internal)??;
        Ok(Ground { height: next, layers: vec![layer], base: Some(height) })
    }

    async fn view_on(&self, ground: Ground, function: String, input: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let Ground { height, layers, base } = ground;
        let job = InternalJob { height, export: Some(function), input, layers, base };
        Ok(self.run(job).await?.output.into())
    }
}

impl Backend for Node {
    async fn view(&self, function: String, input: Vec<u8>, at: At) -> Result<Vec<u8>, CallError> {
        let mut height = 0;
        for _ in 0..RERUNS {
            let epoch = self.state.settled_epoch().await;
            height = self.resolve(at)?;
            let ground = Ground { height, layers: Vec::new(), base: None };
            let result = self.view_on(ground, function.clone(), input.clone()).await;
            // What it read may be of two branches.
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
        at: At,
    ) -> Result<Vec<u8>, CallError> {
        let mut height = 0;
        for _ in 0..RERUNS {
            let epoch = self.state.settled_epoch().await;
            height = self.resolve(at)?;
            let result = match self.ground_of(height, block.clone()).await {
                Ok(ground) => self.view_on(ground, function.clone(), input.clone()).await,
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

    fn block_hash(&self, at: At) -> Result<BlockHash, CallError> {
        Ok(hash_of(self.record(at)?.hash))
    }

    fn state_root(&self, at: At) -> Result<[u8; 32], CallError> {
        let record = self.record(at)?;
        let root = self.store.tree_root(record.height).map_err(internal)?;
        Ok(root.unwrap_or(record.digest).0)
    }

    fn digest(&self, at: At) -> Result<ChainDigest, CallError> {
        let record = self.record(at)?;
        Ok(ChainDigest { height: record.height, block: hash_of(record.hash), digest: record.digest })
    }

    fn snapshot(&self) -> Result<Snapshot, CallError> {
        let tip = self.state.tip().map(|tip| tip.height);
        let (entries, bytes) = self.store.size().map_err(internal)?;
        Ok(Snapshot {
            indexed_height: tip,
            next_height: tip.map_or(self.start_height, |tip| tip.saturating_add(1)),
            entries,
            storage_bytes: Some(bytes),
            blocks: self.state.blocks(),
        })
    }

    fn proof(&self, key: Vec<u8>, at: At) -> Result<Value, CallError> {
        let height = self.resolve(at)?;
        let proven = self.store.prove(&key, height).map_err(internal)?;
        let Some(Proven { root, value, proof }) = proven else {
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

    fn info(&self) -> Result<Info, CallError> {
        let pool =
            self.service.pool().ok_or_else(|| CallError::NotReady("workers are committing".to_owned()))?;
        let daemon = self.state.daemon();
        Ok(Info {
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

fn refused(problem: InternalProblem, bytes: u64) -> CallError {
    match problem {
        InternalProblem::Saturated => CallError::Saturated,
        InternalProblem::NotServing(reason) => CallError::NotReady(reason),
        InternalProblem::TooLarge { limit } => CallError::InputTooLarge { bytes, limit },
        InternalProblem::Other(reason) => CallError::Internal(reason),
    }
}
