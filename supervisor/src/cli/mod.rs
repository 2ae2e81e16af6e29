//! The command line: arguments in, a table or JSON lines out, and an exit code that scripts can rely on.

mod args;
mod bench;
mod check;
mod doctor;
mod error;
mod logging;
mod probe;
mod report;
mod run;
mod signals;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cofferdam_protocol::exit::CommandExit;

use error::CliError;

const AFTER_HELP: &str = "\
Exit codes:
  0    everything that was asked for was done
  1    a block failed, an input was bad, or the run was interrupted
  2    the command line is wrong
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
    /// Run the same blocks under several limits of host memory, and say whether memory makes a difference.
    Check(Box<check::CheckArgs>),
    /// Start one worker, commit, prove it, and exit with 0 or 137.
    Probe(probe::ProbeArgs),
    /// Say what this host grants, and what that means.
    Doctor(doctor::DoctorArgs),
    /// Measure this machine, each figure beside its alternative.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let joined = cli.join_cgroup.as_deref().map_or(Ok(()), join_cgroup);
    let result = joined.and_then(|()| logging::init(&cli.log)).and_then(|()| match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions { shell } => print_completions(shell),
    });
    let exit = match result {
        Ok(exit) => exit,
        Err(error @ CliError::StdoutClosed) => error.exit(),
        Err(error) => {
            eprintln!("cofferdam: {error}");
            error.exit()
        }
    };
    ExitCode::from(exit.code())
}

fn join_cgroup(procs: &Path) -> Result<(), CliError> {
    // 0 is whoever writes it, in both versions.
    fs::write(procs, "0").map_err(|source| CliError::File { path: procs.to_owned(), source })
}

fn print_completions(shell: clap_complete::Shell) -> Result<CommandExit, CliError> {
    // Into memory first: clap_complete panics when what it writes to is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cofferdam", &mut script);
    io::stdout().write_all(&script).map_err(CliError::io("standard output"))?;
    Ok(CommandExit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in CommandExit::ALL {
            assert!(AFTER_HELP.contains(&format!("\n  {:<5}", exit.code())), "{exit:?}");
        }
    }
}
