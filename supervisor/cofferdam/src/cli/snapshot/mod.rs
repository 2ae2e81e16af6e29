//! `cofferdam snapshot`: takes the state after one block from a store that may be in use, verifies it, and makes a new store of it.

mod look;

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::StateReader;
use indicatif::ProgressBar;
use nix::sys::signal::{Signal, raise};
use serde::Serialize;

use super::args::parse_hash;
use super::error::CliError;
use super::logging;
use super::output;
use super::signals::Stop;
use cofferdam_base::size::Bytes;
use cofferdam_store::ReadAccess;
use cofferdam_store::snapshot::{self, Expected, Manifest, SnapshotError, Step, TakeOptions};

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Take a snapshot of a store. A node or a run may be writing to the store at the same time.
    Take(TakeArgs),
    /// Verify that a snapshot is complete and matches its manifest.
    Verify(VerifyArgs),
    /// Make a store of a snapshot. `node --db-path` and `run --db-path` continue from it.
    Restore(RestoreArgs),
    /// Print what a data file contains.
    #[command(hide = true)]
    Inspect(look::InspectArgs),
}

/// Arguments of `cofferdam snapshot take`.
#[derive(Debug, Args)]
pub(super) struct TakeArgs {
    /// The directory of the store.
    #[arg(long, value_name = "DIR")]
    db_path: PathBuf,

    /// The directory of the snapshots. The snapshot gets a directory of its own in it.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// Keep the newest N snapshots of this profile there, and remove the others [default: remove none].
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroUsize>,

    /// Print one JSON object instead of lines of text.
    #[arg(long)]
    json: bool,

    /// Kill this process at that point.
    #[arg(long, hide = true)]
    plant_kill: Option<KillAt>,
}

/// Arguments of `cofferdam snapshot verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The snapshot's directory.
    snapshot: PathBuf,

    /// Read every value, too, and print the content hash. It is the same for every node of this profile at the same height.
    #[arg(long)]
    content: bool,

    /// Print one JSON object instead of lines of text.
    #[arg(long)]
    json: bool,
}

/// Arguments of `cofferdam snapshot restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The snapshot's directory.
    snapshot: PathBuf,

    /// The directory of the new store: an empty directory, or one that does not exist.
    #[arg(long, value_name = "DIR")]
    db_path: PathBuf,

    /// Refuse the snapshot unless it was taken after the block at this height.
    #[arg(long, value_name = "HEIGHT")]
    height: Option<u32>,

    /// Refuse the snapshot unless its manifest has this chain digest, which a node that you trust tells you. A forged snapshot can
    /// have the right digest and wrong values: see --content.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    digest: Option<Hash>,

    /// Refuse the snapshot unless its data file has this SHA-256, which the person who took the snapshot tells you.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    sha256: Option<Hash>,

    /// Refuse the snapshot unless it has this content hash, which `verify --content` prints for your own snapshot of the same
    /// height. Reads every value.
    #[arg(long, value_name = "HEX", value_parser = parse_hash)]
    content: Option<Hash>,

    /// Print one JSON object instead of lines of text.
    #[arg(long)]
    json: bool,

    /// Kill this process at that point.
    #[arg(long, hide = true)]
    plant_kill: Option<KillAt>,
}

/// Where a planted kill strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KillAt {
    /// With half of the data written.
    Data,
    /// With all of the data written.
    Looking,
    /// Before the snapshot gets its name.
    Naming,
    /// After the snapshot got its name.
    Done,
}

/// Runs the command.
pub(super) fn run(command: &SnapshotCommand) -> Result<CommandExit, CliError> {
    match command {
        SnapshotCommand::Take(args) => take(args),
        SnapshotCommand::Verify(args) => verify(args),
        SnapshotCommand::Restore(args) => restore(args),
        SnapshotCommand::Inspect(args) => look::inspect(args),
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// The snapshot, or the store that was made of it.
    path: &'a Path,
    #[serde(flatten)]
    manifest: &'a Manifest,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_new: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a [PathBuf]>,
}

impl<'a> Line<'a> {
    fn of(path: &'a Path, manifest: &'a Manifest) -> Self {
        Self { path, manifest, content: None, is_new: None, removed: None }
    }

    fn print(&self, json: bool, said: &str) -> Result<CommandExit, CliError> {
        let text = match json {
            true => serde_json::to_string(self).map_err(io::Error::other),
            false => Ok(self.to_text(said)),
        };
        output::print(text)?;
        Ok(CommandExit::Success)
    }

    fn to_text(&self, said: &str) -> String {
        let manifest = self.manifest;
        let network = manifest.network.as_deref().unwrap_or("an unknown network");
        let mut text = format!(
            "{}: {said}\n  block    {} of {network}, {}\n  digest   {}\n  profile  {}\n  data     {}, SHA-256 {}",
            self.path.display(),
            manifest.height,
            manifest.block_hash,
            manifest.digest,
            manifest.profile,
            Bytes(manifest.data_bytes),
            manifest.data_sha256
        );
        if let Some(content) = &self.content {
            text += &format!("\n  content  {content}");
        }
        for removed in self.removed.unwrap_or_default() {
            text += &format!("\n  removed  {}", removed.display());
        }
        text
    }
}

fn take(args: &TakeArgs) -> Result<CommandExit, CliError> {
    let mut progress = Progress::begin("copying", args.plant_kill)?;
    let readable = ReadAccess::check(&args.db_path).map_err(SnapshotError::from)?;
    let reader = StateReader::open(readable.path()).map_err(SnapshotError::from)?;
    let options = TakeOptions { module: None, keep: args.keep };
    let taken = snapshot::take(&reader, &args.to, &options, &mut |step| progress.show(step))?;
    progress.bar.finish_and_clear();
    let line = Line {
        is_new: Some(taken.is_new),
        removed: Some(&taken.removed),
        ..Line::of(&taken.path, &taken.manifest)
    };
    line.print(args.json, if taken.is_new { "taken" } else { "already there" })
}

fn verify(args: &VerifyArgs) -> Result<CommandExit, CliError> {
    let mut progress = Progress::begin("reading", None)?;
    let verified =
        snapshot::verify(&args.snapshot, args.content, &look::look_apart, &mut |step| progress.show(step))?;
    progress.bar.finish_and_clear();
    let content = verified.inspection.content.map(|hash| hash.to_string());
    Line { content, ..Line::of(&verified.path, &verified.manifest) }.print(args.json, "whole")
}

fn restore(args: &RestoreArgs) -> Result<CommandExit, CliError> {
    let mut progress = Progress::begin("copying", args.plant_kill)?;
    let wanted =
        Expected { height: args.height, digest: args.digest, sha256: args.sha256, content: args.content };
    let watch = &mut |step| progress.show(step);
    let restored = snapshot::restore(&args.snapshot, &args.db_path, &wanted, &look::look_apart, watch)?;
    progress.bar.finish_and_clear();
    let content = restored.inspection.content.map(|hash| hash.to_string());
    Line { content, ..Line::of(&restored.path, &restored.manifest) }.print(args.json, "restored")
}

/// The progress bar, and whether a signal asked to stop.
struct Progress {
    stop: Stop,
    bar: ProgressBar,
    kill_at: Option<KillAt>,
}

impl Progress {
    fn begin(doing: &str, kill_at: Option<KillAt>) -> Result<Self, CliError> {
        let stop = Stop::listen()?;
        let template =
            format!("{doing} {{bar:40}} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}} {{msg}}");
        Ok(Self { stop, bar: logging::bar(None, &template), kill_at })
    }

    fn show(&mut self, step: Step) -> ControlFlow<()> {
        match step {
            Step::Data { done, total } => {
                self.bar.set_length(total);
                self.bar.set_position(done);
            }
            Step::Inspecting => self.bar.set_message("inspecting it"),
            Step::Renaming | Step::Done => {}
        }
        if self.kill_at.is_some_and(|at| at.is(step)) {
            // The signal ends the process before this returns.
            let _unsent = raise(Signal::SIGKILL);
        }
        if self.stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl KillAt {
    fn is(self, step: Step) -> bool {
        match step {
            Step::Data { done, total } => self == Self::Data && done >= total / 2,
            Step::Inspecting => self == Self::Looking,
            Step::Renaming => self == Self::Naming,
            Step::Done => self == Self::Done,
        }
    }
}
