//! The arguments of `cofferdam run`.

use std::path::PathBuf;

use clap::Args;
use cofferdam_protocol::fault::Fault;

use super::super::args::{BlockArgs, ModuleArgs, Policy, PoolArgs};

/// Arguments of `cofferdam run`.
#[derive(Debug, Args)]
pub(in super::super) struct RunArgs {
    #[command(flatten)]
    pub(in super::super) module: ModuleArgs,

    #[command(flatten)]
    pub(super) blocks: BlockArgs,

    #[command(flatten)]
    pub(super) pool: PoolArgs,

    /// What happens when a block fails with a guest verdict, which every host would have.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub(super) on_guest_failure: Policy,

    /// The directory of the state. A run goes on from the newest block in it [default: a directory that is made for the run and
    /// removed afterwards].
    #[arg(long, value_name = "DIR")]
    pub(super) db_path: Option<PathBuf>,

    /// Run the blocks in this process, on memory that the kernel provides when it is touched. This is the ordinary way to run a
    /// guest, to compare with: memory is not committed, blocks are not isolated, and no deadline is kept.
    #[arg(long, conflicts_with_all = ["workers", "spares", "retries", "commit", "huge_pages", "reset", "mlock", "skip_admission", "plant_fault"])]
    pub(super) uncommitted: bool,

    /// Print one JSON object for each block, once the block is committed, and a last one with a summary, instead of a table. With
    /// --uncommitted, print another one before each block: the process may die in the block.
    #[arg(long)]
    pub(super) json: bool,

    /// Print another JSON object before each block, with the height of the block.
    #[arg(long, hide = true, requires = "json")]
    pub(super) announce: bool,

    /// Plant a fault in a worker, for tests: HEIGHT:KIND or HEIGHTxATTEMPTS:KIND.
    #[arg(long, value_name = "FAULT", hide = true)]
    pub(super) plant_fault: Vec<Fault>,
}
