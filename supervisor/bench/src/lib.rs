//! `cofferdam bench`: figures of this machine, each beside its alternatives, measured in the same run.
//!
//! Absolute times move with the machine and its neighbours; what to keep is the ratio. So ours and theirs take turns,
//! round by round, wherever both fit into memory. `figure` is what is measured, `output` and `plot` show it, the rest is a
//! file for each section.

mod chain;
mod commit;
mod error;
mod failover;
mod figure;
mod guest;
mod guests;
mod http;
mod output;
mod overhead;
mod plot;
mod reset;
mod state;
mod throughput;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use cofferdam_protocol::exit::CommandExit;
use cofferdam_worker::memory::Scratch;
use indicatif::ProgressBar;
use tempfile::TempDir;

pub use error::BenchError;

use self::figure::Figure;
use cofferdam_base::size::Bytes;
use cofferdam_pool::{Job, JobResult, Pool, PoolBuilder, Runner, Uncommitted};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Committing memory, beside writing over memory that is resident already.
    Commit,
    /// Resetting memory after a guest wrote to it, the guest's page faults counted in, beside writing over as much.
    Reset,
    /// What the pool adds to a block, beside a fresh instance in one process, zeroing all memory, and a process per block.
    Overhead,
    /// Whole blocks, one after the other, and the guest's own time in them, beside one process on ordinary memory.
    Guest,
    /// Blocks by one worker and more, beside one process on ordinary memory.
    Throughput,
    /// From the death of a busy worker to its block's result, with a spare worker and without.
    Failover,
    /// Values of the state that a guest reads, beside the same reads in one process.
    State,
    /// A chain of blocks from the first to the last commit, beside the guest's own time in it.
    Chain,
    /// Requests over HTTP beside those of a server that does nothing.
    Http,
}

/// Arguments of `cofferdam bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure [default: everything, which takes some minutes].
    #[arg(value_name = "SECTION")]
    sections: Vec<Section>,

    /// Memory that a worker commits. Up to three times as much is used.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Bytes,

    /// How often each figure is taken; a figure of microseconds is taken many times a round.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// One JSON object a figure instead of a table.
    #[arg(long)]
    json: bool,

    /// Draw each section, too, as SVG into this directory.
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

/// What every section measures with.
struct Bench<'a> {
    args: &'a BenchArgs,
    bar: ProgressBar,
    /// Where modules that are used more than once are compiled once.
    cache: TempDir,
}

/// Runs the command.
///
/// `bar` says what is being measured.
///
/// # Errors
/// Any [`BenchError`].
pub fn run(args: &BenchArgs, bar: ProgressBar) -> Result<CommandExit, BenchError> {
    let cache = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir();
    let cache = cache.map_err(BenchError::io("a directory for compiled modules"))?;
    let bench = Bench { args, bar, cache };
    let sections: [(Section, Measure); 9] = [
        (Section::Commit, commit::measure),
        (Section::Reset, reset::measure),
        (Section::Overhead, overhead::measure),
        (Section::Guest, guest::measure),
        (Section::Throughput, throughput::measure),
        (Section::Failover, failover::measure),
        (Section::State, state::measure),
        (Section::Chain, chain::measure),
        (Section::Http, http::measure),
    ];
    let mut figures = Vec::new();
    for (section, measure) in sections {
        if args.sections.is_empty() || args.sections.contains(&section) {
            figures.extend(measure(&bench)?);
        }
    }
    bench.bar.finish_and_clear();
    output::print(args.json, &figures).map_err(BenchError::io("standard output"))?;
    if let Some(directory) = &args.plot {
        plot::draw(directory, &figures)?;
    }
    Ok(CommandExit::Success)
}

type Measure = fn(&Bench<'_>) -> Result<Vec<Figure>, BenchError>;

impl Bench<'_> {
    /// Says what is being measured.
    fn doing(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// A pool of one worker, to begin with.
    fn builder(&self, module: impl Into<Vec<u8>>) -> PoolBuilder {
        let cache = Some(self.cache.path().to_owned());
        Pool::builder(module).spares(0).cache(cache).memory(self.args.memory.0)
    }

    /// The ordinary way for the same module.
    fn uncommitted(&self, module: impl Into<Vec<u8>>) -> Result<Uncommitted, BenchError> {
        Ok(self.builder(module).build_uncommitted(None)?)
    }

    /// Nanoseconds that it takes to write over all memory that is resident, once a round: the floor under anything
    /// that writes all of it, and what a design that zeroes all of it pays for every block.
    fn zeroing_nanos(&self) -> Result<Vec<u64>, BenchError> {
        self.doing(format!("memset of {}", self.args.memory));
        let mut scratch = scratch(self.args.memory.0)?;
        let whole = 0..scratch.bytes();
        Ok((0..self.args.rounds).map(|_| nanos_of(|| scratch.zero(whole.clone()))).collect())
    }
}

/// Runs `job`, which has to complete: the time of a failure is no figure.
fn completed(runner: &impl Runner, job: &Job) -> Result<JobResult, BenchError> {
    let result = runner.call(job)?;
    match result.verdict.is_completed() {
        true => Ok(result),
        false => Err(BenchError::Usage(format!(
            "{job}: {} ({}); is --memory too small?",
            result.verdict, result.detail
        ))),
    }
}

fn scratch(bytes: u64) -> Result<Scratch, BenchError> {
    Scratch::commit(bytes).map_err(|error| BenchError::Usage(format!("--memory: {error}")))
}

/// Nanoseconds that `work` takes if it succeeds.
fn try_nanos_of<T>(work: impl FnOnce() -> Result<T, BenchError>) -> Result<u64, BenchError> {
    let started = Instant::now();
    let done = work()?;
    let elapsed = started.elapsed();
    drop(done);
    Ok(nanos(elapsed))
}

/// Nanoseconds that `work` takes, which cannot fail.
fn nanos_of<T>(work: impl FnOnce() -> T) -> u64 {
    let started = Instant::now();
    std::hint::black_box(work());
    nanos(started.elapsed())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
