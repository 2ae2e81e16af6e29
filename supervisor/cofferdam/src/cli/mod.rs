//! The command line. It reads arguments, variables and a file of options, runs one command, and ends with an exit code that
//! scripts can rely on.

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
mod suggest;
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
  0    the command did everything that it was asked to do
  1    a block failed, an input was wrong, or the command was interrupted
  2    the command line is wrong; for `diff` and `audit` also: the comparison did not finish
  69   no healthy worker is left
  137  memory could not be committed: the budget or the kernel refused it, or killed a worker
The second SIGINT or SIGTERM ends the command at once, with exit code 130 or 143.

Every option is also a variable, for example COFFERDAM_DB_PATH, and a key of the TOML file that --config names, for \
example db-path. The command line counts for more than variables, and variables count for more than the file.";

/// The heading of the options for logging, which every help ends with.
const LOGGING: &str = "Logging";

/// A process-isolated pool of WebAssembly workers that hold all their memory before the first block arrives.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, about, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    // Read before the command line is parsed: see `config::apply`.
    /// A TOML file with options of this command: their long names are the keys. The command line and variables count for more.
    #[arg(long, global = true, value_name = "FILE", env = "COFFERDAM_CONFIG", display_order = 900)]
    config: Option<PathBuf>,

    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `cofferdam_pool=debug`.
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", env = "COFFERDAM_LOG", help_heading = LOGGING)]
    log: String,

    /// The format of log lines.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "text",
        env = "COFFERDAM_LOG_FORMAT",
        help_heading = LOGGING
    )]
    log_format: logging::LogFormat,

    /// Move into the cgroup of this `cgroup.procs` file before anything else.
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
    /// Run the same blocks under several limits of host memory, and report whether memory makes a difference.
    Check(Box<check::CheckArgs>),
    /// Run two modules over the same blocks, and report the first key that they write differently.
    Diff(Box<diff::DiffArgs>),
    /// Compare the chain digests of nodes, and find the first block whose results differ.
    Audit(audit::AuditArgs),
    /// Take, verify and restore snapshots of a store.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Start one worker, commit its memory, prove that it is resident, and exit with 0 or 137.
    Probe(probe::ProbeArgs),
    /// Report what this host provides, and what follows for workers.
    Doctor(doctor::DoctorArgs),
    /// Measure this machine: each figure beside its alternative.
    Bench(cofferdam_bench::BenchArgs),
    /// Verify a proof of the state tree against a state root, without a node or a store.
    VerifyProof(verify_proof::VerifyProofArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The arguments that name the module, if the command has them.
    fn module(&self) -> Option<&args::ModuleArgs> {
        match self {
            Self::Run(args) => Some(&args.module),
            Self::Serve(args) => Some(&args.module),
            Self::Node(args) => Some(&args.module),
            Self::Check(args) => Some(&args.module),
            Self::Diff(args) => Some(&args.module),
            _ => None,
        }
    }

    /// The file of the module, if the command runs one module.
    fn module_file(&self) -> Option<PathBuf> {
        let module = self.module().filter(|_| !matches!(self, Self::Diff(_)))?;
        module.path().map(Path::to_owned)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    logging::take_panics();
    let exit = run_line(&std::env::args_os().collect::<Vec<_>>());
    logging::finish();
    ExitCode::from(exit.code())
}

fn run_line(arguments: &[OsString]) -> CommandExit {
    let (command, passed_over) = match config::apply(declared(), arguments) {
        Ok(applied) => applied,
        Err(error) => {
            logging::say(&error);
            return error.exit();
        }
    };
    let command = variables::attach(command, arguments);
    let parsed = command.clone().try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage::tell(error, &command, arguments),
    };
    if let Some(stray) = cli.command.module().and_then(args::ModuleArgs::first_argument)
        && let Err(error) = usage::check_stray(stray, arguments)
    {
        logging::say(&error);
        return error.exit();
    }
    let module = cli.command.module_file();
    let warnings: Vec<_> = variables::unknown(&command).into_iter().chain(passed_over).collect();
    match run_command(cli, &warnings) {
        Ok(exit) => exit,
        Err(error @ CliError::StdoutClosed) => error.exit(),
        Err(error) => {
            let error = error.naming_module(module.as_deref());
            logging::say(&error);
            error.exit()
        }
    }
}

fn run_command(cli: Cli, warnings: &[String]) -> Result<CommandExit, CliError> {
    cli.join_cgroup.as_deref().map_or(Ok(()), join_cgroup)?;
    logging::init(&cli.log, cli.log_format)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
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

/// The command line as it is declared, without variables.
fn declared() -> clap::Command {
    let first_module =
        "The first module (A), as .wasm or .wat. Write it before an option that takes several values";
    Cli::command().mut_subcommand("diff", |diff| diff.mut_arg("module", |module| module.help(first_module)))
}

/// The command line, with its variables.
fn command() -> clap::Command {
    variables::attach(declared(), &[])
}

fn join_cgroup(procs: &Path) -> Result<(), CliError> {
    // 0 stands for the process that writes it, in both versions of cgroups.
    fs::write(procs, "0").map_err(|source| CliError::File { path: procs.to_owned(), source })
}

fn print_completions(shell: clap_complete::Shell) -> Result<CommandExit, CliError> {
    // The script is first written to memory, because clap_complete panics if its output is closed.
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

    /// Calls `check` with every command that is not hidden, and its name.
    fn each_command(command: &clap::Command, check: &mut impl FnMut(&clap::Command)) {
        check(command);
        command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
            .for_each(|inner| each_command(inner, check));
    }

    #[test]
    fn every_help_ends_with_the_options_for_logging() {
        let mut command = command();
        command.build();
        each_command(&command, &mut |command| {
            let help = command.clone().render_help().to_string();
            if command.get_subcommands().next().is_some() && command.get_name() != "cofferdam" {
                return;
            }
            let (_, last) = help.split_once("\nLogging:\n").unwrap_or_else(|| panic!("{help}"));
            let options = last.split("\n\n").next().unwrap_or(last);
            let options: Vec<_> =
                options.lines().filter(|line| line.trim_start().starts_with("--")).collect();
            assert_eq!(options.len(), 2, "{help}");
            assert!(options[1].trim_start().starts_with("--log-format"), "{help}");
        });
    }

    #[test]
    fn options_of_one_name_have_one_default_and_a_variable_everywhere() {
        use std::collections::BTreeMap;
        // Their defaults are different on purpose: `check` compares failures; views can wait for longer than requests; `doctor`
        // counts spares as workers; `verify --content` is a flag, and `restore --content` has a hash.
        const DIFFERENT: [&str; 4] = ["on-guest-failure", "queue-wait", "workers", "content"];
        let mut command = command();
        command.build();
        let mut defaults: BTreeMap<String, Vec<OsString>> = BTreeMap::new();
        each_command(&command, &mut |command| {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = argument.get_long().filter(|long| !matches!(*long, "help" | "version"))
                else {
                    continue;
                };
                let variable = format!("COFFERDAM_{}", long.to_uppercase().replace('-', "_"));
                let has_it = |one: &clap::Arg| one.get_env().is_some_and(|env| *env == *variable);
                assert!(command.get_arguments().any(has_it), "{} --{long}", command.get_name());
                let own: Vec<_> = argument.get_default_values().iter().map(OsString::from).collect();
                let first = defaults.entry(long.to_owned()).or_insert_with(|| own.clone());
                assert!(*first == own || DIFFERENT.contains(&long), "{} --{long}", command.get_name());
            }
        });
    }

    #[test]
    fn the_module_has_the_same_names_everywhere() {
        for arguments in [
            ["cofferdam", "run", "x.wasm"],
            ["cofferdam", "serve", "--module=x.wasm"],
            ["cofferdam", "check", "--indexer=x.wasm"],
        ] {
            let matches = declared().try_get_matches_from(arguments).unwrap();
            let module = match Cli::from_arg_matches(&matches).unwrap().command {
                Command::Run(args) => args.module.path().map(Path::to_owned),
                Command::Serve(args) => args.module.path().map(Path::to_owned),
                Command::Check(args) => args.module.path().map(Path::to_owned),
                other => panic!("{other:?}"),
            };
            assert_eq!(module.as_deref(), Some(Path::new("x.wasm")), "{arguments:?}");
        }
        for arguments in [
            vec!["cofferdam", "node", "x.wasm", "--db-path=db"],
            vec!["cofferdam", "node", "--indexer", "x.wasm", "--db-path=db"],
            vec!["cofferdam", "diff", "a.wasm", "--compare", "b.wasm"],
            vec!["cofferdam", "diff", "--module=a.wasm", "--compare", "b.wasm"],
        ] {
            declared().try_get_matches_from(&arguments).unwrap();
        }
        let twice = ["cofferdam", "run", "x.wasm", "--module=y.wasm"];
        assert!(declared().try_get_matches_from(twice).is_err());
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in CommandExit::ALL {
            assert!(AFTER_HELP.contains(&format!("\n  {:<5}", exit.code())), "{exit:?}");
        }
    }
}
