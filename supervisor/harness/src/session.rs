//! Runs a case. Each session has its own pool and its own state, and runs one chain of blocks on them.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Harness, HarnessError, Outcome, RunSettings};
use cofferdam_chain::blocks::{Origin, SourceBlock};
use cofferdam_chain::{OnFullDisk, Pipeline, PipelineSettings};
use cofferdam_pool::host::cgroup::ChildCgroup;
use cofferdam_pool::{Job, Limits, Pool, PoolBuilder};
use cofferdam_protocol::profile::Hash;
use cofferdam_store::{Durability, Identity, Store};

/// A running case. Its workers have committed their memory. Its state is empty at first, and the blocks write it. When the
/// session is dropped, its workers and its state are removed.
#[derive(Debug)]
pub struct Session {
    // The fields are dropped in this order: the workers, the state that they read, and last the cgroup that they ran in.
    pipeline: Pipeline,
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
        let settings = PipelineSettings {
            policy: harness.policy,
            linked: false,
            on_full_disk: OnFullDisk::Fail,
            ..PipelineSettings::default()
        };
        let pipeline = Pipeline::resume(Arc::clone(&pool), Arc::clone(&store), settings, Box::new(|_| {}))?;
        Ok(Self {
            pipeline,
            pool,
            store,
            _directory: directory,
            _host: host,
            memory_limit: harness.memory_bytes,
            limits: harness.limits,
            high_water: 0,
        })
    }

    /// Runs a block at the next height, the first one at height 0, and commits what the block writes if it completes.
    ///
    /// A block that does not complete is not committed, and the next block takes its height. With
    /// [`OnGuestFailure::Skip`](super::OnGuestFailure::Skip) a block with a guest verdict is committed without writes.
    ///
    /// # Panics
    /// If the block cannot be run at all: see [`Session::try_block_at`]. A block that fails is no panic but an [`Outcome`].
    #[track_caller]
    pub fn block(&mut self, block: impl Into<Vec<u8>>) -> Outcome {
        let height = self.tip().map_or(0, |tip| tip.saturating_add(1));
        expect(self.try_block_at(height, block))
    }

    /// As [`Session::block`], at a given height above the height of the state.
    ///
    /// # Panics
    /// As [`Session::block`], and if the state has that height already.
    #[track_caller]
    pub fn block_at(&mut self, height: u32, block: impl Into<Vec<u8>>) -> Outcome {
        expect(self.try_block_at(height, block))
    }

    /// As [`Session::block_at`], for tests of blocks that cannot be run at all.
    ///
    /// # Errors
    /// [`HarnessError::Passed`] if `height` is not above the height of the state; [`HarnessError::Pool`] if the block is
    /// longer than the input limit, or no worker is left; [`HarnessError::Store`].
    pub fn try_block_at(&mut self, height: u32, block: impl Into<Vec<u8>>) -> Result<Outcome, HarnessError> {
        if let Some(tip) = self.tip().filter(|tip| height <= *tip) {
            return Err(HarnessError::Passed { height, tip });
        }
        let block = block.into();
        let job = format!("block {height} ({} bytes)", block.len());
        let origin = Origin { file: Path::new("test").into(), offset: 0 };
        let ran = self.pipeline.push_and_wait(SourceBlock::opaque(height, block, origin).into())?;
        Ok(Outcome { digest: ran.digest, committed: ran.committed, ..self.outcome(job, ran.result) })
    }

    /// Calls the view `export` at the height of the state, or at 0 while the state is empty.
    ///
    /// # Panics
    /// If the view cannot be called at all: see [`Session::try_view`]. A view that fails is no panic but an [`Outcome`].
    #[track_caller]
    pub fn view(&mut self, export: &str, input: impl Into<Vec<u8>>) -> Outcome {
        expect(self.try_view(export, input))
    }

    /// As [`Session::view`], for tests of views that cannot be called at all.
    ///
    /// # Errors
    /// [`HarnessError::Pool`] if the input is longer than the input limit, the name is too long, or no worker is left.
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

    /// The height of the state; none while the state is empty.
    pub fn tip(&self) -> Option<u32> {
        self.pipeline.committed().tip
    }

    /// The digest of all committed blocks. Two sessions have the same digest exactly if their profiles, heights, blocks, verdicts
    /// and writes are the same.
    pub fn digest(&self) -> Hash {
        self.pipeline.committed().digest
    }

    /// Asserts that the digest is `expected`: a [`struct@Hash`], or its hexadecimal form.
    ///
    /// # Panics
    /// If the digest is another. The message has both.
    #[track_caller]
    pub fn assert_digest(&self, expected: impl std::fmt::Display) {
        let (expected, found) = (expected.to_string(), self.digest().to_string());
        if expected != found {
            let tip = self.tip().map_or("an empty state".to_owned(), |tip| format!("block {tip}"));
            panic!(
                "the digest at {tip} is not the expected one\n    expected: {expected}\n    found:    {found}"
            );
        }
    }

    /// The largest memory that the guest had at the end of a block or a view so far, in bytes.
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

    /// The pool, for everything that this type does not offer: the pool's health, for instance.
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
        // Admission is off, because a test with a limited host tests what the kernel does when workers do not fit.
        Some(host) => builder.cgroup(host.cgroup().clone()).admission(false),
        None => builder,
    }
}

/// Returns the value, or panics with the error at the line of the caller. This is a function and not a closure, because a closure
/// would report its own line.
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

    /// This test binary does not enable test support.
    #[test]
    fn a_binary_that_cannot_become_a_worker_is_told_so() {
        let error = Harness::new("(module)").start().unwrap_err();
        assert!(matches!(error, HarnessError::NotEnabled), "{error}");
        assert!(error.to_string().contains("enable_test_support!"), "{error}");
    }
}
