//! `cofferdam check`: runs the same blocks under several limits of host memory and several settings of the pool, and says
//! whether memory made a difference.
//!
//! Each cell of the matrix is a `cofferdam run` in its own process and its own memory cgroup. `cell` starts the run and reads
//! its output, `matrix` compares the cells, and `junit` writes the matrix for test reporters.

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

    /// Limits of host memory. Each limit is a row of the matrix.
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',', default_value = "512MiB,3GiB,5GiB,8GiB")]
    host_memory: Vec<Bytes>,

    /// Memory that each worker commits, and that a guest may grow to: at most 4GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    memory: Bytes,

    /// A setting of the pool: any of workers, spares, commit, huge-pages and reset, with the values that `run` takes. Each
    /// setting is a column of the matrix. The option can be given several times.
    #[arg(long, value_name = "NAME=VALUE,…", default_values = setting::DEFAULTS)]
    pool: Vec<Setting>,

    /// Add a column without a pool: everything runs in one process, on memory that the kernel provides when it is touched.
    #[arg(long)]
    uncommitted: bool,

    #[command(flatten)]
    limits: LimitArgs,

    /// What happens when a block fails with a guest verdict. The verdict is compared either way.
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    on_guest_failure: Policy,

    /// Do not check the memory budget before a run. The kernel then decides whether the memory is there.
    #[arg(long)]
    skip_admission: bool,

    /// The longest time that a cell may take.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = humantime::parse_duration)]
    cell_timeout: Duration,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    /// Also write the matrix as JUnit XML, with a test case for each cell.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Result<CommandExit, CliError> {
    let stop = Stop::listen()?;
    if args.blocks.are_a_stream() {
        return Err(CliError::Usage(
            "--blocks -: standard input can be read only once, and every cell reads the blocks".to_owned(),
        ));
    }
    let module = args.module.read()?;
    if let Some(report) = &args.junit {
        check_directory(report)?;
    }
    // An error in the blocks would occur in every cell. This check reports it once, before the first cell.
    drop(args.blocks.open(None)?);
    cell::check_cgroups()?;
    warn_of_small_host(args);
    // The module is compiled once, here: compiling would take more memory than a small host has.
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

/// Checks, before any cell runs, that the directory for the report at `path` exists and can be read.
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

/// The arguments of `cofferdam run` for a cell.
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

/// Warns of limits above the memory that this host has: they have no effect.
fn warn_of_small_host(args: &CheckArgs) {
    let available = Bytes(Budget::read(None).available());
    for host in args.host_memory.iter().filter(|host| **host > available) {
        tracing::warn!("a limit of {host} has no effect: this host has {available} available");
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
