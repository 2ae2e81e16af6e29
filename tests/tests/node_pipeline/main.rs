//! The pipeline: blocks that run while the ones before them are being committed give the state and the digest of blocks that
//! are committed one by one, whatever happens to workers meanwhile, and are taken back to the byte.

mod on_workers;
mod standing_in;

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cofferdam::blocks::{BlockHash, Origin, SourceBlock};
use cofferdam::chain::{
    Batch, ChainError, Hashed, Observer, OnFullDisk, OnGuestFailure, Outcome, Pipeline, PipelineSettings,
    Pushed,
};
use cofferdam::fault::{Fault, FaultKind};
use cofferdam::pool::{Limits, Pool, SlotHealth, SlotState};
use cofferdam::profile::Hash;
use cofferdam::store::{Durability, Identity, Store, StoreCall, StoreFaults};
use cofferdam::verdict::{GuestVerdict, Verdict};
use cofferdam_tests::support::command::PATIENCE;
use cofferdam_tests::support::guests::{Act, LEDGER, SCRIPT, good_input, good_pair};
use cofferdam_tests::support::pool::{build, send, small, wait_until};
use cofferdam_tests::support::random::{Random, seed};
use cofferdam_tests::support::stand_in::{self, StandIn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

cofferdam::enable_test_support!();

const BLOCKS: u32 = 300;

/// Nothing is committed before it is asked for, or too much is waiting.
const LAZY: Batch = Batch { blocks: usize::MAX, bytes: u64::MAX, age: Duration::from_secs(3600) };

/// The state and the digest that a chain came to.
type End = (Option<u32>, Option<Hash>, Hash);

fn end(store: &Store) -> End {
    let tip = store.tip().expect("the store can be read");
    let content = store.content_hash().expect("the store can be read");
    (tip.as_ref().map(|tip| tip.height), tip.map(|tip| tip.digest), content)
}

/// The block of a branch at a height: it names the one before it.
fn block(branch: u64, height: u32) -> Hashed {
    let mut random = Random::new(branch << 32 | u64::from(height));
    let bytes: Vec<u8> = (0..20).map(|_| random.below(256).to_le_bytes()[0]).collect();
    source(height, bytes)
}

fn source(height: u32, bytes: Vec<u8>) -> Hashed {
    use bitcoin::hashes::Hash as _;
    let hash = BlockHash::from_byte_array(Hash::of(&bytes).0);
    let origin = Origin { file: Arc::from(Path::new("noise")), offset: 0 };
    Hashed::from(SourceBlock { height, hash, previous: None, bytes, origin })
}

fn store(module: &str) -> (TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let profile = small(module).profile().expect("the guest is a module").hash();
    let identity = Identity { profile, network: None };
    let store = Store::open(&directory.path().join("state"), &identity, Durability::None);
    (directory, Arc::new(store.expect("a new store").with_undo(100)))
}

fn settings(batch: Batch) -> PipelineSettings {
    PipelineSettings { batch, ..PipelineSettings::default() }
}

fn pipeline(pool: &Arc<Pool>, store: &Arc<Store>, settings: PipelineSettings) -> Pipeline {
    Pipeline::resume(Arc::clone(pool), Arc::clone(store), settings, Box::new(|_| {}))
        .expect("the store can be read")
}

fn push_all(pipeline: &mut Pipeline, blocks: impl Iterator<Item = Hashed>) {
    for block in blocks {
        let pushed = pipeline.push(block).expect("the chain goes on");
        assert!(matches!(pushed, Pushed::Taken(_)), "{pushed:?}");
    }
}

/// What the blocks come to when each is committed before the next one runs.
fn one_by_one(blocks: impl Iterator<Item = Hashed>) -> End {
    let (_directory, store) = store(LEDGER);
    let pool = build(small(LEDGER).state(store.path()));
    let resumed = Pipeline::resume(&pool, Arc::clone(&store), PipelineSettings::default(), Box::new(|_| {}));
    let mut chain = resumed.expect("an empty store");
    for block in blocks {
        let height = block.block.height;
        let outcome = chain.push_and_wait(block).expect("the chain goes on");
        assert!(outcome.committed && outcome.height == height, "{outcome:?}");
        let tip = store.tip().expect("the store can be read").expect("the block is committed");
        assert_eq!((tip.height, Some(tip.digest)), (height, outcome.digest));
    }
    end(&store)
}
