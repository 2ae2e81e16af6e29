//! Arguments that several commands share: which memory, and how it is committed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};

use crate::host::size::Bytes;
use crate::pool::PoolBuilder;

/// How memory is committed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Commit {
    /// Ask the kernel to populate every page (MADV_POPULATE_WRITE).
    Populate,
    /// Write a unique pattern into every page, then zeros.
    Touch,
}

/// Which pages memory is committed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum HugePages {
    /// Huge pages where the host grants them.
    Auto,
    /// Ordinary pages only.
    Off,
}

/// How memory is made pristine again after a block.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Reset {
    /// Zero what recent blocks wrote much of, and ask the kernel what was written of the rest.
    Adaptive,
    /// Zero all memory that the guest had.
    Zero,
}

/// The memory of a worker.
#[derive(Debug, Args)]
pub(super) struct MemoryArgs {
    /// Memory that each worker commits and a guest may grow to, up to 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(super) memory: Bytes,

    /// How memory is committed.
    #[arg(long, value_name = "HOW", default_value = "populate")]
    commit: Commit,

    /// Which pages memory is committed in.
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    huge_pages: HugePages,

    /// How memory is made pristine again after a block.
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    reset: Reset,

    /// Lock the memory, so that it cannot be swapped out.
    #[arg(long)]
    mlock: bool,

    /// Let the kernel decide whether the memory is there, rather than the budget.
    #[arg(long)]
    skip_admission: bool,
}

impl MemoryArgs {
    pub(super) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
        let strategy = match self.commit {
            Commit::Populate => CommitStrategy::Populate,
            Commit::Touch => CommitStrategy::Touch,
        };
        let reset = match self.reset {
            Reset::Adaptive => ResetStrategy::Adaptive,
            Reset::Zero => ResetStrategy::Zero,
        };
        builder
            .memory(self.memory.0)
            .reset(reset)
            .commit(strategy)
            .huge_pages(self.huge_pages == HugePages::Auto)
            .lock_memory(self.mlock)
            .admission(!self.skip_admission)
    }
}

/// Where compiled modules are kept.
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Where compiled modules are kept [default: $XDG_CACHE_HOME/cofferdam or ~/.cache/cofferdam].
    #[arg(long, value_name = "DIR", env = "COFFERDAM_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Compile the module every time, whatever --cache-dir and its variable say.
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    pub(super) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
        match (&self.cache_dir, self.no_cache) {
            (_, true) => builder.cache(None),
            (Some(directory), false) => builder.cache(Some(directory.clone())),
            (None, false) => builder,
        }
    }
}
