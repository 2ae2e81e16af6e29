//! `cofferdam run`: blocks from wherever they come, indexed on committed workers, reported as they complete.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::verdict::Verdict;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use indicatif::ProgressBar;
use tempfile::TempDir;

use super::args::{CacheArgs, MemoryArgs};
use super::error::CliError;
use super::logging;
use super::report::{BlockLine, ChainEnd, Summary, SummaryLine, Tally};
use super::signals::Stop;
use crate::blocks::{self, BlockError, BlockInput, BlockSource};
use crate::chain::{Chain, Hashed, OnGuestFailure, Outcome, Step};
use crate::host::size::Bytes;
use crate::pool::{Limits, Pool, PoolBuilder};
use crate::sample;
use crate::store::{Durability, Identity, Store};

/// How many blocks are read and checked ahead of the workers.
const AHEAD: usize = 4;

/// How many lines may wait for the report on their reset before they are printed without it.
const WAITING_LINES: usize = 64;

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
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
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
    let source = open_blocks(args)?;
    let builder = pool_builder(args, module);
    let profile = builder.profile()?.hash();
    let home = Home::open(
        args,
        &Identity { profile, network: source.network().map(|network| network.to_string()) },
    )?;
    let mut pool = build_pool(builder, &home.store)?;
    let started = Instant::now();
    let mut session = Session::new(args, &pool, &home, &source)?;
    let ended = session.index(source, &stop);
    let summary = session.finish(started, stop.is_asked());
    pool.drain(GRACE);
    // A summary is due however the run ended: it says what is committed.
    let failed = print_summary(args, &summary?)?;
    let complete = ended?;
    Ok(if complete && !failed && !stop.is_asked() { CommandExit::Success } else { CommandExit::Failure })
}

fn read_module(path: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let Some(path) = path else { return Ok(sample::MODULE.to_vec()) };
    fs::read(path).map_err(|source| CliError::Module { path: path.to_owned(), source })
}

fn open_blocks(args: &RunArgs) -> Result<BlockSource, CliError> {
    if args.blocks.is_empty() {
        return Ok(blocks::bundled()?);
    }
    let inputs =
        args.blocks.iter().map(|input| input.parse::<BlockInput>()).collect::<Result<Vec<_>, _>>()?;
    let options = blocks::Options {
        start_height: args.start_height,
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

fn build_pool(builder: PoolBuilder, store: &Arc<Store>) -> Result<Pool, CliError> {
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
    });
    bar.finish_and_clear();
    Ok(pool?)
}

/// A run in progress.
struct Session<'a> {
    args: &'a RunArgs,
    pool: &'a Pool,
    store: &'a Store,
    chain: Chain<'a>,
    tally: Tally,
    waiting: VecDeque<Outcome>,
    bar: ProgressBar,
}

impl<'a> Session<'a> {
    fn new(
        args: &'a RunArgs,
        pool: &'a Pool,
        home: &'a Home,
        source: &BlockSource,
    ) -> Result<Self, CliError> {
        let policy = match args.on_guest_failure {
            Policy::Stop => OnGuestFailure::Stop,
            Policy::Skip => OnGuestFailure::Skip,
        };
        let chain = Chain::resume(pool, Arc::clone(&home.store), policy)?.linked(source.links());
        let bar = logging::bar(source.total(), "indexing {bar:40} {pos}/{len} {per_sec} {eta} {msg}");
        let (tally, waiting) = (Tally::new(), VecDeque::new());
        Ok(Self { args, pool, store: &home.store, chain, tally, waiting, bar })
    }

    /// Indexes every block; whether none of them stopped the run.
    fn index(&mut self, source: BlockSource, stop: &Stop) -> Result<bool, CliError> {
        let blocks = read_ahead(source)?;
        let result = self.index_from(&blocks, stop);
        self.print_waiting(true)?;
        self.bar.finish_and_clear();
        result
    }

    fn index_from(
        &mut self,
        blocks: &Receiver<Result<Hashed, BlockError>>,
        stop: &Stop,
    ) -> Result<bool, CliError> {
        const TICK: Duration = Duration::from_millis(20);
        while !stop.is_asked() {
            let block = match blocks.recv_timeout(TICK) {
                Ok(block) => block?,
                Err(RecvTimeoutError::Timeout) => {
                    self.print_waiting(false)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            };
            if !self.index_one(block)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Indexes one block; whether the run goes on.
    fn index_one(&mut self, block: Hashed) -> Result<bool, CliError> {
        let step = self.chain.step(block)?;
        self.bar.inc(1);
        let Step::Ran(outcome) = step else {
            self.tally.skipped += 1;
            return Ok(true);
        };
        self.tally.add(&outcome);
        self.report_trouble(&outcome);
        let goes_on = outcome.committed;
        self.waiting.push_back(*outcome);
        self.print_waiting(false)?;
        Ok(goes_on)
    }

    fn report_trouble(&self, outcome: &Outcome) {
        let result = &outcome.result;
        for line in result.log.lines() {
            tracing::debug!(target: "cofferdam::guest", height = outcome.height, "{line}");
        }
        if result.verdict.is_completed() {
            return;
        }
        let what = match (result.verdict, outcome.committed) {
            (Verdict::Guest(_), true) => "skipped",
            (Verdict::Guest(_), false) => "the run stops here; every host would say the same",
            (Verdict::Host(_), _) => "the run stops here; nothing of the block was committed",
        };
        tracing::error!("block {}: {} ({}): {what}", outcome.height, result.verdict, result.detail);
        let log: Vec<&str> = result.log.lines().collect();
        for line in log.iter().skip(log.len().saturating_sub(5)) {
            tracing::error!("block {}: the guest logged: {line}", outcome.height);
        }
    }

    /// Prints the lines of blocks whose reset is done, in order; all of them if `force`.
    fn print_waiting(&mut self, force: bool) -> Result<(), CliError> {
        const PATIENCE: Duration = Duration::from_secs(2);
        while let Some(outcome) = self.waiting.front() {
            let reset = &outcome.result.reset;
            if force {
                reset.wait(PATIENCE);
            }
            if reset.is_pending() && !force && self.waiting.len() <= WAITING_LINES {
                return Ok(());
            }
            let report = reset.report();
            if let Some(report) = report {
                self.tally.add_reset(report);
            }
            if self.args.json {
                print_json(&BlockLine::new(outcome, report))?;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn finish(&self, started: Instant, interrupted: bool) -> Result<Summary, CliError> {
        let end = ChainEnd {
            tip: self.chain.tip(),
            digest: self.chain.digest(),
            profile: self.pool.profile().hash(),
            db_path: self.args.db_path.as_ref().map(|_| self.store.path().display().to_string()),
            interrupted,
            elapsed: started.elapsed(),
        };
        let summary = self.tally.summary(&end, &self.pool.health());
        for worker in &summary.workers {
            if let Some(missing) = worker.missing_bytes().filter(|missing| *missing > 0) {
                tracing::warn!(
                    "worker {} has {} less resident than it committed: is the host swapping?",
                    worker.pid(),
                    Bytes(missing)
                );
            }
        }
        Ok(summary)
    }
}

/// Reads, checks and hashes blocks on a thread of its own, a few ahead.
fn read_ahead(source: BlockSource) -> Result<Receiver<Result<Hashed, BlockError>>, CliError> {
    let (sender, receiver) = bounded(AHEAD);
    let read = move || {
        for block in source {
            // The run has ended when nobody receives.
            if sender.send(block.map(Hashed::from)).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("cofferdam-blocks".to_owned()).spawn(read);
    thread.map_err(CliError::io("a thread to read blocks"))?;
    Ok(receiver)
}

fn print_json(line: &impl serde::Serialize) -> Result<(), CliError> {
    let print = || -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)?;
        out.flush()
    };
    print().map_err(CliError::io("standard output"))
}

/// Prints the summary; whether a block failed.
fn print_summary(args: &RunArgs, summary: &Summary) -> Result<bool, CliError> {
    let failed = summary.failed > 0;
    if args.json {
        print_json(&SummaryLine { summary })?;
    } else {
        writeln!(io::stdout(), "{}", summary.to_text()).map_err(CliError::io("standard output"))?;
    }
    Ok(failed)
}
