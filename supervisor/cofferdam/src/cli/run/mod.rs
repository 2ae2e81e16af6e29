//! `cofferdam run`: blocks from wherever they come, indexed on committed workers, reported as they complete.

mod session;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::fault::Fault;
use cofferdam_protocol::profile::Profile;
use session::Session;
pub(super) use session::{print_json, read_ahead};
use tempfile::TempDir;

use super::args::{self, BlockArgs, ModuleArgs, Policy, PoolArgs};
use super::error::CliError;
use super::logging;
use super::report::{Summary, SummaryLine};
use super::signals::{self, Stop};
use cofferdam_chain::blocks::{BlockSource, IndexedRange};
use cofferdam_pool::{Health, Pool, PoolBuilder};
use cofferdam_store::{Durability, Identity, Store};

/// How long a drain waits for workers to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// Arguments of `cofferdam run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) module: ModuleArgs,

    #[command(flatten)]
    blocks: BlockArgs,

    #[command(flatten)]
    pool: PoolArgs,

    /// What to do when a block ends in a guest verdict other than `completed`.
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_guest_failure: Policy,

    /// The directory of the store. A store that is there is continued [default: a temporary directory].
    #[arg(long, value_name = "DIR")]
    db_path: Option<PathBuf>,

    /// Run the blocks in this process, on memory that is not committed: the ordinary way, for comparison. There is no isolation
    /// and no deadline.
    #[arg(long, conflicts_with_all = ["workers", "spares", "retries", "commit", "huge_pages", "reset", "mlock", "skip_admission", "plant_fault"])]
    uncommitted: bool,

    /// Print one JSON object for each block and a last one with a summary, instead of a table. With --uncommitted one more object
    /// comes before each block, because the process may die in the block.
    #[arg(long)]
    json: bool,

    /// Print one more object before each block.
    #[arg(long, hide = true, requires = "json")]
    announce: bool,

    /// Plant a fault, to see what follows: HEIGHT:KIND or HEIGHTxATTEMPTS:KIND.
    #[arg(long, value_name = "FAULT", hide = true)]
    plant_fault: Vec<Fault>,
}

/// Runs the command.
pub(super) fn run(args: &RunArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    // What costs nothing to find out comes first: nobody waits for 4 GiB to hear of a misspelt path.
    let module = args.module.read()?;
    let builder = args.pool.builder(module, args.blocks.max_block_bytes).faults(args.plant_fault.clone());
    let home = Home::open(args, &builder.profile()?)?;
    let known = home.known()?;
    // What is asked for begins below the store, which cannot be made good any more.
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

/// Whether the run went to its end, and what to say of it.
type Indexed = (Result<bool, CliError>, Summary);

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

/// The store, and the directory that was made for it if it is not kept.
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

    /// The blocks that the store has.
    fn known(&self) -> Result<Option<IndexedRange>, CliError> {
        let (first, tip) = (self.store.first_height()?, self.store.tip()?);
        Ok(first.zip(tip).map(|(first, tip)| IndexedRange { first, tip: tip.height, overlap: 0 }))
    }
}

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
