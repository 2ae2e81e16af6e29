//! The settings of a pool that must not change the result of a block.

use std::fmt;

use cofferdam_base::size::Bytes;
use cofferdam_pool::{CommitStrategy, PoolBuilder, ResetStrategy};

/// The settings of the pool of one run. None of them is part of the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunSettings {
    /// How memory is committed.
    pub commit: CommitStrategy,
    /// Whether the pool asks the host for huge pages.
    pub huge_pages: bool,
    /// How memory is reset after a block.
    pub reset: ResetStrategy,
    /// The number of workers.
    pub workers: usize,
}

impl Default for RunSettings {
    /// The default settings of a pool, with one worker.
    fn default() -> Self {
        Self {
            commit: CommitStrategy::default(),
            huge_pages: true,
            reset: ResetStrategy::default(),
            workers: 1,
        }
    }
}

impl RunSettings {
    /// The settings of the run with this index. The settings repeat with different periods: 2, 3 or 4 runs. So each setting
    /// changes within the first three runs, and later runs combine the settings in other ways. `roomy` says whether there is
    /// memory for a second worker.
    pub(super) fn of_run(index: usize, roomy: bool) -> Self {
        Self {
            commit: if index.is_multiple_of(2) { CommitStrategy::Populate } else { CommitStrategy::Touch },
            huge_pages: index % 3 != 1,
            reset: if index % 4 < 2 { ResetStrategy::Adaptive } else { ResetStrategy::Zero },
            workers: if roomy && index % 3 == 2 { 2 } else { 1 },
        }
    }

    pub(super) fn apply(self, builder: PoolBuilder) -> PoolBuilder {
        let Self { commit, huge_pages, reset, workers } = self;
        builder.commit(commit).huge_pages(huge_pages).reset(reset).workers(workers).spares(0)
    }
}

impl fmt::Display for RunSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "commit {}, {}, reset {}, {}",
            self.commit.name(),
            if self.huge_pages { "huge pages" } else { "4 KiB pages" },
            self.reset.name(),
            if self.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", self.workers) }
        )
    }
}

/// Whether a test may use two workers with this much memory each.
pub(super) fn roomy(memory_bytes: u64) -> bool {
    memory_bytes <= Bytes::mib(256).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_runs_differ_in_every_setting() {
        let runs: Vec<_> = (0..5).map(|index| RunSettings::of_run(index, true)).collect();
        assert_eq!(runs[0], RunSettings::default());
        assert!(runs.iter().any(|run| run.commit != runs[0].commit));
        assert!(runs.iter().any(|run| run.huge_pages != runs[0].huge_pages));
        assert!(runs.iter().any(|run| run.reset != runs[0].reset));
        assert!(runs.iter().any(|run| run.workers == 2));
        assert!((0..5).all(|index| RunSettings::of_run(index, false).workers == 1));
        for (at, run) in runs.iter().enumerate() {
            assert!(!runs[..at].contains(run), "run {at} repeats an earlier one: {run}");
        }
    }
}
