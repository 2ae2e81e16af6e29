//! `cofferdam diff`: runs two modules over the same blocks, each on its own worker and state, until their results differ.

mod report;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Profile;
use crossbeam_channel::RecvTimeoutError;
use indicatif::ProgressBar;
use tempfile::TempDir;

use self::report::{DiffReport, Found};
use super::args::{self, BlockArgs, CacheArgs, HexBytes, LimitArgs, MemoryArgs, ModuleArgs};
use super::error::CliError;
use super::logging;
use super::run::{build_pool, print_json, read_ahead};
use super::signals::{self, Stop};
use cofferdam_chain::blocks::BlockSource;
use cofferdam_chain::{OnFullDisk, OnGuestFailure, Pipeline, PipelineSettings};
use cofferdam_node::agreement::diff::{Compared, Comparison};
use cofferdam_pool::{Pool, PoolBuilder, PoolError};
use cofferdam_store::{Durability, Identity, Store};

/// How long a drain waits until workers end by themselves.
const GRACE: Duration = Duration::from_secs(10);

const AFTER_HELP: &str = "\
Exit codes:
  0    the modules write the same in all blocks
  1    the modules differ: the first difference is printed
  2    the comparison did not finish: a wrong command line, a bad block, or an interruption
  69   no healthy worker is left
  137  memory could not be committed";

/// Arguments of `cofferdam diff`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    pub(super) module: ModuleArgs,

    /// The second module (B), as .wasm or .wat.
    #[arg(long, value_name = "FILE")]
    compare: PathBuf,

    /// Compare only keys that begin with these bytes, in hexadecimal, with or without 0x.
    #[arg(long, value_name = "HEX", default_value = "0x")]
    prefix: HexBytes,

    #[command(flatten)]
    blocks: BlockArgs,

    /// The last height that is compared.
    #[arg(long, value_name = "HEIGHT")]
    exit_at: Option<u32>,

    #[command(flatten)]
    memory: MemoryArgs,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    cache: CacheArgs,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

const NO_MODULE: &str =
    "diff compares two modules: give the first as MODULE or --module, the second as --compare";

/// Runs the command.
pub(super) fn run(args: &DiffArgs) -> Result<CommandExit, CliError> {
    compare(args).map_err(CliError::not_compared)
}

fn compare(args: &DiffArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    // The checks that cost little come first.
    let indexer = args.module.path().ok_or_else(|| CliError::Usage(NO_MODULE.to_owned()))?;
    let sides = [side(args, indexer)?, side(args, &args.compare)?];
    let source = args.blocks.open(None)?;
    args.memory.admit(2, &args.limits.limits(args.blocks.max_block_bytes))?;
    let mut report = DiffReport::new(sides.each_ref().map(|side| (side.path, &side.profile)), &args.prefix.0);
    let [first, second] = sides;
    let states = [Scratch::new(&first.profile)?, Scratch::new(&second.profile)?];
    let pools = [
        build_pool(first.builder, &states[0].store, &stop)?,
        build_pool(second.builder, &states[1].store, &stop)?,
    ];
    let started = Instant::now();
    let ended = signals::obeying(&stop, &pools[0], GRACE, || {
        signals::obeying(&stop, &pools[1], GRACE, || {
            compare_on(args, &pools, &states, source, &stop, &mut report)
        })
    });
    report.seconds = started.elapsed().as_secs_f64();
    report.interrupted = stop.is_asked();
    report.error = ended.as_ref().err().map(ToString::to_string);
    for pool in &pools {
        pool.drain(GRACE);
    }
    if ended.is_ok() || args.json {
        print(args, &report)?;
    }
    ended.map(|()| report.exit())
}

/// A module, and the pool that runs it.
struct Side<'a> {
    path: &'a Path,
    builder: PoolBuilder,
    profile: Profile,
}

fn side<'a>(args: &DiffArgs, path: &'a Path) -> Result<Side<'a>, CliError> {
    let module = args::read_module(Some(path))?;
    let limits = args.limits.limits(args.blocks.max_block_bytes);
    let builder = Pool::builder(module).workers(1).spares(0).limits(limits);
    let builder = args.cache.apply(args.memory.apply(builder));
    let profile = builder.profile()?;
    Ok(Side { path, builder, profile })
}

/// A store that is removed when the command ends.
struct Scratch {
    store: Arc<Store>,
    _directory: TempDir,
}

impl Scratch {
    fn new(profile: &Profile) -> Result<Self, CliError> {
        let directory = tempfile::Builder::new().prefix("cofferdam-diff-").tempdir();
        let directory =
            directory.map_err(CliError::io("a directory for the state (TMPDIR names another place)"))?;
        let identity = Identity { profile: profile.hash(), network: None };
        let store = Store::open(directory.path(), &identity, Durability::None)?;
        Ok(Self { store: Arc::new(store), _directory: directory })
    }
}

/// Compares the blocks one by one, until there is a difference or no further block.
fn compare_on(
    args: &DiffArgs,
    pools: &[Pool; 2],
    states: &[Scratch; 2],
    source: BlockSource,
    stop: &Stop,
    report: &mut DiffReport,
) -> Result<(), CliError> {
    let settings = PipelineSettings {
        // A block that fails on both sides is no difference, and the blocks after it are compared, too.
        policy: OnGuestFailure::Skip,
        linked: source.links(),
        on_full_disk: OnFullDisk::Fail,
        ..PipelineSettings::default()
    };
    let chain = |side: usize| {
        let store = Arc::clone(&states[side].store);
        Pipeline::resume(&pools[side], store, settings, Box::new(|_| {}))
    };
    let mut comparison = Comparison::new([chain(0)?, chain(1)?], args.prefix.0.clone());
    let bar = logging::bar(source.total(), "comparing {bar:40} {pos}/{len} {per_sec} {eta}");
    let result = compare_blocks(args, &mut comparison, source, stop, &bar, report);
    bar.finish_and_clear();
    result
}

fn compare_blocks(
    args: &DiffArgs,
    comparison: &mut Comparison<&Pool>,
    source: BlockSource,
    stop: &Stop,
    bar: &ProgressBar,
    report: &mut DiffReport,
) -> Result<(), CliError> {
    const TICK: Duration = Duration::from_millis(20);
    let (blocks, reader) = read_ahead(source)?;
    while !stop.is_asked() {
        let block = match blocks.recv_timeout(TICK) {
            Ok(block) => block?,
            Err(RecvTimeoutError::Timeout) => continue,
            // A reader that panicked has not read all blocks.
            Err(RecvTimeoutError::Disconnected) => return reader.join().map_err(|_| CliError::Reader),
        };
        if args.exit_at.is_some_and(|last| block.block.height > last) {
            return Ok(());
        }
        let compared = match comparison.compare(block).map_err(CliError::from) {
            Ok(compared) => compared,
            // The interruption has ended the block before its result.
            Err(CliError::Pool(PoolError::Draining)) if stop.is_asked() => return Ok(()),
            Err(error) => return Err(error),
        };
        if !take(report, compared) {
            return Ok(());
        }
        bar.inc(1);
    }
    Ok(())
}

/// Adds one block to the report. Returns whether the results are equal.
fn take(report: &mut DiffReport, compared: Compared) -> bool {
    let [outcome, _] = &compared.outcomes;
    let Some(difference) = compared.difference else {
        if !outcome.result.verdict.is_completed() && report.failed() == 0 {
            tracing::warn!(
                "block {}: both modules end with {}. The results are equal, and both modules go on without writes of this block",
                outcome.height,
                outcome.result.verdict
            );
        }
        report.add_equal(outcome, compared.keys);
        return true;
    };
    report.difference = Some(Found::new(outcome, difference));
    false
}

fn print(args: &DiffArgs, report: &DiffReport) -> Result<(), CliError> {
    let printed = match args.json {
        true => print_json(report),
        false => writeln!(io::stdout(), "{report}").map_err(CliError::io("standard output")),
    };
    match printed {
        // A reader that closed the output still gets the exit code.
        Err(CliError::StdoutClosed) => Ok(()),
        printed => printed,
    }
}
