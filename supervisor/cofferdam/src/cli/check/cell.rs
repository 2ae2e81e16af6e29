//! One cell of the matrix: a `cofferdam run` in its own memory cgroup, and how the run ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::exit::CommandExit;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::Value;

use super::{Bytes, CliError, Stop};
use crate::cli::variables;
use cofferdam_pool::host::cgroup::{ChildCgroup, ChildError};

/// The longest line of a cell's standard output that is read, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// The number of last bytes of a cell's standard error that are read.
const MAX_STDERR_BYTES: u64 = 64 << 10;

/// What a cell runs.
pub(super) struct Runs {
    pub(super) arguments: Vec<OsString>,
    pub(super) committed: bool,
    pub(super) timeout: Duration,
}

/// One cell.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) host_memory_bytes: Bytes,
    pub(super) pool: String,
    pub(super) committed: bool,
    #[serde(flatten)]
    pub(super) end: End,
    pub(super) seconds: f64,
    /// How many processes of the cell the kernel killed because memory was short; none if the kernel does not say.
    pub(super) oom_kills: Option<u64>,
}

/// How a cell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(super) enum End {
    /// Every block that was run has a guest verdict.
    Indexed {
        /// The number of blocks that were run.
        blocks: u64,
        /// The number of blocks for each verdict.
        verdicts: BTreeMap<String, u64>,
        /// The chain's digest.
        digest: String,
    },
    /// The run ended with 137 before the first block: memory could not be committed.
    NotCommitted {
        /// The last line of the run's standard error.
        reason: String,
    },
    /// The run ended in the middle of a block, because of the host and not because of the block.
    InBlock {
        /// The block's height, if it is known.
        height: Option<u64>,
        /// What happened.
        reason: String,
    },
    /// The run ended in any other way.
    Failed {
        /// What happened.
        reason: String,
    },
}

/// Checks that limits can be set here, before the first cell runs.
pub(super) fn check_cgroups() -> Result<(), CliError> {
    ChildCgroup::limited_to(Bytes::mib(64).0).map(drop).map_err(|error| no_cgroup(&error))
}

fn no_cgroup(error: &ChildError) -> CliError {
    CliError::Usage(format!(
        "a memory cgroup with a limit cannot be made here: {error}. Without a limit there is nothing to check. Run the \
         command as root, or in a cgroup that is delegated to this user (`systemd-run --user --scope -p Delegate=yes …`)"
    ))
}

/// Runs one cell. Returns none if a signal asked to stop before the end of the cell.
pub(super) fn run(host: Bytes, pool: String, runs: &Runs, stop: &Stop) -> Result<Option<Cell>, CliError> {
    let cgroup = ChildCgroup::limited_to(host.0).map_err(|error| no_cgroup(&error))?;
    let mut stderr = tempfile::tempfile().map_err(CliError::io("a file for the messages of a cell"))?;
    let messages = stderr.try_clone().map_err(CliError::io("a file for the messages of a cell"))?;
    let started = Instant::now();
    let mut child = Command::new("/proc/self/exe")
        // The process moves itself to the cgroup, before it allocates memory.
        .args(["--log=warn", "--join-cgroup"])
        .arg(cgroup.cgroup().procs())
        .args(&runs.arguments)
        // The cell gets all its options as arguments. Variables such as COFFERDAM_DB_PATH are meant for other commands.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !variables::is_ours(name)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(messages)
        .spawn()
        .map_err(CliError::io("a cell could not be started"))?;
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || stdout.map(Transcript::read).unwrap_or_default());
    let ended = wait(&mut child, runs.timeout, stop).map_err(CliError::io("waiting for a cell"))?;
    // The process and its workers have ended, so the reader reaches the end of the output.
    let transcript = reader.join().unwrap_or_default();
    let Some(status) = ended else { return Ok(None) };
    let oom_kills = cgroup.cgroup().oom_kills();
    let last_words = last_line(&mut stderr);
    let end = match status {
        Ended::Itself(status) => transcript.end(status, last_words, oom_kills.unwrap_or(0)),
        Ended::Late => {
            End::Failed { reason: format!("no end within {}", humantime::format_duration(runs.timeout)) }
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok(Some(Cell { host_memory_bytes: host, pool, committed: runs.committed, end, seconds, oom_kills }))
}

enum Ended {
    Itself(ExitStatus),
    Late,
}

fn wait(child: &mut Child, timeout: Duration, stop: &Stop) -> std::io::Result<Option<Ended>> {
    const TICK: Duration = Duration::from_millis(10);
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(Ended::Itself(status)));
        }
        let late = started.elapsed() >= timeout;
        if late || stop.is_asked() {
            // The kernel ends the workers of the cell with the cell.
            child.kill()?;
            child.wait()?;
            return Ok(late.then_some(Ended::Late));
        }
        thread::sleep(TICK);
    }
}

/// The last line of `file` that is not empty, without the prefix `cofferdam: `.
fn last_line(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let read = file
        .seek(SeekFrom::Start(length.saturating_sub(MAX_STDERR_BYTES)))
        .and_then(|_| file.take(MAX_STDERR_BYTES).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rfind(|line| !line.trim().is_empty()).filter(|_| read.is_ok());
    line.map(|line| line.trim_start_matches("cofferdam: ").to_owned()).unwrap_or_default()
}

/// What a run has printed to standard output.
#[derive(Debug, Default)]
struct Transcript {
    blocks: u64,
    /// The height of the block that was begun last, if its line was not printed.
    running: Option<u64>,
    /// The height of the first block with a host verdict, and the verdict.
    lost: Option<(Option<u64>, String)>,
    summary: Option<Value>,
}

impl Transcript {
    fn read(stdout: ChildStdout) -> Self {
        let mut transcript = Self::default();
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        // A line that is cut off or is no JSON is skipped.
        while reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Ok(value) = serde_json::from_slice(&line) {
                transcript.add(value);
            }
            line.clear();
        }
        transcript
    }

    fn add(&mut self, mut line: Value) {
        if let Some(height) = line["running"].as_u64() {
            self.running = Some(height);
        } else if line.get("summary").is_some() {
            self.summary = Some(line["summary"].take());
        } else if line.get("verdict").is_some() {
            self.blocks += 1;
            // The line of a block is printed after the commit and the reset. Later blocks may have begun before that.
            if self.running == line["height"].as_u64() {
                self.running = None;
            }
            if line["digest"].is_null() && self.lost.is_none() {
                let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                self.lost =
                    Some((line["height"].as_u64(), format!("{}: {}", text("verdict"), text("detail"))));
            }
        }
    }

    /// How the cell ended. `last_words` is the last line of its standard error, and `oom_kills` the number of its processes
    /// that the kernel killed.
    fn end(self, status: ExitStatus, last_words: String, oom_kills: u64) -> End {
        let not_committed = i32::from(CommandExit::NotCommitted.code());
        let how = match status.signal() {
            Some(signal) => {
                let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
                let by = if oom_kills > 0 { ", by the kernel because memory was short" } else { "" };
                format!("killed by {name}{by}")
            }
            None => format!("exit code {}: {last_words}", status.code().unwrap_or(-1)),
        };
        let killed_for_memory = status.signal() == Some(Signal::SIGKILL as i32) && oom_kills > 0;
        match (self.lost, self.running, self.summary) {
            (Some((height, reason)), _, _) => End::InBlock { height, reason },
            (None, Some(height), None) => End::InBlock { height: Some(height), reason: how },
            (None, None, None) if self.blocks > 0 => End::InBlock { height: None, reason: how },
            (None, None, None) if status.code() == Some(not_committed) => {
                End::NotCommitted { reason: last_words }
            }
            (None, None, None) if killed_for_memory => End::NotCommitted { reason: how },
            // A run that ended early with an error has a digest, too: the digest of the blocks before the error.
            (None, _, Some(summary)) => match summary["error"].as_str() {
                Some(error) => End::Failed { reason: error.to_owned() },
                None if summary["interrupted"] == true => {
                    End::Failed { reason: "it was interrupted".to_owned() }
                }
                None => indexed(&summary).unwrap_or(End::Failed { reason: how }),
            },
            (None, None, None) => End::Failed { reason: how },
        }
    }
}

/// The end that a summary describes; none if the summary has no block or no digest.
fn indexed(summary: &Value) -> Option<End> {
    let verdicts = summary["verdicts"].as_object()?.iter();
    Some(End::Indexed {
        blocks: summary["blocks"].as_u64().filter(|blocks| *blocks > 0)?,
        verdicts: verdicts.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0))).collect(),
        digest: summary["digest"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn killed() -> ExitStatus {
        ExitStatus::from_raw(Signal::SIGKILL as i32)
    }

    fn end(lines: &[Value], status: ExitStatus, oom_kills: u64) -> End {
        let mut transcript = Transcript::default();
        for line in lines {
            transcript.add(line.clone());
        }
        transcript.end(status, "last words".to_owned(), oom_kills)
    }

    fn block(height: u64, digest: Option<&str>) -> Value {
        json!({ "height": height, "verdict": "trap", "detail": "why", "digest": digest })
    }

    #[test]
    fn a_summary_is_an_end_of_its_own() {
        let summary = json!({ "summary": { "blocks": 1, "verdicts": { "trap": 1 }, "digest": "ab" } });
        let expected =
            End::Indexed { blocks: 1, verdicts: [("trap".to_owned(), 1)].into(), digest: "ab".to_owned() };
        assert_eq!(end(&[block(7, Some("ab")), summary.clone()], exited(1), 0), expected);
        // One that ended early is none, however far it came; nor is one whose process failed in the middle of a block.
        let stopped = |why: Value| {
            let summary = json!({ "blocks": 2, "verdicts": { "completed": 2 }, "digest": "ab" });
            let mut summary = json!({ "summary": summary });
            summary["summary"].as_object_mut().unwrap().extend(why.as_object().unwrap().clone());
            end(&[block(7, Some("ab")), json!({ "running": 8 }), summary], exited(1), 0)
        };
        let error = stopped(json!({ "error": "block 9 is torn" }));
        assert_eq!(error, End::Failed { reason: "block 9 is torn".to_owned() });
        assert!(matches!(stopped(json!({ "interrupted": true })), End::Failed { .. }));
        // A block that the host lost has no digest, whatever is said afterwards.
        let lost = end(&[block(7, None), summary], exited(1), 1);
        assert_eq!(lost, End::InBlock { height: Some(7), reason: "trap: why".to_owned() });
    }

    #[test]
    fn before_the_first_block_137_is_137_whoever_says_so() {
        assert_eq!(end(&[], exited(137), 0), End::NotCommitted { reason: "last words".to_owned() });
        assert!(matches!(end(&[], killed(), 1), End::NotCommitted { .. }));
        assert!(matches!(end(&[], killed(), 0), End::Failed { .. }), "somebody killed it");
        assert!(matches!(end(&[], exited(1), 0), End::Failed { .. }));
        let nothing = json!({ "summary": { "blocks": 0, "verdicts": {}, "digest": "ab" } });
        assert!(matches!(end(&[nothing], exited(0), 0), End::Failed { .. }), "nothing was checked");
    }

    #[test]
    fn after_that_it_is_in_the_middle_of_a_block() {
        let running = json!({ "running": 3 });
        let reason = "killed by SIGKILL, by the kernel because memory was short".to_owned();
        let expected = End::InBlock { height: Some(3), reason };
        assert_eq!(end(&[block(2, Some("ab")), running], killed(), 1), expected);
        assert!(matches!(end(&[block(2, Some("ab"))], exited(137), 0), End::InBlock { height: None, .. }));
    }
}
