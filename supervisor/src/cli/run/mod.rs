//! `cofferdam run`: blocks from wherever they come, indexed on committed workers, reported as they complete.

mod session;

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::fault::Fault;
use cofferdam_worker::module::MAX_MODULE_BYTES;
use session::Session;
use tempfile::TempDir;

use super::args::{CacheArgs, MemoryArgs};
use super::error::CliError;
use super::logging;
use super::report::{Summary, SummaryLine};
use super::signals::{self, Stop};
use crate::blocks::{self, BlockInput, BlockSource};
use crate::chain::OnGuestFailure;
use crate::host::size::Bytes;
use crate::pool::{Limits, Pool, PoolBuilder};
use crate::sample;
use crate::store::{Durability, Identity, Store};

/// How long a drain waits for workers to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// What to do when a block does not complete for a reason of its own.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    /// Stop at that block, which is not committed.
    Stop,
    /// Commit the block with its verdict and without writes, and go on.
    Skip,
}

impl From<Policy> for OnGuestFailure {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Stop => Self::Stop,
            Policy::Skip => Self::Skip,
        }
    }
}

/// Arguments of `cofferdam run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The indexer, as .wasm or .wat [default: the bundled sample indexer].
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,

    /// Blocks: raw block files, directories, bitcoind's blk*.dat, HEIGHT=FILE, or - for standard input [default: the
    /// bundled blocks, mainnet 0 to 438 and 702861].
    #[arg(long, value_name = "PATH|HEIGHT=PATH|-", num_args = 1..)]
    blocks: Vec<String>,

    /// Height of the first block; of a chain whose heights are known, the first one to take.
    #[arg(long, value_name = "H")]
    start_height: Option<u32>,

    /// Demand that every block names the one before it.
    #[arg(long)]
    check_chain: bool,

    /// Feed files as they are, whether they are Bitcoin blocks or not.
    #[arg(long, conflicts_with = "check_chain")]
    opaque: bool,

    /// The largest block that is taken.
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    max_block_bytes: Bytes,

    /// Jobs that can run at a time, each on a worker of its own. A chain runs one block at a time; more workers let
    /// one reset while another runs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,

    /// Committed workers more, to take over when one dies [default: 1 if there is memory for it].
    #[arg(long, value_name = "N")]
    spares: Option<usize>,

    #[command(flatten)]
    memory: MemoryArgs,

    /// Fuel per block; without it, fuel is not metered.
    #[arg(long, value_name = "F")]
    fuel: Option<u64>,

    /// Wall-clock time that one attempt at a block may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,

    /// How often a block is run again after its worker was lost.
    #[arg(long, value_name = "N", default_value_t = 2)]
    retries: u32,

    /// Bytes that one block may write.
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    max_output_bytes: Bytes,

    /// What to do when a block does not complete for a reason of its own.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_guest_failure: Policy,

    /// Keep the state here, and go on from what is there [default: a directory that is made for the run].
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    #[command(flatten)]
    cache: CacheArgs,

    /// One JSON object a block and a last one with a summary, instead of a table.
    #[arg(long)]
    json: bool,

    /// Plant a fault, to see what follows: HEIGHT:KIND or HEIGHTxATTEMPTS:KIND.
    #[arg(long, value_name = "FAULT", hide = true)]
    plant_fault: Vec<Fault>,
}

/// Runs the command.
pub(super) fn run(args: &RunArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    // What costs nothing to find out comes first: nobody waits for 4 GiB to hear of a misspelt path.
    let module = read_module(args.module.as_deref())?;
    let builder = pool_builder(args, module);
    let home = Home::open(args, &Identity { profile: builder.profile()?.hash(), network: None })?;
    let source = open_blocks(args, home.store.tip()?.map_or(0, |tip| tip.height))?;
    if let Some(network) = source.network() {
        home.store.set_network(&network.to_string())?;
    }
    let pool = build_pool(builder, &home.store, &stop)?;
    let started = Instant::now();
    let mut session = Session::new(args, &pool, &home.store, &source)?;
    let ended = signals::obeying(&stop, &pool, GRACE, || session.index(source, &stop));
    let summary = session.finish(started, stop.is_asked());
    pool.drain(GRACE);
    if matches!(ended, Err(CliError::StdoutClosed)) {
        // Not all blocks were indexed; whoever stopped reading knows why.
        return Ok(CommandExit::Failure);
    }
    // A summary is due however the run ended, since it says what is committed; a table of nothing tells nobody more
    // than the error.
    if ended.is_ok() || args.json || summary.blocks > 0 {
        print_summary(args, &summary)?;
    }
    let complete = ended? && summary.failed == 0;
    Ok(if complete && !stop.is_asked() { CommandExit::Success } else { CommandExit::Failure })
}

fn read_module(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let Some(path) = path else { return Ok(sample::MODULE.to_vec()) };
    let mut module = Vec::new();
    // One byte more than is taken, so that a longer file is refused by its length.
    let read = File::open(path).and_then(|file| file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut module));
    read.map_err(|source| CliError::Module { path: path.to_owned(), source })?;
    Ok(module)
}

/// Opens the blocks; of a chain, those from `known_below` on, which the store's newest block is at.
fn open_blocks(args: &RunArgs, known_below: u32) -> Result<BlockSource, CliError> {
    if args.blocks.is_empty() {
        return Ok(blocks::bundled()?);
    }
    let inputs =
        args.blocks.iter().map(|input| input.parse::<BlockInput>()).collect::<Result<Vec<_>, _>>()?;
    let options = blocks::Options {
        start_height: args.start_height,
        known_below,
        check_chain: args.check_chain,
        opaque: args.opaque,
        max_block_bytes: args.max_block_bytes.0,
    };
    let bar = logging::bar(None, "scanning blocks {bar:40} {bytes}/{total_bytes} {eta}");
    let source = blocks::open(&inputs, &options, &mut |scanned, total| {
        bar.set_length(total);
        bar.set_position(scanned);
    });
    bar.finish_and_clear();
    Ok(source?)
}

fn pool_builder(args: &RunArgs, module: Vec<u8>) -> PoolBuilder {
    let limits = Limits {
        fuel: args.fuel,
        deadline: args.deadline,
        retries: args.retries,
        input_bytes: args.max_block_bytes.0,
        output_bytes: args.max_output_bytes.0,
    };
    let mut builder =
        Pool::builder(module).workers(args.workers).limits(limits).faults(args.plant_fault.clone());
    if let Some(spares) = args.spares {
        builder = builder.spares(spares);
    }
    args.cache.apply(args.memory.apply(builder))
}

/// The store, and the directory that was made for it if it is not kept.
struct Home {
    store: Arc<Store>,
    _temporary: Option<TempDir>,
}

impl Home {
    fn open(args: &RunArgs, identity: &Identity) -> Result<Self, CliError> {
        if let Some(path) = &args.db_path {
            let store = Store::open(path, identity, Durability::Block)?;
            return Ok(Self { store: Arc::new(store), _temporary: None });
        }
        let directory = tempfile::Builder::new().prefix("cofferdam-").tempdir();
        let directory =
            directory.map_err(CliError::io("a directory for the state; --db-path names another place"))?;
        let store = Store::open(directory.path(), identity, Durability::None)?;
        Ok(Self { store: Arc::new(store), _temporary: Some(directory) })
    }
}

fn build_pool(builder: PoolBuilder, store: &Arc<Store>, stop: &Stop) -> Result<Pool, CliError> {
    let readers = Arc::clone(store);
    let builder = builder.state(store.path()).on_death(move |_| {
        // A dead reader's slot would keep old pages from being used again.
        if let Err(error) = readers.clear_stale_readers() {
            tracing::warn!("{error}");
        }
    });
    let bar = logging::bar(None, "committing memory {bar:40} {bytes}/{total_bytes}");
    let pool = builder.build_with(&mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.committed_bytes);
        if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(pool?)
}

fn print_summary(args: &RunArgs, summary: &Summary) -> Result<(), CliError> {
    if args.json {
        return session::print_json(&SummaryLine { summary });
    }
    writeln!(io::stdout(), "{}", summary.to_text()).map_err(CliError::io("standard output"))
}
