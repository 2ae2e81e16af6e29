//! What the sections share: the arguments, builders of pools, and clocks.

use std::time::{Duration, Instant};

use cofferdam_pool::{Job, JobResult, Pool, PoolBuilder, Runner, Uncommitted};
use cofferdam_worker::memory::Scratch;
use indicatif::ProgressBar;
use tempfile::TempDir;

use crate::args::BenchArgs;
use crate::error::BenchError;

/// What every section needs: the arguments, the progress bar, and a cache of compiled modules.
pub(crate) struct Bench<'a> {
    pub(crate) args: &'a BenchArgs,
    pub(crate) bar: ProgressBar,
    /// A cache for modules that several sections use.
    pub(crate) cache: TempDir,
}

impl Bench<'_> {
    /// Shows what is being measured.
    pub(crate) fn doing(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// A builder of a pool with one worker.
    pub(crate) fn builder(&self, module: impl Into<Vec<u8>>) -> PoolBuilder {
        let cache = Some(self.cache.path().to_owned());
        Pool::builder(module).spares(0).cache(cache).memory(self.args.memory.0)
    }

    /// A runner on demand-paged memory in this process.
    pub(crate) fn uncommitted(&self, module: impl Into<Vec<u8>>) -> Result<Uncommitted, BenchError> {
        Ok(self.builder(module).build_uncommitted(None)?)
    }

    /// Nanoseconds of a memset over all resident memory, once in each round. A design that zeroes all memory needs this time
    /// for every block.
    pub(crate) fn zeroing_nanos(&self) -> Result<Vec<u64>, BenchError> {
        self.doing(format!("memset of {}", self.args.memory));
        let mut scratch = scratch(self.args.memory.0)?;
        let whole = 0..scratch.bytes();
        Ok((0..self.args.rounds).map(|_| nanos_of(|| scratch.zero(whole.clone()))).collect())
    }
}

/// Runs `job`, which has to complete: the time of a failed job is no measurement.
pub(crate) fn completed(runner: &impl Runner, job: &Job) -> Result<JobResult, BenchError> {
    let result = runner.call(job)?;
    match result.verdict.is_completed() {
        true => Ok(result),
        false => Err(BenchError::Usage(format!(
            "{job}: {} ({}); is --memory too small?",
            result.verdict, result.detail
        ))),
    }
}

pub(crate) fn scratch(bytes: u64) -> Result<Scratch, BenchError> {
    Scratch::commit(bytes).map_err(|error| BenchError::Usage(format!("--memory: {error}")))
}

/// Nanoseconds of `work`, if it succeeds.
pub(crate) fn try_nanos_of<T>(work: impl FnOnce() -> Result<T, BenchError>) -> Result<u64, BenchError> {
    let started = Instant::now();
    let done = work()?;
    let elapsed = started.elapsed();
    drop(done);
    Ok(nanos(elapsed))
}

/// Nanoseconds of `work`, which cannot fail.
pub(crate) fn nanos_of<T>(work: impl FnOnce() -> T) -> u64 {
    let started = Instant::now();
    std::hint::black_box(work());
    nanos(started.elapsed())
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
