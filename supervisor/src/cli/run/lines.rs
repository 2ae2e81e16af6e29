//! The output lines of blocks. A line is printed once its block is committed and the reset of its worker is done, in the order
//! of blocks.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use cofferdam_protocol::status::ResetReport;
use cofferdam_protocol::verdict::Verdict;
use crossbeam_channel::{Receiver, unbounded};

use crate::chain::{Observer, Outcome};
use crate::cli::error::CliError;
use crate::cli::report::{BlockLine, BlockTimes, Tally};
use crate::pool::ResetHandle;

/// The most lines that wait for a reset. Beyond, the oldest line is printed without its reset.
const MAX_WAITING: usize = 64;

/// How long the end of a run waits for the reset of a worker.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);

/// The parts of an outcome that are printed and counted. The bytes that the block wrote are not kept.
struct Finished {
    line: BlockLine,
    times: BlockTimes,
}

impl Finished {
    fn of(outcome: &Outcome) -> Self {
        Self { line: BlockLine::new(outcome), times: BlockTimes::of(&outcome.result) }
    }
}

/// A block that ran.
struct Waiting {
    reset: ResetHandle,
    /// How the reset went, once that is known. It must be asked for early: the report on a worker's next reset replaces it.
    report: Option<ResetReport>,
    /// None until the block is committed.
    line: Option<BlockLine>,
}

impl Waiting {
    fn look_for_report(&mut self) {
        if self.report.is_none() {
            self.report = self.reset.report();
        }
    }
}

/// The lines of a run.
pub(super) struct Lines {
    json: bool,
    tally: Tally,
    /// Blocks that were committed since they were last taken from here.
    committed: Receiver<Finished>,
    /// In the order of blocks.
    waiting: VecDeque<Waiting>,
}

impl Lines {
    /// The lines of a run whose pipeline calls the observer. Lines are printed if `json`, and always counted.
    pub(super) fn new(json: bool, tally: Tally) -> (Self, Observer) {
        // The pipeline limits how many blocks are committed before the next look.
        let (sender, committed) = unbounded();
        let observer = move |outcome: &Outcome| {
            log_outcome(outcome);
            // Nobody receives once the run has failed.
            let _ = sender.send(Finished::of(outcome));
        };
        (Self { json, tally, committed, waiting: VecDeque::new() }, Box::new(observer))
    }

    /// Counts a block that the store had already.
    pub(super) fn skip(&mut self) {
        self.tally.skipped += 1;
    }

    /// Adds a block that ran and is being committed.
    pub(super) fn expect(&mut self, reset: ResetHandle) {
        self.waiting.push_back(Waiting { reset, report: None, line: None });
    }

    /// Adds a block that the chain has stopped before.
    pub(super) fn add_stopped(&mut self, outcome: &Outcome) {
        log_outcome(outcome);
        self.collect();
        self.expect(outcome.result.reset.clone());
        self.finish(Finished::of(outcome));
    }

    /// Looks for the reports on resets that are done.
    pub(super) fn look_for_reports(&mut self) {
        self.waiting.iter_mut().for_each(Waiting::look_for_report);
    }

    /// Prints the lines that are complete, in order.
    pub(super) fn print(&mut self) -> Result<(), CliError> {
        self.collect();
        self.look_for_reports();
        while let Some(Waiting { line: Some(_), reset, report }) = self.waiting.front() {
            if report.is_none() && reset.is_pending() && self.waiting.len() <= MAX_WAITING {
                return Ok(());
            }
            self.print_front()?;
        }
        Ok(())
    }

    /// Prints the lines of all blocks that are committed. Waits for resets, but not for long.
    pub(super) fn print_all(&mut self) -> Result<(), CliError> {
        self.collect();
        while let Some(front) = self.waiting.front_mut() {
            front.report = front.report.or_else(|| front.reset.wait(RESET_TIMEOUT));
            self.print_front()?;
        }
        Ok(())
    }

    /// The counts so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes over the blocks that were committed.
    fn collect(&mut self) {
        while let Ok(finished) = self.committed.try_recv() {
            self.finish(finished);
        }
    }

    /// Completes the oldest block without a line: blocks are committed in order.
    fn finish(&mut self, finished: Finished) {
        let Finished { line, times } = finished;
        self.tally.add(times);
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.line.is_none()) {
            waiting.line = Some(line);
        }
    }

    /// Removes the oldest block, and prints its line if it has one. A block without a line was not committed.
    fn print_front(&mut self) -> Result<(), CliError> {
        let Some(Waiting { line: Some(mut line), report, .. }) = self.waiting.pop_front() else {
            return Ok(());
        };
        if let Some(report) = report {
            self.tally.add_reset(report);
            line.add_reset(report);
        }
        if self.json { print_json(&line) } else { Ok(()) }
    }
}

/// Logs the lines of the guest, and a block that did not complete.
fn log_outcome(outcome: &Outcome) {
    /// The number of the guest's last lines that are logged with a failure.
    const LAST_LINES: usize = 5;
    let result = &outcome.result;
    for line in result.log.lines() {
        tracing::debug!(target: "cofferdam::guest", height = outcome.height, "{line}");
    }
    if result.verdict.is_completed() {
        return;
    }
    let consequence = match (result.verdict, outcome.committed) {
        (Verdict::Guest(_), true) => "the block is committed without writes, and the run goes on",
        (Verdict::Guest(_), false) => "the run stops before this block. Every host has the same result",
        (Verdict::Host(_), _) => "the run stops before this block. Nothing of the block was committed",
    };
    tracing::error!("block {}: {} ({}): {consequence}", outcome.height, result.verdict, result.detail);
    let log: Vec<&str> = result.log.lines().collect();
    for line in log.iter().skip(log.len().saturating_sub(LAST_LINES)) {
        tracing::error!("block {}: the guest logged: {line}", outcome.height);
    }
}

/// Prints one line of JSON to standard output.
///
/// # Errors
/// [`CliError::StdoutClosed`], [`CliError::Io`].
pub(in crate::cli) fn print_json(line: &impl serde::Serialize) -> Result<(), CliError> {
    let print = || -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)?;
        out.flush()
    };
    print().map_err(CliError::io("standard output"))
}
