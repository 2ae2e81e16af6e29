//! One run in progress: block after block through the chain, and a line for each once its reset is done.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::verdict::Verdict;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use indicatif::ProgressBar;

use super::super::error::CliError;
use super::super::logging;
use super::super::report::{BlockLine, ChainEnd, RunningLine, Summary, Tally};
use super::super::signals::Stop;
use super::RunArgs;
use cofferdam_base::size::Bytes;
use cofferdam_chain::blocks::{BlockError, BlockSource};
use cofferdam_chain::{Chain, Hashed, Outcome, Step};
use cofferdam_pool::{Health, PoolError, Runner};
use cofferdam_store::Store;

/// How many blocks are read and checked ahead of the workers.
const AHEAD: usize = 4;

/// How many lines may wait for the report on their reset before they are printed without it.
const WAITING_LINES: usize = 64;

/// A run in progress.
pub(super) struct Session<'a, R> {
    args: &'a RunArgs,
    runner: &'a R,
    store: &'a Store,
    chain: Chain<&'a R>,
    tally: Tally,
    waiting: VecDeque<Outcome>,
    bar: ProgressBar,
}

impl<'a, R: Runner> Session<'a, R> {
    pub(super) fn new(
        args: &'a RunArgs,
        runner: &'a R,
        store: &'a Arc<Store>,
        source: &BlockSource,
    ) -> Result<Self, CliError> {
        let chain =
            Chain::resume(runner, Arc::clone(store), args.on_guest_failure.into())?.linked(source.links());
        let bar = logging::bar(source.total(), "indexing {bar:40} {pos}/{len} {per_sec} {eta} {msg}");
        let (tally, waiting) = (Tally::new(source.already_indexed()), VecDeque::new());
        Ok(Self { args, runner, store, chain, tally, waiting, bar })
    }

    /// Indexes every block; whether none of them stopped the run.
    pub(super) fn index(&mut self, source: BlockSource, stop: &Stop) -> Result<bool, CliError> {
        let (blocks, reader) = read_ahead(source)?;
        let result = self.index_from(&blocks, stop);
        self.print_waiting(true)?;
        self.bar.finish_and_clear();
        let goes_on = result?;
        // At the end of the blocks the reader has ended too; a reader that panicked has not read them all.
        if goes_on && !stop.is_asked() && reader.join().is_err() {
            return Err(CliError::Reader);
        }
        Ok(goes_on)
    }

    fn index_from(&mut self, blocks: &Blocks, stop: &Stop) -> Result<bool, CliError> {
        const TICK: Duration = Duration::from_millis(20);
        while !stop.is_asked() {
            let block = match blocks.recv_timeout(TICK) {
                Ok(block) => block?,
                Err(RecvTimeoutError::Timeout) => {
                    self.print_waiting(false)?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
            };
            match self.index_one(block) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // The block was cut off, and is the first of the next run.
                Err(CliError::Pool(PoolError::Draining)) if stop.is_asked() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Indexes one block; whether the run goes on.
    fn index_one(&mut self, block: Hashed) -> Result<bool, CliError> {
        if (self.args.uncommitted || self.args.announce) && self.args.json {
            print_json(&RunningLine { running: block.block.height })?;
        }
        let step = self.chain.step(block)?;
        self.bar.inc(1);
        let Step::Ran(outcome) = step else {
            self.tally.skipped += 1;
            return Ok(true);
        };
        self.tally.add(&outcome);
        self.report_trouble(&outcome);
        let goes_on = outcome.committed;
        self.waiting.push_back(*outcome);
        self.print_waiting(false)?;
        Ok(goes_on)
    }

    fn report_trouble(&self, outcome: &Outcome) {
        let result = &outcome.result;
        for line in result.log.lines() {
            tracing::debug!(target: "cofferdam::guest", height = outcome.height, "{line}");
        }
        if result.verdict.is_completed() {
            return;
        }
        let what = match (result.verdict, outcome.committed) {
            (Verdict::Guest(_), true) => "skipped",
            (Verdict::Guest(_), false) => "the run stops here; every host would say the same",
            (Verdict::Host(_), _) => "the run stops here; nothing of the block was committed",
        };
        tracing::error!("block {}: {} ({}): {what}", outcome.height, result.verdict, result.detail);
        let log: Vec<&str> = result.log.lines().collect();
        for line in log.iter().skip(log.len().saturating_sub(5)) {
            tracing::error!("block {}: the guest logged: {line}", outcome.height);
        }
    }

    /// Prints the lines of blocks whose reset is done, in order; all of them if `force`.
    fn print_waiting(&mut self, force: bool) -> Result<(), CliError> {
        const PATIENCE: Duration = Duration::from_secs(2);
        while let Some(outcome) = self.waiting.front() {
            let reset = &outcome.result.reset;
            if force {
                reset.wait(PATIENCE);
            }
            if reset.is_pending() && !force && self.waiting.len() <= WAITING_LINES {
                return Ok(());
            }
            let report = reset.report();
            if let Some(report) = report {
                self.tally.add_reset(report);
            }
            if self.args.json {
                print_json(&BlockLine::new(outcome, report))?;
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    pub(super) fn finish(&self, started: Instant, interrupted: bool, health: &Health) -> Summary {
        let end = ChainEnd {
            tip: self.chain.tip(),
            digest: self.chain.digest(),
            profile: self.runner.profile().hash(),
            db_path: self.args.db_path.as_ref().map(|_| self.store.path().display().to_string()),
            interrupted,
            elapsed: started.elapsed(),
        };
        let summary = self.tally.summary(&end, health);
        for worker in &summary.workers {
            if let Some(missing) = worker.missing_bytes().filter(|missing| *missing > 0) {
                tracing::warn!(
                    "worker {} has {} less resident than it committed: is the host swapping?",
                    worker.pid(),
                    Bytes(missing)
                );
            }
        }
        summary
    }
}

/// Blocks as they were read.
pub(in super::super) type Blocks = Receiver<Result<Hashed, BlockError>>;

/// Reads, checks and hashes blocks on a thread of its own, a few ahead.
pub(in super::super) fn read_ahead(source: BlockSource) -> Result<(Blocks, JoinHandle<()>), CliError> {
    let (sender, receiver) = bounded(AHEAD);
    let read = move || {
        for block in source {
            // The run has ended when nobody receives.
            if sender.send(block.map(Hashed::from)).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("cofferdam-blocks".to_owned()).spawn(read);
    Ok((receiver, thread.map_err(CliError::io("a thread to read blocks"))?))
}

pub(in super::super) fn print_json(line: &impl serde::Serialize) -> Result<(), CliError> {
    let print = || -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)?;
        out.flush()
    };
    print().map_err(CliError::io("standard output"))
}
