//! Inspects a data file from an unknown source, in a separate process.
//!
//! LMDB maps the file and trusts its pages. A file that was made to mislead LMDB can crash the process that reads it. Therefore a
//! separate process reads the file. If that process crashes, the file counts as damaged.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use clap::Args;
use cofferdam_protocol::exit::CommandExit;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::super::error::CliError;
use super::super::variables;
use cofferdam_store::snapshot::{self, Inspection, Observer, SnapshotError, Step};

/// The longest answer, in bytes. A pipe holds all of it, so the process can end before the answer is read.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// Arguments of `cofferdam snapshot inspect`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// The data file.
    file: PathBuf,

    /// Compute the content hash, too.
    #[arg(long)]
    content: bool,
}

/// What the process answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Inside(Inspection),
    NoStore(String),
}

/// Inspects the file, in the separate process.
pub(super) fn inspect(args: &InspectArgs) -> Result<CommandExit, CliError> {
    // This process ends with its parent, and leaves no core file. If the kernel refuses these settings, the answer is the same.
    let _refused = set_pdeathsig(Signal::SIGKILL).and(setrlimit(Resource::RLIMIT_CORE, 0, 0));
    let answer =
        match snapshot::inspect_in_process(&args.file, args.content, &mut |_| ControlFlow::Continue(())) {
            Ok(inside) => Answer::Inside(inside),
            Err(SnapshotError::Data { source, .. }) => {
                // The reason may quote the data, which can be long.
                Answer::NoStore(source.to_string().chars().take(1000).collect())
            }
            Err(error) => return Err(error.into()),
        };
    let line = serde_json::to_string(&answer).map_err(io::Error::other);
    line.and_then(|line| writeln!(io::stdout(), "{line}")).map_err(CliError::io("standard output"))?;
    Ok(CommandExit::Success)
}

/// Inspects a data file in a separate process.
pub(super) fn look_apart(
    file: &Path,
    content: bool,
    watch: Observer<'_>,
) -> Result<Inspection, SnapshotError> {
    let failed = |problem| move |source| SnapshotError::File { path: file.to_owned(), problem, source };
    let mut child = Command::new("/proc/self/exe")
        .args(["snapshot", "inspect"])
        .args(content.then_some("--content"))
        .arg("--")
        .arg(file)
        // Variables are meant for the command that this process belongs to.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !variables::is_ours(name)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // LMDB may print a failed assertion to standard error. The parent reports the crash without this text.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("a process to inspect it cannot be started"))?;
    let status =
        wait(&mut child, watch).map_err(failed("the process that inspects it cannot be waited for"))?;
    let status = status.ok_or(SnapshotError::Cancelled)?;
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MAX_ANSWER_BYTES as u64).read_to_end(&mut answer);
        read.map_err(failed("the answer of the process that inspects it cannot be read"))?;
    }
    let unreadable = |reason| SnapshotError::Unreadable { path: file.to_owned(), reason };
    match serde_json::from_slice(&answer) {
        Ok(Answer::Inside(inside)) if status.success() => Ok(inside),
        Ok(Answer::NoStore(reason)) => Err(unreadable(reason)),
        _ => Err(unreadable(ending(status))),
    }
}

/// Waits for the end of the process. If a signal asks to stop, kills the process and returns none.
fn wait(child: &mut Child, watch: Observer<'_>) -> io::Result<Option<ExitStatus>> {
    const TICK: Duration = Duration::from_millis(5);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if watch(Step::Inspecting).is_break() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

fn ending(status: ExitStatus) -> String {
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    match signal {
        Some(signal) => {
            format!("the process that inspected it was killed by {signal}: its pages are damaged")
        }
        None => format!("the process that inspected it ended with {status}"),
    }
}
