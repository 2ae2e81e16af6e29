//! The errors of cases that could not be run. A block that fails is not such an error: its result is an `Outcome`.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::difference::Difference;
use super::outcome::Outcome;
use cofferdam_base::size::Bytes;
use cofferdam_chain::ChainError;
use cofferdam_pool::PoolError;
use cofferdam_pool::host::cgroup::ChildError;
use cofferdam_store::StoreError;

/// Why a case could not be run, or why compared runs do not agree.
#[derive(Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The module's file could not be read.
    #[error("cannot read the module {path}: {source}; tests run in the directory of their package")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The test binary cannot become a worker.
    #[error(
        "this binary cannot start workers: put `cofferdam_harness::enable_test_support!();` at the top level of the test, or \
         call `cofferdam_harness::init()` first in `main`"
    )]
    NotEnabled,
    /// This machine cannot limit the memory of a host. This says nothing about the module.
    #[error("cannot limit the memory of a host to {}: {source}", Bytes(*bytes))]
    NoHostLimit {
        /// The limit in bytes.
        bytes: u64,
        /// Why the cgroup could not be made.
        source: ChildError,
    },
    /// A worker could not commit its memory. No block was run. The command would have ended with exit code 137.
    #[error("the workers could not commit their memory, so no block was run: {0}")]
    NotCommitted(PoolError),
    /// The pool could not be built, or did not accept a job.
    #[error(transparent)]
    Pool(PoolError),
    /// The temporary directory for the state could not be created.
    #[error("cannot create a temporary directory for the state: {0}; TMPDIR says where")]
    Directory(io::Error),
    /// The store of the state failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The height given for a block is not above the height of the state.
    #[error("block {height} cannot be run: the state is at height {tip} already, and heights must rise")]
    Passed {
        /// The height given.
        height: u32,
        /// The height of the state.
        tip: u32,
    },
    /// The pipeline failed in another way.
    #[error(transparent)]
    Chain(ChainError),
    /// The comparison could never find a difference: there are fewer than two runs, or no blocks.
    #[error("{runs} run(s) of {blocks} block(s) compare nothing: give at least 2 runs and 1 block")]
    NothingToCompare {
        /// The number of runs.
        runs: usize,
        /// The number of blocks.
        blocks: usize,
    },
    /// A block got a host verdict in one of the compared runs. This says nothing about the module.
    #[error("run {run} cannot be compared: the host, not the module, ended a block\n{outcome}")]
    Lost {
        /// The number of the run, counted from 1.
        run: usize,
        /// The outcome of the block.
        outcome: Box<Outcome>,
    },
    /// Two runs have different results.
    #[error(transparent)]
    NotDeterministic(Box<Difference>),
}

cofferdam_protocol::debug_as_display!(HarnessError);

impl HarnessError {
    /// Whether memory could not be committed. In this case the command ends with exit code 137.
    pub fn is_not_committed(&self) -> bool {
        matches!(self, Self::NotCommitted(_))
    }

    /// Whether this machine cannot limit the memory of a host. A test that needs such a limit should then skip the case, and
    /// print that it skips it.
    pub fn is_no_host_limit(&self) -> bool {
        matches!(self, Self::NoHostLimit { .. })
    }
}

impl From<PoolError> for HarnessError {
    fn from(error: PoolError) -> Self {
        if error.is_memory() { Self::NotCommitted(error) } else { Self::Pool(error) }
    }
}

impl From<ChainError> for HarnessError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Store(error) => error.into(),
            ChainError::Pool(error) => error.into(),
            error => Self::Chain(error),
        }
    }
}
