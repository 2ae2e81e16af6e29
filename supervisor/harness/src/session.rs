//! A case that runs: a pool, a state of its own, and a chain of blocks on both.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Harness, HarnessError, Outcome, RunSettings};
use cofferdam_chain::blocks::{Origin, SourceBlock};
use cofferdam_chain::{Chain, Step};
use cofferdam_pool::host::cgroup::ChildCgroup;
use cofferdam_pool::{Job, Limits, Pool, PoolBuilder};
use cofferdam_protocol::profile::Hash;
use cofferdam_store::{Durability, Identity, Store};

/// Committed workers, an empty state at first, and blocks that follow each other. Nothing of it is left when it is
/// dropped.
#[derive(Debug)]
pub struct Session {
    // Dropped in this order: the workers, what they read, and last the cgroup that they lived in.
    chain: Chain<Arc<Pool>>,
    pool: Arc<Pool>,
    store: Arc<Store>,
    _directory: TempDir,
    _host: Option<ChildCgroup>,
    memory_limit: u64,
    limits: Limits,
    high_water: u64,
}

impl Session {
    pub(super) fn start(harness: &Harness, settings: RunSettings) -> Result<Self, HarnessError> {
        if !cofferdam_worker::is_initialised() {
            return Err(HarnessError::NotEnabled);
        }
        let host = harness.host_bytes.map(limited_host).transpose()?;
        let builder = describe(harness, settings, host.as_ref());
        let directory = tempfile::Builder::new().prefix("cofferdam-harness-").tempdir();
        let directory = directory.map_err(HarnessError::Directory)?;
        let identity = Identity { profile: builder.profile()?.hash(), network: None };
        let store = Arc::new(Store::open(directory.path(), &identity, Durability::None)?);
        let pool = Arc::new(builder.state(store.path()).build()?);
        let chain = Chain::resume(Arc::clone(&pool), Arc::clone(&store), harness.policy)?;
        Ok(Self {
            chain,
            pool,
            store,
            _directory: directory,
            _host: host,
            memory_limit: harness.memory_bytes,
            limits: harness.limits,
            high_water: 0,
        })
    }

    /// Runs a block at the next height, the first at 0, and commits what it writes if it completes.
    ///
    /// A block that does not complete is not committed, and the next one takes its height; with
    /// [`OnGuestFailure::Skip`](super::OnGuestFailure::Skip) it is committed without writes, if the failure is its own.
    ///
    /// # Panics
    /// If it cannot be run at all: see [`Session::try_block_at`]. That it fails is an [`Outcome`].
    #[track_caller]
    pub fn block(&mut self, block: impl Into<Vec<u8>>) -> Outcome {
        let height = self.tip().map_or(0, |tip| tip.saturating_add(1));
        expect(self.try_block_at(height, block))
    }

    /// As [`Session::block`], at a height above that of the state.
    ///
    /// # Panics
    /// As [`Session::block`], and if the state is at that height already.
    #[track_caller]
    pub fn block_at(&mut self, height: u32, block: impl Into<Vec<u8>>) -> Outcome {
        expect(self.try_block_at(height, block))
    }

    /// As [`Session::block_at`], for tests of what cannot be run at all.
    ///
    /// # Errors
    /// [`HarnessError::Passed`]; [`HarnessError::Pool`] if it is longer than the input limit or no worker is left;
    /// [`HarnessError::Store`].
    pub fn try_block_at(&mut self, height: u32, block: impl Into<Vec<u8>>) -> Result<Outcome, HarnessError> {
        let passed = |tip| HarnessError::Passed { height, tip };
        if let Some(tip) = self.tip().filter(|tip| height <= *tip) {
            return Err(passed(tip));
        }
        let block = block.into();
        let job = format!("block {height} ({} bytes)", block.len());
        let origin = Origin { file: Path::new("test").into(), offset: 0 };
        let step = self.chain.step(SourceBlock::opaque(height, block, origin).into())?;
        let Step::Ran(ran) = step else { return Err(passed(height)) };
        Ok(Outcome { digest: ran.digest, committed: ran.committed, ..self.outcome(job, ran.result) })
    }

    /// Calls the view `export` at the height of the state, or 0 while that is empty.
    ///
    /// # Panics
    /// If it cannot be called at all: see [`Session::try_view`]. That it fails is an [`Outcome`].
    #[track_caller]
    pub fn view(&mut self, export: &str, input: impl Into<Vec<u8>>) -> Outcome {
        expect(self.try_view(export, input))
    }

    /// As [`Session::view`], for tests of what cannot be called at all.
    ///
    /// # Errors
    /// [`HarnessError::Pool`] if the input is longer than its limit, the name is too long, or no worker is left.
    pub fn try_view(&mut self, export: &str, input: impl Into<Vec<u8>>) -> Result<Outcome, HarnessError> {
        let job =
            Job::view(export, self.tip().unwrap_or(0), Into::<Vec<u8>>::into(input)).on_state(self.tip());
        let result = self.pool.call(&job)?;
        Ok(self.outcome(job.to_string(), result))
    }

    fn outcome(&mut self, job: String, result: cofferdam_pool::JobResult) -> Outcome {
        self.high_water = self.high_water.max(result.memory_bytes);
        let (memory_limit, limits) = (self.memory_limit, self.limits);
        Outcome { job, result, digest: None, committed: false, memory_limit, limits }
    }

    /// The height of the state; none while it is empty.
    pub fn tip(&self) -> Option<u32> {
        self.chain.tip()
    }

    /// The digest of everything that is committed: equal in two sessions exactly if they agree on all of it.
    pub fn digest(&self) -> Hash {
        self.chain.digest()
    }

    /// Asserts the digest: a [`struct@Hash`], or its hexadecimal form.
    ///
    /// # Panics
    /// If it is another, with both.
    #[track_caller]
    pub fn assert_digest(&self, expected: impl std::fmt::Display) {
        let (expected, found) = (expected.to_string(), self.digest().to_string());
        if expected != found {
            let tip = self.tip().map_or("an empty state".to_owned(), |tip| format!("block {tip}"));
            panic!("the digest at {tip} was to be another\n    expected: {expected}\n    found:    {found}");
        }
    }

    /// The most bytes of memory that the guest had at the end of any block or view so far.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// The value of `key` in the state.
    ///
    /// # Errors
    /// [`HarnessError::Store`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, HarnessError> {
        let Some(tip) = self.tip() else { return Ok(None) };
        Ok(self.store.get(key.as_ref(), tip)?)
    }

    /// The pool, for what this type has no word for: its health, for instance.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

fn limited_host(bytes: u64) -> Result<ChildCgroup, HarnessError> {
    ChildCgroup::limited_to(bytes).map_err(|source| HarnessError::NoHostLimit { bytes, source })
}

fn describe(harness: &Harness, settings: RunSettings, host: Option<&ChildCgroup>) -> PoolBuilder {
    let builder = Pool::builder(harness.module.clone()).memory(harness.memory_bytes).limits(harness.limits);
    let builder = settings.apply(builder.faults(harness.faults.clone()));
    match host {
        // What fits is for the kernel to say: that is what a limited host is for.
        Some(host) => builder.cgroup(host.cgroup().clone()).admission(false),
        None => builder,
    }
}

/// Panics with the error at the caller's place, which a closure would hide.
#[track_caller]
pub(super) fn expect<T>(result: Result<T, HarnessError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test binary is one that has not been enabled.
    #[test]
    fn a_binary_that_cannot_become_a_worker_is_told_so() {
        let error = Harness::new("(module)").start().unwrap_err();
        assert!(matches!(error, HarnessError::NotEnabled), "{error}");
        assert!(error.to_string().contains("enable_test_support!"), "{error}");
    }
}
