//! Runs the same blocks several times, on pools whose settings differ, and compares the results. The settings must not change the
//! results.

use std::fmt;

use super::difference::{Aspect, Difference, Run};
use super::session::expect;
use super::settings::roomy;
use super::words::counted;
use super::{Harness, HarnessError, OnGuestFailure, Outcome, RunSettings, Session};
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;

/// The result that all runs have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The number of runs.
    pub runs: usize,
    /// The verdict on each block.
    pub verdicts: Vec<Verdict>,
    /// The digest after the last block.
    pub digest: Hash,
    /// The largest memory that the guest had at the end of a block, in bytes.
    pub high_water: u64,
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = counted(self.verdicts.len() as u64, "block");
        write!(f, "{} runs agree on {blocks}: digest {}", self.runs, self.digest)
    }
}

/// A function that is called with the outcome of each block of a run.
type Listener<'a> = dyn FnMut(Outcome) -> Result<(), HarnessError> + 'a;

impl Harness {
    /// Runs `blocks` from height 0, `runs` times, each time on a fresh pool and an empty state. Compares verdicts, writes,
    /// memory, fuel and digests.
    ///
    /// The pools of the runs differ: in the commit of memory, in its reset, and in the size of its pages. With up to 256 MiB of
    /// memory and without a limited host, they differ in the number of workers, too. A block with a guest verdict is committed
    /// without writes, whatever [`Harness::on_guest_failure`] says, so that all blocks are compared.
    ///
    /// # Errors
    /// [`HarnessError::NotDeterministic`] with the first difference; [`HarnessError::Lost`] if a block had a host verdict;
    /// [`HarnessError::NothingToCompare`] for fewer than two runs, or for no block; and the errors of [`Harness::start`] and
    /// [`Session::try_block_at`].
    pub fn compare_runs<B: AsRef<[u8]>>(&self, runs: usize, blocks: &[B]) -> Result<Agreement, HarnessError> {
        if runs < 2 || blocks.is_empty() {
            return Err(HarnessError::NothingToCompare { runs, blocks: blocks.len() });
        }
        let mut first = Vec::new();
        let session = self.run(1, blocks, &mut |outcome| {
            first.push(outcome);
            Ok(())
        })?;
        let (digest, high_water) = (session.digest(), session.high_water());
        // The memory of this pool is freed for the next one.
        drop(session);
        for number in 2..=runs {
            let mut before = first.iter();
            self.run(number, blocks, &mut |outcome| {
                before.next().map_or(Ok(()), |before| self.compare(number, before, &outcome))
            })?;
        }
        let verdicts = first.iter().map(Outcome::verdict).collect();
        Ok(Agreement { runs, verdicts, digest, high_water })
    }

    /// Asserts that [`Harness::compare_runs`] finds no difference.
    ///
    /// # Panics
    /// If there is a difference, with a description of the first one. If a run fails.
    #[track_caller]
    pub fn assert_deterministic<B: AsRef<[u8]>>(&self, runs: usize, blocks: &[B]) -> Agreement {
        expect(self.compare_runs(runs, blocks))
    }

    /// Runs all blocks, as run `number`, counted from 1.
    fn run<B: AsRef<[u8]>>(
        &self,
        number: usize,
        blocks: &[B],
        listener: &mut Listener<'_>,
    ) -> Result<Session, HarnessError> {
        let harness = self.clone().on_guest_failure(OnGuestFailure::Skip);
        let mut session = Session::start(&harness, self.settings_of(number))?;
        for (height, block) in (0..).zip(blocks) {
            let outcome = session.try_block_at(height, block.as_ref())?;
            if matches!(outcome.verdict(), Verdict::Host(_)) {
                return Err(HarnessError::Lost { run: number, outcome: Box::new(outcome) });
            }
            listener(outcome)?;
        }
        Ok(session)
    }

    /// Compares the outcomes of one block in the first run and in run `number`.
    fn compare(&self, number: usize, first: &Outcome, other: &Outcome) -> Result<(), HarnessError> {
        let Some(what) = Aspect::between(first, other) else { return Ok(()) };
        let run = |number, outcome: &Outcome| Run {
            number,
            settings: self.settings_of(number),
            digest: outcome.digest,
        };
        let runs = [run(1, first), run(number, other)];
        let difference = Difference { job: first.job.clone(), runs, what };
        Err(HarnessError::NotDeterministic(Box::new(difference)))
    }

    fn settings_of(&self, number: usize) -> RunSettings {
        RunSettings::of_run(number - 1, self.host_bytes.is_none() && roomy(self.memory_bytes))
    }
}
