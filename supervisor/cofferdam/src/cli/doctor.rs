//! `cofferdam doctor`: what this host provides, and what that means for workers. Each check has two lines.

use std::io;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;

use super::error::CliError;
use super::output;
use cofferdam_base::size::Bytes;
use cofferdam_pool::host::{self, Level};
use cofferdam_pool::{Limits, need_of};

/// Arguments of `cofferdam doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The number of workers to check memory for, spares included.
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,

    /// Memory that each worker commits.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Bytes,

    /// Print one JSON object instead of lines of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &DoctorArgs) -> Result<CommandExit, CliError> {
    let report = host::examine(&need_of(args.workers, args.memory.0, &Limits::default()));
    let text = if args.json {
        serde_json::to_string(&report).map_err(io::Error::other)
    } else {
        Ok(report.to_string().trim_end().to_owned())
    };
    output::print(text)?;
    Ok(if report.worst() == Level::Bad { CommandExit::Failure } else { CommandExit::Success })
}
