//! `cofferdam bench`: figures of this machine, each beside its alternative, measured in the same run.
//!
//! Absolute times move with the machine and its neighbours; what to keep is the ratio.

mod commit;
mod overhead;
mod reset;

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use cofferdam_protocol::exit::CommandExit;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::CliError;
use super::logging;
use crate::host::size::Bytes;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Committing memory, beside writing over memory that is resident already.
    Commit,
    /// Writing memory and resetting it, beside zeroing all memory that the guest has.
    Reset,
    /// What the pool adds to a block, beside zeroing all memory.
    Overhead,
}

/// Arguments of `cofferdam bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure [default: everything].
    #[arg(value_name = "SECTION")]
    sections: Vec<Section>,

    /// Memory that a worker commits.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Bytes,

    /// How often each figure is taken.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// One JSON object a figure instead of a table.
    #[arg(long)]
    json: bool,
}

/// One figure beside its alternative.
#[derive(Debug, Serialize)]
struct Figure {
    section: &'static str,
    case: String,
    ours_us: Spread,
    beside: &'static str,
    beside_us: Spread,
    /// Ours to the other, at the medians: below 1 is faster.
    ratio: f64,
}

/// How a figure spread over its rounds, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    min: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(nanoseconds: &[u64]) -> Self {
        let mut sorted = nanoseconds.to_vec();
        sorted.sort_unstable();
        let at = |permille: usize| {
            let index = (sorted.len().saturating_sub(1)) * permille / 1000;
            sorted
                .get(index)
                .map_or(f64::NAN, |nanos| std::time::Duration::from_nanos(*nanos).as_secs_f64() * 1e6)
        };
        Self { min: at(0), p50: at(500), p99: at(990), max: at(1000) }
    }
}

impl Figure {
    fn new(section: &'static str, case: String, ours: &[u64], beside: &'static str, others: &[u64]) -> Self {
        let (ours_us, beside_us) = (Spread::of(ours), Spread::of(others));
        Self { section, case, ours_us, beside, beside_us, ratio: ours_us.p50 / beside_us.p50 }
    }
}

/// Runs the command.
pub(super) fn run(args: &BenchArgs) -> Result<CommandExit, CliError> {
    let wanted = |section| args.sections.is_empty() || args.sections.contains(&section);
    let bar = logging::bar(None, "{spinner} measuring {msg}");
    let mut figures = Vec::new();
    if wanted(Section::Commit) {
        figures.extend(commit::measure(args, &bar)?);
    }
    if wanted(Section::Reset) {
        figures.extend(reset::measure(args, &bar)?);
    }
    if wanted(Section::Overhead) {
        figures.extend(overhead::measure(args, &bar)?);
    }
    bar.finish_and_clear();
    print(args, &figures).map_err(CliError::io("standard output"))?;
    Ok(CommandExit::Success)
}

fn print(args: &BenchArgs, figures: &[Figure]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        for figure in figures {
            serde_json::to_writer(&mut out, figure)?;
            writeln!(out)?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["section", "case", "ours p50", "p99", "beside", "its p50", "ratio"]);
    for figure in figures {
        table.add_row([
            figure.section.to_owned(),
            figure.case.clone(),
            time(figure.ours_us.p50),
            time(figure.ours_us.p99),
            figure.beside.to_owned(),
            time(figure.beside_us.p50),
            ratio(figure.ratio),
        ]);
    }
    writeln!(out, "{table}")
}

/// A ratio as people read it: a small one as a fraction.
fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("1/{:.0}", ratio.recip()) } else { format!("{ratio:.2}") }
}

/// A time as people read it.
fn time(micros: f64) -> String {
    match micros {
        micros if micros >= 1e6 => format!("{:.2} s", micros / 1e6),
        micros if micros >= 1e3 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{micros:.1} µs"),
    }
}

/// Nanoseconds that it takes to write over `bytes` that are resident, once a round: the floor under anything that
/// writes all memory, and what a design that zeroes all of it pays for every block.
fn memset_nanos(bytes: u64, rounds: u32) -> Result<Vec<u64>, CliError> {
    let length = usize::try_from(bytes).map_err(|error| CliError::Usage(format!("--memory: {error}")))?;
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(length).map_err(|error| CliError::Usage(format!("--memory: {error}")))?;
    // Not zero, or the allocation would be of pages that are not there yet.
    memory.resize(length, 1);
    let mut nanos = Vec::new();
    for round in 0..rounds {
        let value = u8::try_from(round % 250).unwrap_or(0) + 2;
        let started = std::time::Instant::now();
        memory.fill(value);
        std::hint::black_box(&mut memory);
        nanos.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(nanos)
}
