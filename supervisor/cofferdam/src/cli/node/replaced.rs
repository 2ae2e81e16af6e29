//! Options of rockshrew-mono (the node that `cofferdam node` replaces) that have no effect or no counterpart here.

use std::path::PathBuf;

use clap::Args;

use super::super::error::CliError;

/// Options of rockshrew-mono. Most have no effect: they are accepted, and a warning says what takes their place. `--fork`,
/// `--legacy-fork` and `--repo` are refused.
#[derive(Clone, Debug, Args)]
pub(super) struct ReplacedArgs {
    #[arg(long, hide = true)]
    reorg_check_threshold: Option<u32>,
    #[arg(long, hide = true)]
    enable_preview: bool,
    #[arg(long, hide = true)]
    no_startup_heal: bool,
    #[arg(long, hide = true)]
    view_concurrency: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_mb: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_floor_mb: Option<u32>,
    #[arg(long, hide = true)]
    view_memory_floor_refresh_ms: Option<u32>,
    #[arg(long, hide = true)]
    view_runtime_workers: Option<u32>,
    #[arg(long, hide = true)]
    indexer_cores: Option<u32>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    indexer_nice: Option<i32>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    view_nice: Option<i32>,
    #[arg(long, hide = true)]
    fork: Option<PathBuf>,
    #[arg(long, hide = true)]
    legacy_fork: bool,
    #[arg(long, hide = true)]
    repo: Option<String>,
}

impl ReplacedArgs {
    /// Warns of options that have no effect.
    ///
    /// # Errors
    /// [`CliError::Usage`] for `--fork`, `--legacy-fork` and `--repo`: no option here has their effect.
    pub(super) fn check(&self) -> Result<(), CliError> {
        const VIEWS: &str = "views run on workers that have committed their memory; --workers says how many";
        const SCHEDULING: &str = "let systemd set CPUAffinity= and Nice=";
        let said = [
            (
                "--reorg-check-threshold",
                self.reorg_check_threshold.is_some(),
                "every block is compared with its parent",
            ),
            ("--enable-preview", self.enable_preview, "previews are always allowed"),
            (
                "--no-startup-heal",
                self.no_startup_heal,
                "the store holds whole blocks after every end of the node, so nothing has to be healed",
            ),
            ("--view-concurrency", self.view_concurrency.is_some(), VIEWS),
            (
                "--view-memory-mb",
                self.view_memory_mb.is_some(),
                "a view may use as much memory as a block; --memory says how much",
            ),
            ("--view-memory-floor-mb", self.view_memory_floor_mb.is_some(), VIEWS),
            ("--view-memory-floor-refresh-ms", self.view_memory_floor_refresh_ms.is_some(), VIEWS),
            ("--view-runtime-workers", self.view_runtime_workers.is_some(), VIEWS),
            ("--indexer-cores", self.indexer_cores.is_some(), SCHEDULING),
            ("--indexer-nice", self.indexer_nice.is_some(), SCHEDULING),
            ("--view-nice", self.view_nice.is_some(), SCHEDULING),
        ];
        for (option, _, instead) in said.iter().filter(|(_, given, _)| *given) {
            tracing::warn!("{option} has no effect: {instead}");
        }
        let refused = [
            ("--fork", self.fork.is_some(), "to start from a copy, run cofferdam snapshot restore"),
            (
                "--legacy-fork",
                self.legacy_fork,
                "the store of another program cannot be read; index into a new --db-path, or run cofferdam snapshot restore",
            ),
            ("--repo", self.repo.is_some(), "download a snapshot, then run cofferdam snapshot restore"),
        ];
        match refused.iter().find(|(_, given, _)| *given) {
            Some((option, _, instead)) => {
                Err(CliError::Usage(format!("{option} is not supported: {instead}")))
            }
            None => Ok(()),
        }
    }
}
