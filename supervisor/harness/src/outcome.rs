//! The result of a block or a view, and assertions on the result. A failed assertion describes what was expected and what happened.

use std::fmt;

use cofferdam_base::size::Bytes;
use cofferdam_pool::{JobResult, Limits};
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;

use super::words::{Shown, counted, cut, last_lines, meaning};
use super::writes_difference::{WritesDifference, collect};

/// The number of lines at the end of the guest's log that a report shows.
const LOG_LINES: usize = 5;

/// How many characters of such a line are shown.
const LINE_CHARS: usize = 400;

/// The result of a block or a view. Its `Display` form is a report of several lines.
///
/// An assertion that fails panics at the line of the caller, with that report. An assertion that holds returns the outcome, so that
/// assertions can be chained.
#[derive(Clone)]
pub struct Outcome {
    /// What was run, in words: "block 3 (80 bytes)".
    pub job: String,
    /// The result that the pool returned.
    pub result: JobResult,
    /// The digest of the chain with this block. `None` for a view, and after a host verdict.
    pub digest: Option<Hash>,
    /// Whether the block was committed.
    pub committed: bool,
    /// The memory limit of the guest, in bytes.
    pub(super) memory_limit: u64,
    /// The other limits.
    pub(super) limits: Limits,
}

impl Outcome {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        self.result.verdict
    }

    /// The last value that the block flushed for `key`. `None` if the block did not complete, or flushed no such key.
    pub fn written(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let written = self.result.writes().iter().filter(|(found, _)| *found == key.as_ref());
        written.last().map(|(_, value)| value)
    }

    /// Asserts that the block or view completed.
    ///
    /// # Panics
    /// If it did not complete.
    #[track_caller]
    pub fn assert_completed(self) -> Self {
        self.assert_verdict(Verdict::COMPLETED)
    }

    /// Asserts the verdict: a [`GuestVerdict`](cofferdam_protocol::verdict::GuestVerdict), a
    /// [`HostVerdict`](cofferdam_protocol::verdict::HostVerdict) or either.
    ///
    /// # Panics
    /// If the verdict is another one.
    #[track_caller]
    pub fn assert_verdict(self, expected: impl Into<Verdict>) -> Self {
        let expected = expected.into();
        let wrong = self.result.verdict != expected;
        self.fail_if(wrong.then_some(()), |_, ()| {
            format!("expected the verdict {expected} ({})", meaning(expected))
        })
    }

    /// Asserts that the block completed and flushed exactly these pairs, in this order.
    ///
    /// # Panics
    /// If the block did not complete, or if the pairs differ. The message then has the first pair that differs.
    #[track_caller]
    pub fn assert_writes(self, expected: &[(&[u8], &[u8])]) -> Self {
        let outcome = self.assert_completed();
        let difference = WritesDifference::between(expected, &collect(outcome.result.writes()));
        outcome.fail_if(difference, |_, difference| {
            format!("expected other pairs: {}", difference.describe(["expected", "found"]))
        })
    }

    /// Asserts that the view completed and returned exactly these bytes.
    ///
    /// # Panics
    /// If the view did not complete, or if the results differ. The message then has both results.
    #[track_caller]
    pub fn assert_result(self, expected: impl AsRef<[u8]>) -> Self {
        let (outcome, expected) = (self.assert_completed(), expected.as_ref());
        let differs = outcome.result.view_result() != expected;
        outcome.fail_if(differs.then_some(()), |outcome, ()| {
            let found = Shown(outcome.result.view_result());
            format!("expected another result\n    expected: {}\n    found:    {found}", Shown(expected))
        })
    }

    /// Asserts that the guest had at most `bytes` of memory at the end. WebAssembly memory never shrinks, so the guest never had
    /// more.
    ///
    /// # Panics
    /// If the guest had more; and after a host verdict, because the size is not known then.
    #[track_caller]
    pub fn assert_high_water_at_most(self, bytes: u64) -> Self {
        let known = matches!(self.result.verdict, Verdict::Guest(_));
        let above = !known || self.result.memory_bytes > bytes;
        self.fail_if(above.then_some(()), |_, ()| {
            format!("expected at most {} ({bytes} bytes) of guest memory", Bytes(bytes))
        })
    }

    /// Asserts that a line of the guest's log contains `text`.
    ///
    /// # Panics
    /// If no line does.
    #[track_caller]
    pub fn assert_logged(self, text: &str) -> Self {
        let logged = self.result.log.lines().any(|line| line.contains(text));
        self.fail_if((!logged).then_some(()), |_, ()| format!("expected a log line with {text:?}"))
    }

    /// Panics if `failed` is not none. The message says what was expected and what happened.
    #[track_caller]
    fn fail_if<T>(self, failed: Option<T>, expected: impl FnOnce(&Self, T) -> String) -> Self {
        if let Some(failed) = failed {
            panic!("{}: {}\nwhat happened: {self}", self.job, expected(&self, failed));
        }
        self
    }
}

// `Debug` prints the report and not the fields. Otherwise a failed `unwrap_err` would print everything that the block wrote.
cofferdam_protocol::debug_as_display!(Outcome);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobResult { verdict, detail, failed_attempts, log, .. } = &self.result;
        write!(f, "{} ended as {verdict}: {}", self.job, meaning(*verdict))?;
        if !detail.is_empty() {
            write!(f, "\n  why: {detail}")?;
        }
        match verdict {
            Verdict::Guest(_) => self.write_usage(f)?,
            Verdict::Host(_) => write!(f, "\n  memory: unknown, limit {}", Bytes(self.memory_limit))?,
        }
        for (attempt, lost) in (1..).zip(failed_attempts) {
            write!(
                f,
                "\n  attempt {attempt} lost worker {}: {}: {}",
                lost.worker.pid, lost.verdict, lost.detail
            )?;
        }
        let (mut lines, total) = last_lines(log, LOG_LINES);
        if total > 0 {
            write!(f, "\n  log, the end of {}:", counted(total as u64, "line"))?;
        }
        lines.try_for_each(|line| write!(f, "\n    {}", cut(line, LINE_CHARS)))
    }
}

impl Outcome {
    fn write_usage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobResult { memory_bytes, fuel_used, exec, .. } = &self.result;
        write!(f, "\n  memory: {} of at most {}", Bytes(*memory_bytes), Bytes(self.memory_limit))?;
        if let (Some(used), Some(limit)) = (fuel_used, self.limits.fuel) {
            write!(f, "\n  fuel: {used} of at most {limit}")?;
        }
        write!(f, "\n  time: {exec:.1?} of at most {:?}", self.limits.deadline)?;
        if self.result.writes().count() > 0 {
            write!(f, "\n  wrote: {}", counted(self.result.writes().count(), "pair"))?;
        }
        Ok(())
    }
}
