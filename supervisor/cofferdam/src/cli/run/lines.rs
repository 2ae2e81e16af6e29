//! The output lines of blocks. A separate thread prints each line, in the order of blocks, when the block is committed and the
//! reset of its worker is done. So the lines of committed blocks are printed while a long block runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cofferdam_protocol::status::ResetReport;
use cofferdam_protocol::verdict::Verdict;

use crate::cli::error::CliError;
use crate::cli::report::{BlockLine, BlockTimes, Tally};
use cofferdam_base::sync::lock;
use cofferdam_chain::{Observer, Outcome};
use cofferdam_pool::ResetHandle;

/// The most lines that wait for a reset. If more lines wait, the oldest line is printed without its reset.
const MAX_WAITING: usize = 64;

/// If this number of lines or more wait, the run waits for the reader of standard output.
const MAX_BEHIND: usize = 1024;

/// The time between two checks whether a reset is done. No notification tells that it is done.
const RESET_INTERVAL: Duration = Duration::from_millis(5);

/// At the end of a run, how long it waits for resets.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);

/// The reset after a block.
struct Reset {
    /// None when the report is known, or when there will be no report.
    handle: Option<ResetHandle>,
    /// The time and the bytes of the reset. It must be read before the report on the worker's next reset replaces it.
    report: Option<ResetReport>,
}

impl Reset {
    fn look_for_report(&mut self) {
        let Some(handle) = &self.handle else { return };
        self.report = handle.report();
        if self.report.is_some() || !handle.is_pending() {
            self.handle = None;
        }
    }
}

/// What the thread and its users share.
struct State {
    /// The lines of committed blocks, in the order of blocks.
    lines: VecDeque<BlockLine>,
    /// The resets after blocks that ran, in the same order. For a block, either its line or its reset may be added first.
    resets: VecDeque<Reset>,
    tally: Tally,
    /// The time of the end of the run.
    ended: Option<Instant>,
    /// Why no line is printed any more.
    failure: Option<CliError>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The lines of a run, and the thread that prints them.
pub(super) struct Lines {
    shared: Arc<Shared>,
    printer: Option<JoinHandle<()>>,
}

impl Lines {
    /// Starts the thread. It counts all lines. It prints them only if `json` is true.
    ///
    /// # Errors
    /// [`CliError::Io`] if the thread cannot be started.
    pub(super) fn start(json: bool, tally: Tally) -> Result<Self, CliError> {
        let state =
            State { lines: VecDeque::new(), resets: VecDeque::new(), tally, ended: None, failure: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let print = {
            let shared = Arc::clone(&shared);
            move || shared.print_all(json)
        };
        let printer = thread::Builder::new().name("cofferdam-lines".to_owned()).spawn(print);
        let printer = printer.map_err(CliError::io("the thread that prints lines could not be started"))?;
        Ok(Self { shared, printer: Some(printer) })
    }

    /// Adds the lines of blocks that are committed.
    pub(super) fn observer(&self) -> Observer {
        let shared = Arc::clone(&self.shared);
        Box::new(move |outcome: &Outcome| {
            log_outcome(outcome);
            shared.state().add_line(outcome);
            shared.changed.notify_all();
        })
    }

    /// Counts a block that the store had already.
    pub(super) fn skip(&self) {
        self.shared.state().tally.skipped += 1;
    }

    /// Adds a block that ran and is being committed.
    pub(super) fn expect(&self, reset: ResetHandle) {
        self.shared.state().add_reset(reset);
        self.shared.changed.notify_all();
    }

    /// Adds the line of a block that stopped the run and was not committed.
    pub(super) fn add_stopped(&self, outcome: &Outcome) {
        log_outcome(outcome);
        let mut state = self.shared.state();
        state.add_reset(outcome.result.reset.clone());
        state.add_line(outcome);
        self.shared.changed.notify_all();
    }

    /// Looks for the reports on resets, before a worker's next reset replaces them.
    pub(super) fn look_for_reports(&self) {
        self.shared.state().look_for_reports();
    }

    /// Waits, for at most `timeout`, until not too many lines wait for the reader of standard output. Returns whether the run
    /// may go on.
    ///
    /// # Errors
    /// The error of a line that could not be printed. It is returned once.
    pub(super) fn keep_up(&self, timeout: Duration) -> Result<bool, CliError> {
        let is_behind = |state: &mut State| state.lines.len() >= MAX_BEHIND && state.failure.is_none();
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), timeout, is_behind);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.failure.take().map_or(Ok(!waited.timed_out()), Err)
    }

    /// Prints the lines of all blocks that are committed. Waits for resets, but not for long.
    ///
    /// # Errors
    /// The error of a line that could not be printed, unless the error was returned before.
    pub(super) fn finish(&mut self) -> Result<(), CliError> {
        self.shared.state().ended = Some(Instant::now());
        self.shared.changed.notify_all();
        let printed = self.printer.take().is_none_or(|printer| printer.join().is_ok());
        let failure = self.shared.state().failure.take();
        let panicked = (!printed).then_some(CliError::Printer);
        failure.or(panicked).map_or(Ok(()), Err)
    }

    /// Calls `read` with the counts so far.
    pub(super) fn with_tally<T>(&self, read: impl FnOnce(&Tally) -> T) -> T {
        read(&self.shared.state().tally)
    }
}

impl State {
    fn add_line(&mut self, outcome: &Outcome) {
        self.tally.add(BlockTimes::of(&outcome.result));
        self.lines.push_back(BlockLine::new(outcome));
    }

    fn add_reset(&mut self, handle: ResetHandle) {
        self.resets.push_back(Reset { handle: Some(handle), report: None });
    }

    fn look_for_reports(&mut self) {
        self.resets.iter_mut().for_each(Reset::look_for_report);
    }

    /// Takes the oldest line if it can be printed: if its reset is done, or if the wait for its reset is over.
    fn take_line(&mut self) -> Option<BlockLine> {
        self.look_for_reports();
        let is_done = self.resets.front().is_some_and(|reset| reset.handle.is_none());
        let waits = self.lines.len() <= MAX_WAITING
            && self.ended.is_none_or(|ended| !self.resets.is_empty() && ended.elapsed() < RESET_TIMEOUT);
        if !is_done && waits {
            return None;
        }
        let mut line = self.lines.pop_front()?;
        if let Some(report) = self.resets.pop_front().and_then(|reset| reset.report) {
            self.tally.add_reset(report);
            line.add_reset(report);
        }
        Some(line)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Prints lines until the run has ended, or a line cannot be printed.
    fn print_all(&self, json: bool) {
        while let Some(line) = self.next_line() {
            self.changed.notify_all();
            if let Err(error) = if json { print_json(&line) } else { Ok(()) } {
                self.state().failure = Some(error);
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Waits for the next line. None at the end of the run.
    fn next_line(&self) -> Option<BlockLine> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.take_line() {
                return Some(line);
            }
            if state.lines.is_empty() && state.ended.is_some() {
                return None;
            }
            state = if state.lines.is_empty() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.changed.wait_timeout(state, RESET_INTERVAL);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
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
pub(in super::super) fn print_json(line: &impl serde::Serialize) -> Result<(), CliError> {
    let print = || -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)?;
        out.flush()
    };
    print().map_err(CliError::io("standard output"))
}
