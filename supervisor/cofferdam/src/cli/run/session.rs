//! Runs the blocks of one `cofferdam run` through the pipeline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use indicatif::ProgressBar;

use super::arguments::RunArgs;
use super::lines::{Lines, print_json};
use super::reader::{Blocks, read_ahead};
use crate::cli::error::CliError;
use crate::cli::logging;
use crate::cli::report::{ChainEnd, RunningLine, Summary, Tally};
use crate::cli::signals::Stop;
use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::BlockSource;
use cofferdam_chain::{Batch, ChainError, Committed, Hashed, OnFullDisk, Pipeline, PipelineSettings, Pushed};
use cofferdam_pool::{Health, PoolError, Runner};
use cofferdam_store::Store;

/// The time between two checks whether a signal asked the run to stop.
const TICK: Duration = Duration::from_millis(20);

/// A run in progress.
pub(super) struct Session<'a, R> {
    args: &'a RunArgs,
    runner: &'a R,
    store: &'a Store,
    pipeline: Pipeline<&'a R>,
    lines: Lines,
    bar: ProgressBar,
}

/// What the reader has at this moment.
enum Next {
    Block(Hashed),
    /// No block yet.
    Nothing,
    /// No block ever again.
    End,
}

impl<'a, R: Runner> Session<'a, R> {
    pub(super) fn new(
        args: &'a RunArgs,
        runner: &'a R,
        store: &'a Arc<Store>,
        source: &BlockSource,
    ) -> Result<Self, CliError> {
        let settings = PipelineSettings {
            policy: args.on_guest_failure.into(),
            batch: Batch::CATCHING_UP,
            linked: source.links(),
            // A user waits for the end of the run. The user can free space and start the run again.
            on_full_disk: OnFullDisk::Fail,
            ..PipelineSettings::default()
        };
        let lines = Lines::start(args.json, Tally::new(source.already_indexed()))?;
        let pipeline = Pipeline::resume(runner, Arc::clone(store), settings, lines.observer())?;
        let bar = logging::bar(source.total(), "indexing {bar:40} {pos}/{len} {per_sec} {eta} {msg}");
        Ok(Self { args, runner, store, pipeline, lines, bar })
    }

    /// Indexes every block. Returns false if a block stopped the run. All blocks that ran before are committed when this returns,
    /// unless the store failed.
    pub(super) fn index(&mut self, source: BlockSource, stop: &Stop) -> Result<bool, CliError> {
        let (blocks, reader) = read_ahead(source)?;
        let result = self.index_from(&blocks, stop);
        let flushed = self.pipeline.flush();
        self.lines.finish()?;
        self.bar.finish_and_clear();
        let goes_on = result?;
        flushed?;
        // At the end of the blocks the reader has ended, too. A reader that panicked has not read all blocks.
        if goes_on && !stop.is_asked() && reader.join().is_err() {
            return Err(CliError::Reader);
        }
        Ok(goes_on)
    }

    fn index_from(&mut self, blocks: &Blocks, stop: &Stop) -> Result<bool, CliError> {
        while !stop.is_asked() {
            if !self.lines.keep_up(TICK)? {
                continue;
            }
            let block = match self.next(blocks)? {
                Next::Block(block) => block,
                Next::Nothing => continue,
                Next::End => return Ok(true),
            };
            match self.index_one(block) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // The interruption has ended the block before its result. The next run begins with this block.
                Err(CliError::Pool(PoolError::Draining)) if stop.is_asked() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Gets the next block. If no block is ready, commits the blocks that have run.
    fn next(&mut self, blocks: &Blocks) -> Result<Next, CliError> {
        match blocks.try_recv() {
            Ok(block) => return Ok(Next::Block(block?)),
            Err(TryRecvError::Disconnected) => return Ok(Next::End),
            Err(TryRecvError::Empty) => self.pipeline.commit_now()?,
        }
        match blocks.recv_timeout(TICK) {
            Ok(block) => Ok(Next::Block(block?)),
            Err(RecvTimeoutError::Disconnected) => Ok(Next::End),
            Err(RecvTimeoutError::Timeout) => Ok(Next::Nothing),
        }
    }

    /// Indexes one block. Returns whether the run goes on.
    fn index_one(&mut self, block: Hashed) -> Result<bool, CliError> {
        if (self.args.uncommitted || self.args.announce) && self.args.json {
            print_json(&RunningLine { running: block.block.height })?;
        }
        self.lines.look_for_reports();
        let goes_on = self.push(block)?;
        self.bar.inc(1);
        Ok(goes_on)
    }

    fn push(&mut self, block: Hashed) -> Result<bool, ChainError> {
        if self.pipeline.has(&block.block)? {
            self.lines.skip();
            return Ok(true);
        }
        match self.pipeline.push(block)? {
            Pushed::Taken(reset) => {
                self.lines.expect(reset);
                self.lines.look_for_reports();
                Ok(true)
            }
            Pushed::Stopped(outcome) => {
                self.lines.add_stopped(&outcome);
                Ok(false)
            }
        }
    }

    /// The summary of the run.
    pub(super) fn finish(&self, started: Instant, interrupted: bool, health: &Health) -> Summary {
        let Committed { tip, digest } = self.pipeline.committed();
        let end = ChainEnd {
            tip,
            digest,
            profile: self.runner.profile().hash(),
            db_path: self.args.db_path.as_ref().map(|_| self.store.path().display().to_string()),
            interrupted,
            elapsed: started.elapsed(),
        };
        let summary = self.lines.with_tally(|tally| tally.summary(&end, health));
        for worker in &summary.workers {
            if let Some(missing) = worker.missing_bytes().filter(|missing| *missing > 0) {
                tracing::warn!(
                    "worker {} has {} less resident memory than it committed: the host may be swapping",
                    worker.pid(),
                    Bytes(missing)
                );
            }
        }
        summary
    }
}
