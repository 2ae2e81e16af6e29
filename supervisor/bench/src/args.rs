//! The arguments of `cofferdam bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cofferdam_base::size::Bytes;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// A commit of memory, beside a memset of memory that is resident already.
    Commit,
    /// A reset of memory after a guest wrote to it, with the page faults that tracking causes, beside a memset.
    Reset,
    /// The time that the pool adds to a block, beside a fresh instance in one process, zeroing all memory, and a process a block.
    Overhead,
    /// Whole blocks and the guest's own time in them, beside one process on demand-paged memory.
    Guest,
    /// Blocks by one worker and by several, beside one process on demand-paged memory.
    Throughput,
    /// The time from the death of a busy worker to the result of its block, with a spare worker and without.
    Failover,
    /// Reads of the state by a guest, beside the same reads in one process.
    State,
    /// A chain of blocks from the first block to the last commit, beside the guest's own time.
    Chain,
    /// Requests over HTTP, beside a server that does nothing.
    Http,
}

/// Arguments of `cofferdam bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Sections to measure [default: all, which takes some minutes].
    #[arg(value_name = "SECTION")]
    pub(crate) sections: Vec<Section>,

    /// Memory that a worker commits. The bench uses up to three times as much.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(crate) memory: Bytes,

    /// Rounds. In each round, a figure of microseconds is taken many times.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,

    /// Print one JSON object a figure instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Also draw each section as an SVG file in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,
}
