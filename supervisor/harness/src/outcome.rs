//! What came of a block or a view, and assertions on it that fail in words.

use std::fmt;

use super::difference::{WritesDifference, collect};
use super::words::{Shown, counted, cut, last_lines, meaning};
use cofferdam_base::size::Bytes;
use cofferdam_pool::{JobResult, Limits};
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;

/// How many lines of a guest's log a report ends with.
const LOG_LINES: usize = 5;

/// How much of such a line is shown, in characters.
const LINE_CHARS: usize = 400;

/// What came of a block or a view. Displayed as a report of several lines.
///
/// The assertions panic at the caller's place, with that report, and give the outcome back so that they can be chained.
#[derive(Clone)]
pub struct Outcome {
    /// What was run, in words: "block 3 (80 bytes)".
    pub job: String,
    /// Everything that the pool says of it.
    pub result: JobResult,
    /// The chain's digest with this block; none for a view, and for a host verdict.
    pub digest: Option<Hash>,
    /// Whether the state has this block now.
    pub committed: bool,
    /// Bytes of memory that the guest could have had.
    pub(super) memory_limit: u64,
    /// What else it could have had.
    pub(super) limits: Limits,
}

impl Outcome {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        self.result.verdict
    }

    /// The value that the block flushed last for `key`, if it completed and flushed one.
    pub fn written(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let written = self.result.writes().iter().filter(|(found, _)| *found == key.as_ref());
        written.last().map(|(_, value)| value)
    }

    /// Asserts that it completed.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn assert_completed(self) -> Self {
        self.assert_verdict(Verdict::COMPLETED)
    }

    /// Asserts the verdict: a [`GuestVerdict`](cofferdam_protocol::verdict::GuestVerdict), a
    /// [`HostVerdict`](cofferdam_protocol::verdict::HostVerdict) or either.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn assert_verdict(self, expected: impl Into<Verdict>) -> Self {
        let expected = expected.into();
        let wrong = self.result.verdict != expected;
        self.fail_if(wrong.then_some(()), |_, ()| {
            format!("it was to end as {expected}: {}", meaning(expected))
        })
    }

    /// Asserts that the block completed and flushed exactly these pairs, in this order.
    ///
    /// # Panics
    /// If it did not, with the first pair that differs.
    #[track_caller]
    pub fn assert_writes(self, expected: &[(&[u8], &[u8])]) -> Self {
        let outcome = self.assert_completed();
        let difference = WritesDifference::between(expected, &collect(outcome.result.writes()));
        outcome.fail_if(difference, |_, difference| {
            format!("it was to write other pairs: {}", difference.told(["expected", "found"]))
        })
    }

    /// Asserts that the view completed and returned exactly these bytes.
    ///
    /// # Panics
    /// If it did not, with both.
    #[track_caller]
    pub fn assert_result(self, expected: impl AsRef<[u8]>) -> Self {
        let (outcome, expected) = (self.assert_completed(), expected.as_ref());
        let differs = outcome.result.view_result() != expected;
        outcome.fail_if(differs.then_some(()), |outcome, ()| {
            let found = Shown(outcome.result.view_result());
            format!("it was to return other bytes\n    expected: {}\n    found:    {found}", Shown(expected))
        })
    }

    /// Asserts that the guest's memory ended at no more than `bytes`. WebAssembly memory never shrinks, so that is the
    /// most that it had.
    ///
    /// # Panics
    /// If it had more; and after a host verdict, when nobody knows.
    #[track_caller]
    pub fn assert_high_water_at_most(self, bytes: u64) -> Self {
        let known = matches!(self.result.verdict, Verdict::Guest(_));
        let above = !known || self.result.memory_bytes > bytes;
        self.fail_if(above.then_some(()), |_, ()| {
            format!("its memory was to be at most {} ({bytes} bytes)", Bytes(bytes))
        })
    }

    /// Asserts that a line of the guest's log contains `text`.
    ///
    /// # Panics
    /// If none does.
    #[track_caller]
    pub fn assert_logged(self, text: &str) -> Self {
        let logged = self.result.log.lines().any(|line| line.contains(text));
        self.fail_if((!logged).then_some(()), |_, ()| format!("it was to log {text:?}"))
    }

    /// Panics if something failed, with what was expected and what happened.
    #[track_caller]
    fn fail_if<T>(self, failed: Option<T>, expected: impl FnOnce(&Self, T) -> String) -> Self {
        if let Some(failed) = failed {
            panic!("{}: {}\nwhat happened: {self}", self.job, expected(&self, failed));
        }
        self
    }
}

// The report, and not the fields: a failed `unwrap_err` would print all that the block wrote.
cofferdam_protocol::debug_as_display!(Outcome);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobResult { verdict, detail, failed_attempts, log, .. } = &self.result;
        write!(f, "{} ended as {verdict}: {}", self.job, meaning(*verdict))?;
        if !detail.is_empty() {
            write!(f, "\n  why: {detail}")?;
        }
        match verdict {
            Verdict::Guest(_) => self.tell_use(f)?,
            Verdict::Host(_) => write!(f, "\n  memory: not known, of at most {}", Bytes(self.memory_limit))?,
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
    fn tell_use(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
