//! The memory of a worker: how much, how it is committed, and how it is reset.

use clap::{Args, ValueEnum};
use cofferdam_protocol::message::{CommitStrategy, ResetStrategy};

use cofferdam_base::size::Bytes;
use cofferdam_pool::host::admission::Budget;
use cofferdam_pool::{Limits, PoolBuilder, PoolError, need_of};

/// How memory is committed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Commit {
    /// The kernel populates every page (MADV_POPULATE_WRITE).
    Populate,
    /// The worker writes a unique pattern into every page, then zeros.
    Touch,
}

/// Which pages memory is committed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum HugePages {
    /// Huge pages if the host grants them.
    Auto,
    /// Ordinary pages only.
    Off,
}

/// How memory is reset after a block.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Reset {
    /// Zero the regions that recent blocks mostly wrote; in the rest, zero the pages that the kernel reports as written.
    Adaptive,
    /// Zero all memory that the guest used.
    Zero,
}

/// The memory of a worker.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct MemoryArgs {
    /// Memory that each worker commits, and that a guest may grow to: at most 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(in crate::cli) memory: Bytes,

    /// How memory is committed.
    #[arg(long, value_name = "HOW", default_value = "populate")]
    commit: Commit,

    /// Which pages memory is committed in.
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    huge_pages: HugePages,

    /// How memory is reset after a block.
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    reset: Reset,

    /// Lock the memory (mlock), so that the kernel cannot swap it out.
    #[arg(long)]
    mlock: bool,

    /// Do not check beforehand that the host has the memory: let the kernel refuse it.
    #[arg(long)]
    skip_admission: bool,
}

impl MemoryArgs {
    /// `builder` with this memory.
    pub(in crate::cli) fn apply(&self, builder: PoolBuilder) -> PoolBuilder {
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

    /// Checks that the host has the memory for all of `workers`, unless the check is turned off. A command that needs several
    /// pools calls this before it starts the first pool.
    ///
    /// # Errors
    /// [`PoolError::Admission`] if the memory is not there.
    pub(in crate::cli) fn admit(&self, workers: u32, limits: &Limits) -> Result<(), PoolError> {
        if self.skip_admission {
            return Ok(());
        }
        Ok(Budget::read(None).fits(&need_of(workers, self.memory.0, limits))?)
    }
}
