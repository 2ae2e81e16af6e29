//! The first difference between two runs of the same blocks, and its description.

use std::fmt;

use cofferdam_base::size::Bytes;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;

use super::outcome::Outcome;
use super::settings::RunSettings;
use super::words::meaning;
use super::writes_difference::{WritesDifference, collect, write_sides};

/// What differs first between two runs of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// The verdicts, each with its detail.
    Verdict([(Verdict, String); 2]),
    /// The pairs that were written.
    Writes(WritesDifference),
    /// The bytes of guest memory at the end of the block.
    Memory([u64; 2]),
    /// The fuel that was used.
    Fuel([Option<u64>; 2]),
}

impl Aspect {
    /// Finds what differs first between two outcomes of one block.
    ///
    /// Digests are not compared, because they follow from verdicts and writes. Memory and fuel are not part of a digest. They are
    /// compared, because they show that a module takes different paths.
    pub(super) fn between(left: &Outcome, right: &Outcome) -> Option<Self> {
        let (left, right) = (&left.result, &right.result);
        if left.verdict != right.verdict {
            return Some(Self::Verdict([left, right].map(|result| (result.verdict, result.detail.clone()))));
        }
        if left.writes() != right.writes() {
            return WritesDifference::between(&collect(left.writes()), &collect(right.writes()))
                .map(Self::Writes);
        }
        if left.memory_bytes != right.memory_bytes {
            return Some(Self::Memory([left.memory_bytes, right.memory_bytes]));
        }
        (left.fuel_used != right.fuel_used).then_some(Self::Fuel([left.fuel_used, right.fuel_used]))
    }

    fn write_to(&self, f: &mut impl fmt::Write, names: [&str; 2]) -> fmt::Result {
        match self {
            Self::Verdict(verdicts) => {
                f.write_str("the verdicts differ")?;
                let described = [&verdicts[0], &verdicts[1]].map(|(verdict, detail)| {
                    let separator = if detail.is_empty() { "" } else { ": " };
                    format!("{verdict}, {}{separator}{detail}", meaning(*verdict))
                });
                write_sides(f, names, [&described[0], &described[1]])
            }
            Self::Writes(difference) => difference.write_to(f, names),
            Self::Memory([left, right]) => {
                f.write_str("the sizes of the guest's memory differ at the end of the block")?;
                write_sides(f, names, [&Bytes(*left), &Bytes(*right)])
            }
            Self::Fuel(fuel) => {
                f.write_str("the amounts of used fuel differ")?;
                let described =
                    fuel.map(|fuel| fuel.map_or("not metered".to_owned(), |fuel| fuel.to_string()));
                write_sides(f, names, [&described[0], &described[1]])
            }
        }
    }
}

/// One of two runs that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The number of the run, counted from 1.
    pub number: usize,
    /// The settings of its pool.
    pub settings: RunSettings,
    /// The digest of the run with the block that differs.
    pub digest: Option<Hash>,
}

/// The first difference between two runs of the same blocks.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// The block in words: "block 3 (80 bytes)". The height of a block is its place in the list of blocks.
    pub job: String,
    /// The two runs.
    pub runs: [Run; 2],
    /// What differs.
    pub what: Aspect,
}

impl std::error::Error for Difference {}

cofferdam_protocol::debug_as_display!(Difference);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [left, right] = &self.runs;
        let names = [left, right].map(|run| format!("run {}", run.number));
        let names = [names[0].as_str(), names[1].as_str()];
        write!(f, "the module is not deterministic: {} and {} differ at {}", names[0], names[1], self.job)?;
        f.write_str("\n  the first difference: ")?;
        self.what.write_to(f, names)?;
        f.write_str("\n  the digests with this block")?;
        let digest = |run: &Run| run.digest.map_or("none".to_owned(), |digest| digest.to_string());
        write_sides(f, names, [&digest(left), &digest(right)])?;
        f.write_str("\n  the settings of the pools, which must not matter")?;
        write_sides(f, names, [&left.settings, &right.settings])
    }
}
