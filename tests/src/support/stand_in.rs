//! What stands in for a pool where a test is about the chain and its store: it runs a little indexer of its own in the caller's
//! thread, on the same state, store and layers, that a worker would read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cofferdam::pool::{
    Job, JobOutput, JobResult, LayerRoom, PoolError, ResetHandle, Runner, StateLayer, WorkerInfo,
};
use cofferdam::profile::{Hash, Profile};
use cofferdam::store::Store;
use cofferdam::verdict::Verdict;
use cofferdam::writes::{Writes, put_field};
use sha2::{Digest, Sha256};

/// Keys that blocks write.
const KEYS: u8 = 24;
/// Pairs of a block.
const PAIRS: u8 = 6;

/// The stand-in.
#[derive(Debug)]
pub struct StandIn {
    store: Arc<Store>,
    profile: Profile,
    room: LayerRoom,
    laid: Mutex<BTreeMap<u32, Writes>>,
}

/// What its results depend on.
#[must_use]
pub fn profile() -> Profile {
    let module = Hash::of(b"a stand-in");
    Profile { module, memory_bytes: 0, fuel: None, output_bytes: 1 << 20, engine: "none".to_owned() }
}

impl StandIn {
    /// Over `store`, with room for layers of so many bytes: with little, blocks are committed one by one.
    #[must_use]
    pub fn new(store: &Arc<Store>, room: u64) -> Self {
        let room = LayerRoom::new(room).expect("there is memory");
        Self { store: Arc::clone(store), profile: profile(), room, laid: Mutex::default() }
    }

    fn laid(&self) -> MutexGuard<'_, BTreeMap<u32, Writes>> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state's value under `key`, as the job sees it. Planted failures of the store are of its writer and do not come here.
    fn value(&self, job: &Job, key: &[u8]) -> Vec<u8> {
        let laid = self.laid();
        for layer in job.layers() {
            let writes = laid.get(&layer.height()).expect("it was laid here");
            if let Some((_, value)) = writes.iter().filter(|(of, _)| *of == key).last() {
                return value.to_vec();
            }
        }
        let below = job.height().checked_sub(1);
        let snapshot = self.store.reader().snapshot().expect("the state can be read");
        assert!(snapshot.tip().expect("it can be read") >= job.state_height(), "the state is behind");
        let value = below.and_then(|below| snapshot.get(key, below).expect("it can be read"));
        value.unwrap_or_default().to_vec()
    }
}

/// What `block` writes over a state that has `value` under a key: which keys, and what, depends on both.
pub fn writes_of(block: &[u8], value: impl Fn(&[u8]) -> Vec<u8>) -> Writes {
    let hash: [u8; 32] = Sha256::digest(block).into();
    let mut bytes = Vec::new();
    for number in 0..PAIRS {
        let key = [b'k', hash[usize::from(number)] % KEYS];
        let mut digest = Sha256::new();
        digest.update(hash);
        digest.update(value(&key));
        push(&mut bytes, &key, &digest.finalize()[..usize::from(hash[31] % 33)]);
    }
    Writes::parse(bytes).expect("pairs")
}

impl Runner for StandIn {
    fn call(&self, job: &Job) -> Result<JobResult, PoolError> {
        let block = job.input().parts().flatten().copied().collect::<Vec<u8>>();
        Ok(completed(writes_of(&block, |key| self.value(job, key))))
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn layer(&self, height: u32, writes: &Writes) -> Option<StateLayer> {
        let layer = self.room.lay(height, writes)?;
        self.laid().insert(height, writes.clone());
        Some(layer)
    }
}

fn push(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for field in [key, value] {
        let mut encoded = vec![0; 4 + field.len()];
        put_field(&mut encoded, field).expect("it has room");
        bytes.extend_from_slice(&encoded);
    }
}

fn completed(writes: Writes) -> JobResult {
    JobResult {
        verdict: Verdict::COMPLETED,
        detail: String::new(),
        failed_attempts: Vec::new(),
        quarantine: None,
        worker: WorkerInfo { pid: 0, slot: 0 },
        output: JobOutput::Writes(writes),
        log: String::new(),
        exec: Duration::ZERO,
        overhead: Duration::ZERO,
        memory_bytes: 0,
        fuel_used: None,
        reset: ResetHandle::none(),
    }
}
