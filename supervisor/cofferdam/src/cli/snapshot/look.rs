//! A process of its own to look into data from elsewhere.
//!
//! LMDB maps the file and trusts its pages, so that data which was made to mislead it can end the process that reads it. Let
//! it be one that nobody misses: its death is then an answer.

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
use cofferdam_store::snapshot::{self, Inspection, Observer, SnapshotError, Step};

/// The longest answer, all of which a pipe holds: the process can end before it is read.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// Arguments of `cofferdam snapshot inspect`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// The data file.
    file: PathBuf,

    /// Hash every value, too.
    #[arg(long)]
    content: bool,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Inside(Inspection),
    NoStore(String),
}

/// What the process does.
pub(super) fn inspect(args: &InspectArgs) -> Result<CommandExit, CliError> {
    // It is to die with whoever asked, and to leave no core behind. Where that is refused, it does so later and bigger.
    let _refused = set_pdeathsig(Signal::SIGKILL).and(setrlimit(Resource::RLIMIT_CORE, 0, 0));
    let answer =
        match snapshot::inspect_in_process(&args.file, args.content, &mut |_| ControlFlow::Continue(())) {
            Ok(inside) => Answer::Inside(inside),
            Err(SnapshotError::Data { source, .. }) => {
                // What is shown of the data may be as long as the data.
                Answer::NoStore(source.to_string().chars().take(1000).collect())
            }
            Err(error) => return Err(error.into()),
        };
    let line = serde_json::to_string(&answer).map_err(io::Error::other);
    line.and_then(|line| writeln!(io::stdout(), "{line}")).map_err(CliError::io("standard output"))?;
    Ok(CommandExit::Success)
}

/// Looks into a data file by a process of its own.
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // LMDB may say there what it did not expect; the answer is that it ended.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("no process to look into it can be started"))?;
    let status =
        wait(&mut child, watch).map_err(failed("the process that looks into it cannot be waited for"))?;
    let status = status.ok_or(SnapshotError::Cancelled)?;
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(MAX_ANSWER_BYTES as u64).read_to_end(&mut answer);
        read.map_err(failed("the process that looks into it is not heard"))?;
    }
    let unreadable = |reason| SnapshotError::Unreadable { path: file.to_owned(), reason };
    match serde_json::from_slice(&answer) {
        Ok(Answer::Inside(inside)) if status.success() => Ok(inside),
        Ok(Answer::NoStore(reason)) => Err(unreadable(reason)),
        _ => Err(unreadable(ending(status))),
    }
}

/// Waits for its end; none if somebody asked to stop, and then there is no process any more.
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
            format!("the process that looked into it was ended by {signal}: its pages are damaged")
        }
        None => format!("the process that looked into it ended with {status}"),
    }
}
