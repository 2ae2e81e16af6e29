//! `cofferdam run`: indexes blocks on committed workers, and reports each block once it is committed.

mod arguments;
mod lines;
mod reader;
mod session;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use arguments::RunArgs;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Profile;
pub(super) use lines::print_json;
pub(super) use reader::read_ahead;
use session::Session;
use tempfile::TempDir;

use super::args;
use super::error::CliError;
use super::logging;
use super::report::{Summary, SummaryLine};
use super::signals::{self, Stop};
use cofferdam_chain::blocks::{BlockSource, IndexedRange};
use cofferdam_pool::{Health, Pool, PoolBuilder};
use cofferdam_store::{Durability, Identity, Store};

/// The most bytes that the layers of blocks which are not committed yet take.
const MAX_LAYER_BYTES: u64 = 64 << 20;

/// How long a drain waits until workers end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) fn run(args: &RunArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    // The checks that cost little come first: a misspelt path is reported before 4 GiB are committed.
    let module = args.module.read()?;
    let builder = args.pool.builder(module, args.blocks.max_block_bytes).faults(args.plant_fault.clone());
    let profile = builder.profile()?;
    let builder = builder.layer_bytes(layer_bytes(profile.memory_bytes));
    let home = Home::open(args, &profile)?;
    let known = home.known()?;
    // Blocks below the first block of a store cannot be added to it.
    if let (Some(IndexedRange { first, .. }), Some(asked)) = (known, args.blocks.start_height())
        && asked < first
    {
        let path = home.store.path().to_owned();
        return Err(CliError::Start { path, first, option: "--start-height", asked });
    }
    let source = args.blocks.open(known)?;
    if let Some(network) = source.network() {
        home.store.set_network(&network.to_string())?;
    }
    let indexing = Indexing { args, store: &home.store, source, stop: &stop };
    let index = if args.uncommitted { Indexing::uncommitted } else { Indexing::committed };
    let (ended, mut summary) = index(indexing, builder)?;
    summary.error = ended.as_ref().err().map(ToString::to_string);
    if matches!(ended, Err(CliError::StdoutClosed)) {
        // Not all blocks were indexed. No message is needed: the reader itself has closed the output.
        return Ok(CommandExit::Failure);
    }
    // A summary is printed after an error, too, because it says what is committed. A table without a block is not printed.
    if ended.is_ok() || args.json || summary.blocks > 0 {
        print_summary(args, &summary)?;
    }
    let complete = ended? && summary.failed == 0;
    Ok(if complete && !stop.is_asked() { CommandExit::Success } else { CommandExit::Failure })
}

/// Whether no block stopped the run, and the summary of the run.
type Indexed = (Result<bool, CliError>, Summary);

/// The size of the layers for guests with `memory_bytes` of memory. The memory of the layers is committed, so the layers of small
/// guests are small.
fn layer_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / 16).min(MAX_LAYER_BYTES)
}

/// A run that is about to begin.
struct Indexing<'a> {
    args: &'a RunArgs,
    store: &'a Arc<Store>,
    source: BlockSource,
    stop: &'a Stop,
}

impl Indexing<'_> {
    fn committed(self, builder: PoolBuilder) -> Result<Indexed, CliError> {
        let Self { args, store, source, stop } = self;
        let pool = build_pool(builder, store, stop)?;
        let started = Instant::now();
        let mut session = Session::new(args, &pool, store, &source)?;
        let ended = signals::obeying(stop, &pool, GRACE, || session.index(source, stop));
        let summary = session.finish(started, stop.is_asked(), &pool.health());
        pool.drain(GRACE);
        Ok((ended, summary))
    }

    fn uncommitted(self, builder: PoolBuilder) -> Result<Indexed, CliError> {
        let Self { args, store, source, stop } = self;
        let runner = builder.build_uncommitted(Some(store.reader()))?;
        let started = Instant::now();
        let mut session = Session::new(args, &runner, store, &source)?;
        let ended = session.index(source, stop);
        let summary = session.finish(started, stop.is_asked(), &Health::default());
        Ok((ended, summary))
    }
}

/// The store, and the directory that was made for it if the store is not kept.
struct Home {
    store: Arc<Store>,
    _temporary: Option<TempDir>,
}

impl Home {
    fn open(args: &RunArgs, profile: &Profile) -> Result<Self, CliError> {
        if let Some(path) = &args.db_path {
            let store = Store::open_with_profile(path, profile, None, Durability::Block)?;
            return Ok(Self { store: Arc::new(store), _temporary: None });
        }
        let directory = tempfile::Builder::new().prefix("cofferdam-").tempdir();
        let directory =
            directory.map_err(CliError::io("a directory for the state; --db-path names another place"))?;
        let identity = Identity { profile: profile.hash(), network: None };
        let store = Store::open(directory.path(), &identity, Durability::None)?;
        Ok(Self { store: Arc::new(store), _temporary: Some(directory) })
    }

    /// The blocks that the store has; none if the store is empty.
    fn known(&self) -> Result<Option<IndexedRange>, CliError> {
        let (first, tip) = (self.store.first_height()?, self.store.tip()?);
        Ok(first.zip(tip).map(|(first, tip)| IndexedRange { first, tip: tip.height, overlap: 0 }))
    }
}

/// Builds a pool whose guests read `store`, with a progress bar. Gives up if `stop` is asked.
pub(super) fn build_pool(builder: PoolBuilder, store: &Arc<Store>, stop: &Stop) -> Result<Pool, CliError> {
    let builder = args::reading(builder, store);
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
        return print_json(&SummaryLine { summary });
    }
    writeln!(io::stdout(), "{}", summary.to_text()).map_err(CliError::io("standard output"))
}
