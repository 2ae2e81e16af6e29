//! `cofferdam check`: the same blocks under several limits of host memory and several settings of the pool, each in a
//! process and a memory cgroup of its own; and whether memory made a difference.
//!
//! Every cell of the matrix is a real `cofferdam run` under a real limit: `cell` starts it and reads what it prints,
//! `matrix` compares, `junit` tells test reporters.

mod cell;
mod junit;
mod matrix;
mod setting;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;

use self::cell::{Cell, Runs};
use self::matrix::Matrix;
use self::setting::Setting;
use super::args::{BlockArgs, LimitArgs, ModuleArgs, Policy};
use super::error::CliError;
use super::logging;
use super::output;
use super::signals::Stop;
use cofferdam_base::size::Bytes;
use cofferdam_pool::Pool;
use cofferdam_pool::host::admission::Budget;

/// Arguments of `cofferdam check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) module: ModuleArgs,

    #[command(flatten)]
    blocks: BlockArgs,

    /// The limits of host memory: one row of the table for each.
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',', default_value = "512MiB,3GiB,5GiB,8GiB")]
    host_memory: Vec<Bytes>,

    /// Memory that each worker commits, and that a guest may grow to: at most 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Bytes,

    /// The settings of the pool: one column of the table for each. A setting has any of workers, spares, commit, huge-pages and
    /// reset, with the values that the options of `run` take. Can be given several times.
    #[arg(long, value_name = "NAME=VALUE,…", default_values = setting::DEFAULTS)]
    pool: Vec<Setting>,

    /// Add a column: the blocks run in one process, on memory that is not committed.
    #[arg(long)]
    uncommitted: bool,

    #[command(flatten)]
    limits: LimitArgs,

    /// What to do when a block ends in a guest verdict other than `completed`. Its verdict is compared in both cases.
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    on_guest_failure: Policy,

    /// Do not check beforehand that the host has the memory: let the kernel refuse it.
    #[arg(long)]
    skip_admission: bool,

    /// How long one cell of the table may take.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = humantime::parse_duration)]
    cell_timeout: Duration,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    /// Write a JUnit XML report to this file, too: one test case for each cell.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    if args.blocks.are_a_stream() {
        return Err(CliError::Usage(
            "--blocks -: standard input comes once, and every cell needs it".to_owned(),
        ));
    }
    let module = args.module.read()?;
    if let Some(report) = &args.junit {
        check_directory(report)?;
    }
    // Whatever is wrong with the blocks is wrong in every cell: it is said once.
    drop(args.blocks.open(None)?);
    cell::check_cgroups()?;
    warn_of_small_host(args);
    // Compiled here, once: a small host is to run the module, not to compile it.
    let cache = tempfile::Builder::new().prefix("cofferdam-check-").tempdir();
    let cache = cache.map_err(CliError::io("a directory for the compiled module"))?;
    let builder = Pool::builder(module)
        .memory(args.memory.0)
        .limits(args.limits.limits(args.blocks.max_block_bytes))
        .cache(Some(cache.path().to_owned()));
    let profile = builder.profile()?.hash();
    builder.compile()?;
    let cells = run_cells(args, cache.path(), &stop)?;
    let complete = !stop.is_asked();
    let matrix = Matrix::new(profile.to_string(), cells, complete);
    report(args, &matrix)?;
    Ok(matrix.exit())
}

/// Checks that a report can be written to `path`: better now than after every cell has run.
fn check_directory(path: &Path) -> Result<(), CliError> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let found = directory.map_or(Ok(()), |directory| std::fs::read_dir(directory).map(drop));
    found.map_err(|source| CliError::File { path: path.to_owned(), source })
}

fn run_cells(args: &CheckArgs, cache: &Path, stop: &Stop) -> Result<Vec<Cell>, CliError> {
    let columns: Vec<Option<&Setting>> =
        args.pool.iter().map(Some).chain(args.uncommitted.then_some(None)).collect();
    let count = args.host_memory.len() * columns.len();
    let bar = logging::bar(Some(count as u64), "checking {bar:40} {pos}/{len} {msg}");
    let mut cells = Vec::new();
    for host in &args.host_memory {
        for column in &columns {
            let name = column.map_or_else(|| "uncommitted".to_owned(), ToString::to_string);
            bar.set_message(format!("{host}, {name}"));
            let runs = Runs {
                arguments: cell_arguments(args, *column, cache),
                committed: column.is_some(),
                timeout: args.cell_timeout,
            };
            if let Some(cell) = cell::run(*host, name, &runs, stop)? {
                cells.push(cell);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(cells)
}

/// The arguments of the `cofferdam run` that a cell is.
fn cell_arguments(args: &CheckArgs, setting: Option<&Setting>, cache: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["run".into(), "--json".into(), "--announce".into()];
    let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        arguments.push(name.into());
        arguments.push(value.as_ref().to_owned());
    };
    if let Some(module) = args.module.path() {
        option("--module", &module);
    }
    option("--cache-dir", &cache);
    option("--memory", &args.memory.0.to_string());
    option("--on-guest-failure", &if args.on_guest_failure == Policy::Skip { "skip" } else { "stop" });
    arguments.extend(args.blocks.to_arguments());
    arguments.extend(args.limits.to_arguments());
    match setting {
        Some(setting) => {
            arguments.extend(setting.to_arguments());
            arguments.extend(args.skip_admission.then(|| "--skip-admission".into()));
        }
        None => arguments.push("--uncommitted".into()),
    }
    arguments
}

/// A limit above what there is limits nothing.
fn warn_of_small_host(args: &CheckArgs) {
    let available = Bytes(Budget::read(None).available());
    for host in args.host_memory.iter().filter(|host| **host > available) {
        tracing::warn!(
            "this host has {available} available: a limit of {host} is above that, and proves nothing more"
        );
    }
}

fn report(args: &CheckArgs, matrix: &Matrix) -> Result<(), CliError> {
    if let Some(path) = &args.junit {
        let xml = junit::report(matrix);
        File::create(path)
            .and_then(|mut file| file.write_all(xml.as_bytes()))
            .map_err(|source| CliError::File { path: path.clone(), source })?;
    }
    let text = if args.json {
        serde_json::to_string(matrix).map_err(io::Error::other)
    } else {
        Ok(matrix.to_text())
    };
    output::print(text)
}
