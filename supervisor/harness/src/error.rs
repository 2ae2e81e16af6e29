//! Why a case could not be run, as opposed to what came of it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Difference, Outcome};
use cofferdam_base::size::Bytes;
use cofferdam_chain::ChainError;
use cofferdam_pool::PoolError;
use cofferdam_pool::host::cgroup::ChildError;
use cofferdam_store::StoreError;

/// Why a case could not be run, or a comparison of runs did not end in agreement.
#[derive(Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// The module's file could not be read.
    #[error("the module {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The test binary would not become a worker.
    #[error(
        "this binary cannot start workers: put `cofferdam_harness::enable_test_support!();` at the top level of the test, or \
         call `cofferdam_harness::init()` first in `main`"
    )]
    NotEnabled,
    /// The host's memory cannot be limited here. This says nothing about the module.
    #[error("a host of {} cannot be made here: {source}", Bytes(*bytes))]
    NoHostLimit {
        /// Bytes that the host was to have.
        bytes: u64,
        /// Why not.
        source: ChildError,
    },
    /// The memory is not there. No block was run; the command would have ended with exit code 137.
    #[error("the workers have not their memory, so no block was run: {0}")]
    NotCommitted(PoolError),
    /// The pool could not be built, or took no job.
    #[error(transparent)]
    Pool(PoolError),
    /// There is no temporary directory for the state.
    #[error("no directory can be made for the state: {0}")]
    Directory(io::Error),
    /// The state failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A block at a height that the state has passed.
    #[error("block {height} cannot follow: the state is at height {tip} already, and heights rise")]
    Passed {
        /// The height given.
        height: u32,
        /// The state's height.
        tip: u32,
    },
    /// The chain failed in another way.
    #[error(transparent)]
    Chain(ChainError),
    /// A comparison that could not fail.
    #[error("{runs} runs of {blocks} blocks compare nothing: give at least 2 runs and a block")]
    NothingToCompare {
        /// Runs asked for.
        runs: usize,
        /// Blocks given.
        blocks: usize,
    },
    /// A block was lost to the host in one of the runs to be compared. This says nothing about the module.
    #[error("run {run} cannot be compared: the host, not the module, ended a block\n{outcome}")]
    Lost {
        /// Which run, counted from 1.
        run: usize,
        /// What happened.
        outcome: Box<Outcome>,
    },
    /// Two runs gave different results.
    #[error(transparent)]
    NotDeterministic(Box<Difference>),
}

cofferdam_protocol::debug_as_display!(HarnessError);

impl HarnessError {
    /// Whether memory could not be committed: what ends the command with exit code 137.
    pub fn is_not_committed(&self) -> bool {
        matches!(self, Self::NotCommitted(_))
    }

    /// Whether the machine has no limited host to give, so that a test which needs one is to be skipped, loudly.
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
