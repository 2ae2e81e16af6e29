//! The first difference between two results, and how it is told.

use std::fmt;

use super::words::{SHOWN_BYTES, Shown, counted, meaning};
use super::{Outcome, RunSettings};
use cofferdam_base::size::Bytes;
use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::verdict::Verdict;
use cofferdam_protocol::writes::Writes;

/// The first pair in which two lists of pairs differ. Of two sides, the first is what was expected, or the earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WritesDifference {
    /// Both write the key there, with different values.
    Value {
        /// The key.
        key: Vec<u8>,
        /// Both values.
        values: [Vec<u8>; 2],
    },
    /// They write different keys there.
    Key {
        /// Which pair, counted from 1.
        pair: usize,
        /// Both keys.
        keys: [Vec<u8>; 2],
    },
    /// Up to the end of the shorter side they are equal; the other one goes on.
    Longer {
        /// Which side goes on: 0 or 1.
        side: usize,
        /// The key that it goes on with.
        key: Vec<u8>,
        /// How many pairs both sides have.
        pairs: [usize; 2],
    },
}

impl WritesDifference {
    /// The first difference between two lists of pairs in flush order, if there is one.
    pub(super) fn between(left: &[(&[u8], &[u8])], right: &[(&[u8], &[u8])]) -> Option<Self> {
        let at = left.iter().zip(right).position(|(left, right)| left != right);
        let Some(at) = at else { return Self::in_length(left, right) };
        let [(left_key, left_value), (right_key, right_value)] = [left[at], right[at]];
        Some(if left_key == right_key {
            Self::Value { key: left_key.to_vec(), values: [left_value.to_vec(), right_value.to_vec()] }
        } else {
            Self::Key { pair: at + 1, keys: [left_key.to_vec(), right_key.to_vec()] }
        })
    }

    fn in_length(left: &[(&[u8], &[u8])], right: &[(&[u8], &[u8])]) -> Option<Self> {
        let side = usize::from(right.len() > left.len());
        let (longer, shorter) = if side == 1 { (right, left) } else { (left, right) };
        let (key, _) = longer.get(shorter.len())?;
        Some(Self::Longer { side, key: key.to_vec(), pairs: [left.len(), right.len()] })
    }

    /// The key at which they differ: that of the first side where both have one.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Value { key, .. } | Self::Longer { key, .. } => key,
            Self::Key { keys: [key, _], .. } => key,
        }
    }

    /// What differs, with the sides called by their names.
    pub(super) fn told(&self, names: [&str; 2]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.tell(&mut text, names);
        text
    }

    fn tell(&self, f: &mut impl fmt::Write, names: [&str; 2]) -> fmt::Result {
        match self {
            Self::Value { key, values: [left, right] } => {
                write!(f, "the value of key {} differs", Shown(key))?;
                // Of long values, what is shown begins where they part.
                let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
                let from = if left.len().max(right.len()) > SHOWN_BYTES { equal } else { 0 };
                if from > 0 {
                    write!(f, " from byte {from} on")?;
                }
                let [left, right] = [left, right].map(|value| &value[from..]);
                tell_sides(f, names, [&Shown(left), &Shown(right)])
            }
            Self::Key { pair, keys: [left, right] } => {
                write!(f, "pair {pair} has different keys")?;
                tell_sides(f, names, [&Shown(left), &Shown(right)])
            }
            Self::Longer { side, key, pairs: [left, right] } => {
                write!(f, "one side writes more pairs: {} goes on with key {}", names[*side], Shown(key))?;
                let [left, right] = [left, right].map(|pairs| counted(*pairs as u64, "pair"));
                tell_sides(f, names, [&left, &right])
            }
        }
    }
}

fn tell_sides(f: &mut impl fmt::Write, names: [&str; 2], sides: [&dyn fmt::Display; 2]) -> fmt::Result {
    let width = names[0].len().max(names[1].len()) + 1;
    for (name, side) in names.iter().zip(sides) {
        write!(f, "\n    {:<width$} {side}", format!("{name}:"))?;
    }
    Ok(())
}

/// What differs first between two runs of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The verdicts, each with its detail.
    Verdict([(Verdict, String); 2]),
    /// The pairs that were written.
    Writes(WritesDifference),
    /// Bytes of the guest's memory at the end.
    Memory([u64; 2]),
    /// Fuel used.
    Fuel([Option<u64>; 2]),
}

impl What {
    /// What differs first between two outcomes of one block. Digests follow from verdicts and writes; memory and fuel
    /// are not in them, and still show a module that goes different ways.
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

    fn tell(&self, f: &mut impl fmt::Write, names: [&str; 2]) -> fmt::Result {
        match self {
            Self::Verdict(verdicts) => {
                f.write_str("the verdicts differ")?;
                let told = [&verdicts[0], &verdicts[1]].map(|(verdict, detail)| {
                    let separator = if detail.is_empty() { "" } else { ": " };
                    format!("{verdict}, {}{separator}{detail}", meaning(*verdict))
                });
                tell_sides(f, names, [&told[0], &told[1]])
            }
            Self::Writes(difference) => difference.tell(f, names),
            Self::Memory([left, right]) => {
                f.write_str("the guest's memory ends with different sizes")?;
                tell_sides(f, names, [&Bytes(*left), &Bytes(*right)])
            }
            Self::Fuel(fuel) => {
                f.write_str("the fuel used differs")?;
                let told = fuel.map(|fuel| fuel.map_or("not metered".to_owned(), |fuel| fuel.to_string()));
                tell_sides(f, names, [&told[0], &told[1]])
            }
        }
    }
}

/// The pairs of `writes` in flush order.
pub(super) fn collect(writes: &Writes) -> Vec<(&[u8], &[u8])> {
    writes.iter().collect()
}

/// One of the runs that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which run, counted from 1.
    pub number: usize,
    /// How its pool was set up.
    pub settings: RunSettings,
    /// Its digest with the block in question.
    pub digest: Option<Hash>,
}

/// Where two runs of the same blocks part for the first time.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// The block in words: "block 3 (80 bytes)". Its height is its place in the list of blocks.
    pub job: String,
    /// The two runs.
    pub runs: [Run; 2],
    /// What differs.
    pub what: What,
}

impl std::error::Error for Difference {}

cofferdam_protocol::debug_as_display!(Difference);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [left, right] = &self.runs;
        let names = [left, right].map(|run| format!("run {}", run.number));
        let names = [names[0].as_str(), names[1].as_str()];
        write!(f, "the module is not deterministic: {} and {} part at {}", names[0], names[1], self.job)?;
        f.write_str("\n  what differs first: ")?;
        self.what.tell(f, names)?;
        f.write_str("\n  the digests with this block")?;
        let digest = |run: &Run| run.digest.map_or("none".to_owned(), |digest| digest.to_string());
        tell_sides(f, names, [&digest(left), &digest(right)])?;
        f.write_str("\n  the pools, whose settings must make no difference")?;
        tell_sides(f, names, [&left.settings, &right.settings])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(left: &[(&[u8], &[u8])], right: &[(&[u8], &[u8])]) -> Option<String> {
        Some(WritesDifference::between(left, right)?.told(["expected", "found"]))
    }

    #[test]
    fn equal_pairs_do_not_differ() {
        assert_eq!(told(&[], &[]), None);
        assert_eq!(told(&[(b"a", b"1")], &[(b"a", b"1")]), None);
    }

    #[test]
    fn the_first_value_that_differs_is_told_by_its_key() {
        let text =
            told(&[(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], &[(b"a", b"1"), (b"b", b"\0"), (b"c", b"4")]);
        let expected = "the value of key \"b\" differs\n    expected: \"2\"\n    found:    0x00";
        assert_eq!(text.as_deref(), Some(expected));
    }

    #[test]
    fn long_values_are_shown_from_where_they_part() {
        let (mut left, right) = (vec![b'x'; 100], vec![b'x'; 101]);
        let text = told(&[(b"a", &left)], &[(b"a", &right)]).unwrap();
        assert!(text.ends_with("from byte 100 on\n    expected: \"\"\n    found:    \"x\""), "{text}");
        left[60] = b'y';
        let text = told(&[(b"a", &left)], &[(b"a", &right)]).unwrap();
        assert!(text.contains("from byte 60 on\n    expected: \"yxx"), "{text}");
    }

    #[test]
    fn other_keys_and_other_numbers_of_pairs_are_told() {
        let text = told(&[(b"a", b"1"), (b"b", b"2")], &[(b"a", b"1"), (b"c", b"2")]).unwrap();
        assert_eq!(text, "pair 2 has different keys\n    expected: \"b\"\n    found:    \"c\"");
        let text = told(&[(b"a", b"1")], &[]).unwrap();
        assert!(text.starts_with("one side writes more pairs: expected goes on with key \"a\""), "{text}");
        let text = told(&[], &[(b"a", b"1")]).unwrap();
        assert!(
            text.contains("found goes on with key \"a\"\n    expected: 0 pairs\n    found:    1 pair"),
            "{text}"
        );
    }
}
