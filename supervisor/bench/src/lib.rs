//! The measurements behind `cofferdam bench`, and their tables and plots.
//!
#![doc = include_str!("../README.md")]

mod args;
mod context;
mod error;
mod figure;
mod guests;
mod output;
mod plot;
mod sections;

use cofferdam_protocol::exit::CommandExit;
use indicatif::ProgressBar;

pub use args::BenchArgs;
pub use error::BenchError;

use context::Bench;

/// Measures what `args` ask for, prints the figures, and draws them if `args` ask for plots.
///
/// `bar` shows which figure is being measured.
///
/// # Errors
/// Any [`BenchError`].
pub fn run(args: &BenchArgs, bar: ProgressBar) -> Result<CommandExit, BenchError> {
    let cache = tempfile::Builder::new().prefix("cofferdam-bench-").tempdir();
    let cache = cache.map_err(BenchError::io("a directory for compiled modules"))?;
    let bench = Bench { args, bar, cache };
    let mut figures = Vec::new();
    for (section, measure) in sections::ALL {
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
