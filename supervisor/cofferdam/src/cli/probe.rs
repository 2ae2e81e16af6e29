//! `cofferdam probe`: starts one worker, which commits and proves its memory, and prints one line with the result or with the
//! reason of the failure. Use it as the start check of a container.

use std::io;
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use serde::Serialize;

use super::args::MemoryArgs;
use super::error::CliError;
use super::{logging, output};
use cofferdam_base::size::Bytes;
use cofferdam_pool::Pool;

/// Arguments of `cofferdam probe`.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    #[command(flatten)]
    memory: MemoryArgs,

    /// Print one JSON object instead of a line of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct ProbeReport {
    committed: bool,
    memory_bytes: u64,
    resident_bytes: u64,
    huge_bytes: u64,
    commit_ms: f64,
    commit: String,
    reason: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &ProbeArgs) -> Result<CommandExit, CliError> {
    // A worker needs a module. This one is empty.
    let builder = args.memory.apply(Pool::builder("(module)").workers(1).spares(0).cache(None));
    let (report, exit) = match builder.build() {
        Ok(pool) => (committed(args, &pool), CommandExit::Success),
        Err(error) if error.is_memory() => (refused(args, error.to_string()), CommandExit::NotCommitted),
        Err(error) => return Err(error.into()),
    };
    let text = match (&report.reason, args.json) {
        (_, true) => serde_json::to_string(&report).map_err(io::Error::other),
        (None, false) => Ok(sentence(&report)),
        (Some(reason), false) => {
            logging::say(reason);
            return Ok(exit);
        }
    };
    output::print(text)?;
    Ok(exit)
}

fn committed(args: &ProbeArgs, pool: &Pool) -> ProbeReport {
    let worker = pool.health().slots.into_iter().next();
    let worker = worker.as_ref();
    ProbeReport {
        committed: true,
        memory_bytes: args.memory.memory.0,
        resident_bytes: worker.and_then(|worker| worker.resident_bytes).unwrap_or(0),
        huge_bytes: worker.and_then(|worker| worker.huge_bytes).unwrap_or(0),
        commit_ms: Duration::from_micros(worker.and_then(|worker| worker.commit_us).unwrap_or(0))
            .as_secs_f64()
            * 1e3,
        commit: worker.and_then(|worker| worker.commit.clone()).unwrap_or_default(),
        reason: None,
    }
}

fn refused(args: &ProbeArgs, reason: String) -> ProbeReport {
    ProbeReport {
        committed: false,
        memory_bytes: args.memory.memory.0,
        resident_bytes: 0,
        huge_bytes: 0,
        commit_ms: 0.0,
        commit: String::new(),
        reason: Some(reason),
    }
}

fn sentence(report: &ProbeReport) -> String {
    format!(
        "committed {} in {:.2} s by {}: {} bytes resident, {} of them in huge pages",
        Bytes(report.memory_bytes),
        report.commit_ms / 1e3,
        report.commit,
        report.resident_bytes,
        report.huge_bytes
    )
}
