//! Runs two modules over the same blocks, and finds the first block and key in which their results differ.
//!
//! Two results are equal if the verdicts are equal, and if for each key the last value that the block wrote is equal. Only the
//! last values become part of the state. The order of writes, fuel, memory and the message of a trap depend on the code of a
//! module, which is expected to differ.

use std::cmp::Ordering;
use std::io;
use std::thread;

use cofferdam_protocol::verdict::{HostVerdict, Verdict};
use cofferdam_protocol::writes::Writes;
use thiserror::Error;

use cofferdam_chain::{ChainError, Hashed, Outcome, Pipeline};
use cofferdam_pool::{JobResult, Runner};
use cofferdam_store::last_write_per_key;

/// The names of the two sides in messages: the module that is compared, and the module that it is compared with.
pub const NAMES: [&str; 2] = ["A", "B"];

/// A key for which the two sides wrote different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDifference {
    /// The key.
    pub key: Vec<u8>,
    /// The last value that each side wrote; none if the side did not write the key. At least one side wrote it.
    pub values: [Option<Vec<u8>>; 2],
}

/// The number of keys that two sides wrote in a block, and how many of these keys differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// The number of keys that each side wrote.
    pub written: [u64; 2],
    /// The number of keys that only this side wrote.
    pub alone: [u64; 2],
    /// The number of keys that both sides wrote, with different values.
    pub values: u64,
}

impl KeyCounts {
    /// The number of keys that differ.
    pub fn differing(&self) -> u64 {
        self.alone[0] + self.alone[1] + self.values
    }
}

/// How the results of two sides differ in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The verdicts differ. Each verdict comes with its detail.
    Verdict([(Verdict, String); 2]),
    /// The writes differ.
    Writes {
        /// The first key that differs, in the order of bytes.
        first: KeyDifference,
        /// How many keys differ.
        counts: KeyCounts,
    },
}

/// The results of two sides in one block.
#[derive(Debug)]
pub struct Compared {
    /// The outcome of the block on each side.
    pub outcomes: [Box<Outcome>; 2],
    /// How the results differ; none if they are equal.
    pub difference: Option<Difference>,
    /// The number of keys that were compared: the keys with the prefix that at least one side wrote.
    pub keys: u64,
}

/// Why a block could not be compared.
#[derive(Error)]
pub enum DiffError {
    /// The chain of one side cannot go on.
    #[error("{}: {source}", NAMES[*side])]
    Chain {
        /// The side: 0 or 1.
        side: usize,
        /// Why it cannot go on.
        source: ChainError,
    },
    /// Every attempt at a block ended with a host verdict. This says nothing about the module.
    #[error(
        "{}: block {height} could not be run: {verdict}: {detail}. The modules were compared up to the block before it",
        NAMES[*side]
    )]
    Lost {
        /// The side: 0 or 1.
        side: usize,
        /// The height of the block.
        height: u32,
        /// What happened to the worker.
        verdict: HostVerdict,
        /// More about what happened.
        detail: String,
    },
    /// The second side's thread could not be started.
    #[error("the thread of the second module could not be started: {0}")]
    Thread(#[source] io::Error),
    /// The second side's thread panicked.
    #[error("internal error: the thread of the second module has panicked")]
    Panicked,
}

cofferdam_protocol::debug_as_display!(DiffError);

/// Two chains that run the same blocks.
#[derive(Debug)]
pub struct Comparison<R> {
    chains: [Pipeline<R>; 2],
    prefix: Vec<u8>,
}

impl<R: Runner + Send> Comparison<R> {
    /// Compares two chains by the keys that begin with `prefix`. The chains must be at the same height.
    ///
    /// The chains should commit blocks that fail ([`OnGuestFailure::Skip`](cofferdam_chain::OnGuestFailure::Skip)). A block that
    /// fails with the same verdict on both sides is then no difference, and the blocks after it are compared, too.
    pub fn new(chains: [Pipeline<R>; 2], prefix: Vec<u8>) -> Self {
        Self { chains, prefix }
    }

    /// Runs `block` on both sides at the same time, and compares the results.
    ///
    /// # Errors
    /// [`DiffError`]. The sides may then be at different heights, and must not be used further.
    pub fn compare(&mut self, block: Hashed) -> Result<Compared, DiffError> {
        let height = block.block.height;
        let [first, second] = &mut self.chains;
        let copy = block.clone();
        let results = thread::scope(|scope| {
            let thread = thread::Builder::new().name("cofferdam-diff".to_owned());
            let beside =
                thread.spawn_scoped(scope, || second.push_and_wait(copy)).map_err(DiffError::Thread)?;
            let here = first.push_and_wait(block);
            Ok([here, beside.join().map_err(|_| DiffError::Panicked)?])
        });
        let [first, second]: [Result<_, ChainError>; 2] = results?;
        let outcomes = [guest_outcome(0, height, first)?, guest_outcome(1, height, second)?];
        let (difference, keys) = between([&outcomes[0].result, &outcomes[1].result], &self.prefix);
        Ok(Compared { outcomes, difference, keys })
    }
}

/// The outcome of one side, if it has a guest verdict.
fn guest_outcome(
    side: usize,
    height: u32,
    pushed: Result<Box<Outcome>, ChainError>,
) -> Result<Box<Outcome>, DiffError> {
    let outcome = pushed.map_err(|source| DiffError::Chain { side, source })?;
    match outcome.result.verdict {
        Verdict::Guest(_) => Ok(outcome),
        Verdict::Host(verdict) => {
            Err(DiffError::Lost { side, height, verdict, detail: outcome.result.detail })
        }
    }
}

/// The difference between two results of one block, and the number of keys that were compared.
fn between(results: [&JobResult; 2], prefix: &[u8]) -> (Option<Difference>, u64) {
    let [first, second] = results;
    if first.verdict != second.verdict {
        let verdicts = results.map(|result| (result.verdict, result.detail.clone()));
        return (Some(Difference::Verdict(verdicts)), 0);
    }
    let (difference, counts) = compare_writes([first.writes(), second.writes()], prefix);
    let keys = counts.written[0] + counts.alone[1];
    (difference.map(|first| Difference::Writes { first, counts }), keys)
}

/// Compares the writes of both sides, key by key in the order of keys, as a merge does.
fn compare_writes(writes: [&Writes; 2], prefix: &[u8]) -> (Option<KeyDifference>, KeyCounts) {
    let sorted = writes.map(|writes| {
        let mut pairs = last_write_per_key(writes);
        pairs.retain(|(key, _)| key.starts_with(prefix));
        pairs
    });
    let mut counts = KeyCounts {
        written: [&sorted[0], &sorted[1]].map(|pairs| pairs.len() as u64),
        ..KeyCounts::default()
    };
    let mut first = None;
    let [mut left, mut right] = [&sorted[0], &sorted[1]].map(|pairs| pairs.iter().copied().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return (first, counts),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        let pairs = [left.next_if(|_| order.is_le()), right.next_if(|_| order.is_ge())];
        let [mine, theirs] = pairs.map(|pair| pair.map(|(_, value)| value));
        match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine == theirs => continue,
            (Some(_), Some(_)) => counts.values += 1,
            (mine, _) => counts.alone[usize::from(mine.is_none())] += 1,
        }
        let key = pairs.into_iter().flatten().next().map(|(key, _)| key);
        first = first.or_else(|| {
            let values = [mine, theirs].map(|value| value.map(<[u8]>::to_vec));
            key.map(|key| KeyDifference { key: key.to_vec(), values })
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cofferdam_protocol::writes::{encoded_field_len, put_field};
    use proptest::prelude::*;

    use super::*;

    type Pair<'a> = (&'a [u8], &'a [u8]);

    fn writes(pairs: &[Pair<'_>]) -> Writes {
        let fields = || pairs.iter().flat_map(|(key, value)| [*key, *value]);
        let mut bytes = vec![0; usize::try_from(fields().map(encoded_field_len).sum::<u64>()).unwrap()];
        let mut rest = bytes.as_mut_slice();
        for field in fields() {
            rest = put_field(rest, field).unwrap();
        }
        Writes::parse(bytes).unwrap()
    }

    fn compared(left: &[Pair<'_>], right: &[Pair<'_>], prefix: &[u8]) -> (Option<KeyDifference>, KeyCounts) {
        compare_writes([&writes(left), &writes(right)], prefix)
    }

    fn difference(key: &[u8], values: [Option<&[u8]>; 2]) -> Option<KeyDifference> {
        Some(KeyDifference { key: key.to_vec(), values: values.map(|value| value.map(<[u8]>::to_vec)) })
    }

    #[test]
    fn order_and_repetition_do_not_count_and_last_values_do() {
        let left: [Pair<'_>; 3] = [(b"b", b"old"), (b"a", b"1"), (b"b", b"2")];
        let (found, counts) = compared(&left, &[(b"b", b"2"), (b"a", b"1")], b"");
        assert_eq!((found, counts.differing(), counts.written), (None, 0, [2, 2]));
        let (found, _) = compared(&left, &[(b"a", b"1"), (b"b", b"2"), (b"b", b"old")], b"");
        assert_eq!(found, difference(b"b", [Some(b"2"), Some(b"old")]));
    }

    #[test]
    fn the_least_key_is_told_and_every_one_is_counted() {
        let left: [Pair<'_>; 4] = [(b"z", b"1"), (b"m", b"1"), (b"d", b"1"), (b"k", b"")];
        let right: [Pair<'_>; 3] = [(b"m", b"2"), (b"c", b"1"), (b"k", b"")];
        let (found, counts) = compared(&left, &right, b"");
        assert_eq!(found, difference(b"c", [None, Some(b"1")]));
        assert_eq!(counts, KeyCounts { written: [4, 3], alone: [2, 1], values: 1 });
        assert_eq!(counts.differing(), 4);
        // An empty value is not the same as no value.
        let (found, _) = compared(&[(b"k", b"")], &[], b"");
        assert_eq!(found, difference(b"k", [Some(b""), None]));
    }

    #[test]
    fn only_keys_with_the_prefix_count() {
        let left: [Pair<'_>; 3] = [(b"/a/1", b"x"), (b"/b/1", b"x"), (b"/b", b"x")];
        let right: [Pair<'_>; 2] = [(b"/a/1", b"y"), (b"/b/1", b"x")];
        let (found, counts) = compared(&left, &right, b"/b/");
        assert_eq!((found, counts.written), (None, [1, 1]));
        assert_eq!(compared(&left, &right, b"/").1.differing(), 2);
    }

    proptest! {
        #[test]
        fn it_is_what_two_maps_say(
            left in prop::collection::vec((prop::collection::vec(0u8..3, 0..3), 0u8..2), 0..12),
            right in prop::collection::vec((prop::collection::vec(0u8..3, 0..3), 0u8..2), 0..12),
            prefix in prop::collection::vec(0u8..3, 0..2),
        ) {
            let sides = [left, right];
            let values = [[0u8], [1u8]];
            let pairs = sides.each_ref().map(|side| {
                side.iter().map(|(key, value)| (key.as_slice(), values[usize::from(*value)].as_slice())).collect::<Vec<_>>()
            });
            let maps = pairs.each_ref().map(|pairs| {
                pairs.iter().copied().filter(|(key, _)| key.starts_with(&prefix)).collect::<BTreeMap<_, _>>()
            });
            let keys: std::collections::BTreeSet<_> = maps.iter().flat_map(BTreeMap::keys).copied().collect();
            let differing: Vec<_> = keys.iter().filter(|key| maps[0].get(*key) != maps[1].get(*key)).collect();
            let (found, counts) = compared(&pairs[0], &pairs[1], &prefix);
            prop_assert_eq!(counts.differing(), differing.len() as u64);
            prop_assert_eq!(counts.written[0] + counts.alone[1], keys.len() as u64);
            let expected = differing.first().and_then(|key| difference(key, [maps[0].get(**key).copied(), maps[1].get(**key).copied()]));
            prop_assert_eq!(found, expected);
        }
    }
}
