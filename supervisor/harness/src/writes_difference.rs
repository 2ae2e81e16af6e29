//! The first difference between two lists of written pairs, and its description.

use std::fmt;

use cofferdam_protocol::writes::Writes;

use super::words::{SHOWN_BYTES, Shown, counted};

/// The first difference between two lists of pairs. The first side is what was expected, or the earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WritesDifference {
    /// Both sides write the same key at this place, with different values.
    Value {
        /// The key.
        key: Vec<u8>,
        /// Both values.
        values: [Vec<u8>; 2],
    },
    /// The sides write different keys at this place.
    Key {
        /// The number of the pair, counted from 1.
        pair: usize,
        /// Both keys.
        keys: [Vec<u8>; 2],
    },
    /// The shorter side is the start of the longer side.
    Longer {
        /// The longer side: 0 or 1.
        side: usize,
        /// The first key that only the longer side writes.
        key: Vec<u8>,
        /// The number of pairs of both sides.
        pairs: [usize; 2],
    },
}

impl WritesDifference {
    /// Finds the first difference between two lists of pairs in flush order. `None` if the lists are equal.
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

    /// The key of the difference. If both sides have a key and the keys differ: the key of the first side.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Value { key, .. } | Self::Longer { key, .. } => key,
            Self::Key { keys: [key, _], .. } => key,
        }
    }

    /// Describes the difference. `names` are the names of the two sides.
    pub(super) fn describe(&self, names: [&str; 2]) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_to(&mut text, names);
        text
    }

    /// Writes the description to `f`.
    pub(super) fn write_to(&self, f: &mut impl fmt::Write, names: [&str; 2]) -> fmt::Result {
        match self {
            Self::Value { key, values: [left, right] } => {
                write!(f, "the values of key {} differ", Shown(key))?;
                // Only the start of a long value is shown, so long values are shown from the first byte that differs.
                let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
                let from = if left.len().max(right.len()) > SHOWN_BYTES { equal } else { 0 };
                if from > 0 {
                    write!(f, " from byte {from} on")?;
                }
                let [left, right] = [left, right].map(|value| &value[from..]);
                write_sides(f, names, [&Shown(left), &Shown(right)])
            }
            Self::Key { pair, keys: [left, right] } => {
                write!(f, "pair {pair} has different keys")?;
                write_sides(f, names, [&Shown(left), &Shown(right)])
            }
            Self::Longer { side, key, pairs: [left, right] } => {
                write!(f, "one side writes more pairs: {} continues with key {}", names[*side], Shown(key))?;
                let [left, right] = [left, right].map(|pairs| counted(*pairs as u64, "pair"));
                write_sides(f, names, [&left, &right])
            }
        }
    }
}

/// Writes one line for each side, with its name.
pub(super) fn write_sides(
    f: &mut impl fmt::Write,
    names: [&str; 2],
    sides: [&dyn fmt::Display; 2],
) -> fmt::Result {
    let width = names[0].len().max(names[1].len()) + 1;
    for (name, side) in names.iter().zip(sides) {
        write!(f, "\n    {:<width$} {side}", format!("{name}:"))?;
    }
    Ok(())
}

/// The pairs of `writes` in flush order.
pub(super) fn collect(writes: &Writes) -> Vec<(&[u8], &[u8])> {
    writes.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(left: &[(&[u8], &[u8])], right: &[(&[u8], &[u8])]) -> Option<String> {
        Some(WritesDifference::between(left, right)?.describe(["expected", "found"]))
    }

    #[test]
    fn equal_pairs_do_not_differ() {
        assert_eq!(described(&[], &[]), None);
        assert_eq!(described(&[(b"a", b"1")], &[(b"a", b"1")]), None);
    }

    #[test]
    fn a_different_value_is_described_by_its_key() {
        let text = described(
            &[(b"a", b"1"), (b"b", b"2"), (b"c", b"3")],
            &[(b"a", b"1"), (b"b", b"\0"), (b"c", b"4")],
        );
        let expected = "the values of key \"b\" differ\n    expected: \"2\"\n    found:    0x00";
        assert_eq!(text.as_deref(), Some(expected));
    }

    #[test]
    fn long_values_are_shown_from_the_first_byte_that_differs() {
        let (mut left, right) = (vec![b'x'; 100], vec![b'x'; 101]);
        let text = described(&[(b"a", &left)], &[(b"a", &right)]).unwrap();
        assert!(text.ends_with("from byte 100 on\n    expected: \"\"\n    found:    \"x\""), "{text}");
        left[60] = b'y';
        let text = described(&[(b"a", &left)], &[(b"a", &right)]).unwrap();
        assert!(text.contains("from byte 60 on\n    expected: \"yxx"), "{text}");
    }

    #[test]
    fn different_keys_and_numbers_of_pairs_are_described() {
        let text = described(&[(b"a", b"1"), (b"b", b"2")], &[(b"a", b"1"), (b"c", b"2")]).unwrap();
        assert_eq!(text, "pair 2 has different keys\n    expected: \"b\"\n    found:    \"c\"");
        let text = described(&[(b"a", b"1")], &[]).unwrap();
        assert!(text.starts_with("one side writes more pairs: expected continues with key \"a\""), "{text}");
        let text = described(&[], &[(b"a", b"1")]).unwrap();
        assert!(
            text.contains("found continues with key \"a\"\n    expected: 0 pairs\n    found:    1 pair"),
            "{text}"
        );
    }
}
