//! The command line: arguments in, a table or JSON lines out, and an exit code that scripts can rely on.

mod args;
mod audit;
mod check;
mod config;
mod diff;
mod doctor;
mod error;
mod logging;
mod node;
mod orphans;
mod output;
mod probe;
mod report;
mod run;
mod serve;
mod signals;
mod snapshot;
mod usage;
mod variables;
mod verify_proof;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use cofferdam_protocol::exit::CommandExit;

use error::CliError;

const AFTER_HELP: &str = "\
Exit codes:
  0    everything that was asked for was done
  1    a block failed, an input was bad, or the run was interrupted
  2    the command line is wrong; of `diff` and `audit` also: nothing was compared to the end
  69   no worker is healthy any more
  137  memory could not be committed: refused by the budget or the kernel, or killed by it
A second SIGINT or SIGTERM ends it at once, with 130 or 143.";

/// A process-isolated pool of WebAssembly workers that hold all their memory before the first block arrives.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, about, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `cofferdam::pool=debug`.
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", env = "COFFERDAM_LOG")]
    log: String,

    /// How log lines are written.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", env = "COFFERDAM_LOG_FORMAT")]
    log_format: logging::LogFormat,

    /// Move into the cgroup that this `cgroup.procs` is of, before anything else.
    #[arg(long, global = true, value_name = "FILE", hide = true)]
    join_cgroup: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Index blocks on committed workers.
    Run(Box<run::RunArgs>),
    /// Serve jobs over HTTP, behind a load balancer.
    Serve(Box<serve::ServeArgs>),
    /// Follow a Bitcoin node, index its chain, and serve views of the state over JSON-RPC.
    Node(Box<node::NodeArgs>),
    /// Run the same blocks under several limits of host memory, and say whether memory makes a difference.
    Check(Box<check::CheckArgs>),
    /// Run two modules over the same blocks, and say where they first write different things.
    Diff(Box<diff::DiffArgs>),
    /// Compare the chain digests of nodes, and find the first block whose results differ.
    Audit(audit::AuditArgs),
    /// Take, check and restore snapshots of a store.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Start one worker, commit, prove it, and exit with 0 or 137.
    Probe(probe::ProbeArgs),
    /// Say what this host grants, and what that means.
    Doctor(doctor::DoctorArgs),
    /// Measure this machine, each figure beside its alternative.
    Bench(cofferdam_bench::BenchArgs),
    /// Check a proof of the state tree against a state root, without a node or a store.
    VerifyProof(verify_proof::VerifyProofArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    logging::take_panics();
    let exit = run_line(&std::env::args_os().collect::<Vec<_>>());
    logging::finish();
    ExitCode::from(exit.code())
}

fn run_line(arguments: &[OsString]) -> CommandExit {
    let command = match config::apply(command(), "node", arguments) {
        Ok(command) => command,
        Err(error) => {
            logging::say(&error);
            return error.exit();
        }
    };
    let parsed = command.clone().try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage::tell(error, &command, arguments),
    };
    match run_command(cli) {
        Ok(exit) => exit,
        Err(error @ CliError::StdoutClosed) => error.exit(),
        Err(error) => {
            logging::say(&error);
            error.exit()
        }
    }
}

fn run_command(cli: Cli) -> Result<CommandExit, CliError> {
    cli.join_cgroup.as_deref().map_or(Ok(()), join_cgroup)?;
    logging::init(&cli.log, cli.log_format)?;
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Node(args) => node::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Snapshot(command) => snapshot::run(&command),
        Command::Probe(args) => probe::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => {
            let bar = logging::bar(None, "{spinner} {elapsed} measuring {msg}");
            Ok(cofferdam_bench::run(&args, bar)?)
        }
        Command::VerifyProof(args) => verify_proof::run(&args),
        Command::Completions { shell } => print_completions(shell),
    }
}

/// The command line, with its variables.
fn command() -> clap::Command {
    variables::attach(Cli::command())
}

fn join_cgroup(procs: &Path) -> Result<(), CliError> {
    // 0 is whoever writes it, in both versions.
    fs::write(procs, "0").map_err(|source| CliError::File { path: procs.to_owned(), source })
}

fn print_completions(shell: clap_complete::Shell) -> Result<CommandExit, CliError> {
    // Into memory first: clap_complete panics when what it writes to is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "cofferdam", &mut script);
    io::stdout().write_all(&script).map_err(CliError::io("standard output"))?;
    Ok(CommandExit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in CommandExit::ALL {
            assert!(AFTER_HELP.contains(&format!("\n  {:<5}", exit.code())), "{exit:?}");
        }
    }
}
