//! The result of `cofferdam diff`, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use cofferdam_protocol::exit::CommandExit;
use cofferdam_protocol::profile::{Hash, Profile};
use serde::Serialize;

use cofferdam_chain::Outcome;
use cofferdam_node::agreement::diff::{Difference, KeyCounts, NAMES};

/// The number of bytes of a key or a value that the text shows.
const SHOWN: usize = 64;
/// The number of bytes of a key or a value that the JSON shows. A value may have more than a hundred million bytes.
const IN_JSON: usize = 4096;

/// The comparison of two modules over the same blocks. `indexer` is module A, and `compare` is module B.
#[derive(Debug, Serialize)]
pub(super) struct DiffReport {
    indexer: Module,
    compare: Module,
    prefix: String,
    /// The number of blocks whose results are equal.
    blocks: u64,
    first_height: Option<u32>,
    last_height: Option<u32>,
    /// The number of keys that were compared in these blocks.
    keys: u64,
    verdicts: BTreeMap<&'static str, u64>,
    pub(super) difference: Option<Found>,
    pub(super) interrupted: bool,
    /// The error that ended the comparison before the last block.
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
}

#[derive(Debug, Serialize)]
struct Module {
    file: String,
    sha256: String,
    profile: String,
}

/// The first block whose results differ.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    height: u32,
    block: String,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum What {
    Verdict { indexer: Ended, compare: Ended },
    Writes { key: Box<Shown>, indexer: Option<Box<Shown>>, compare: Option<Box<Shown>>, keys: Keys },
}

#[derive(Debug, Serialize)]
struct Ended {
    verdict: &'static str,
    detail: String,
}

/// The number of keys that differ in the block.
#[derive(Clone, Copy, Debug, Serialize)]
struct Keys {
    differing: u64,
    values: u64,
    only_indexer: u64,
    only_compare: u64,
    written_indexer: u64,
    written_compare: u64,
}

/// A key or a value.
#[derive(Debug, Serialize)]
struct Shown {
    bytes: usize,
    sha256: String,
    /// The first bytes.
    hex: String,
    /// All bytes as text, if they are few and printable.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The part that the text shows: the first bytes, or in a long value the bytes around the first difference.
    #[serde(skip)]
    for_people: String,
}

impl Shown {
    /// `from` is the first byte that the text shows.
    fn new(bytes: &[u8], from: usize) -> Self {
        let readable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let text = (!bytes.is_empty() && bytes.len() <= IN_JSON && bytes.iter().all(readable))
            .then(|| String::from_utf8_lossy(bytes).into_owned());
        let begin = &bytes[..bytes.len().min(IN_JSON)];
        let for_people = for_people(bytes, from.min(bytes.len()), text.as_deref());
        Self {
            bytes: bytes.len(),
            sha256: Hash::of(bytes).to_string(),
            hex: hex::encode(begin),
            text,
            for_people,
        }
    }
}

fn for_people(bytes: &[u8], from: usize, text: Option<&str>) -> String {
    let rest = &bytes[from..];
    let shown = &rest[..rest.len().min(SHOWN)];
    let (before, behind) = (if from > 0 { "…" } else { "" }, if shown.len() < rest.len() { "…" } else { "" });
    let text = match text {
        Some(text) if bytes.len() <= SHOWN => format!(" {text:?}"),
        _ => String::new(),
    };
    let unit = if bytes.len() == 1 { "byte" } else { "bytes" };
    format!("0x{before}{}{behind}{text} ({} {unit})", hex::encode(shown), bytes.len())
}

impl Found {
    pub(super) fn new(outcome: &Outcome, difference: Difference) -> Self {
        Self { height: outcome.height, block: outcome.hash.to_string(), what: What::new(difference) }
    }
}

impl What {
    fn new(difference: Difference) -> Self {
        match difference {
            Difference::Verdict(verdicts) => {
                let [indexer, compare] =
                    verdicts.map(|(verdict, detail)| Ended { verdict: verdict.name(), detail });
                Self::Verdict { indexer, compare }
            }
            Difference::Writes { first, counts } => {
                let from = parts_at(&first.values);
                let [indexer, compare] = first.values.map(|value| Some(Box::new(Shown::new(&value?, from))));
                let key = Box::new(Shown::new(&first.key, 0));
                Self::Writes { key, indexer, compare, keys: counts.into() }
            }
        }
    }
}

/// The position of the first byte that the text shows of two values. It is 0 if both values are shown whole. Otherwise it is a
/// few bytes before their first difference.
fn parts_at(values: &[Option<Vec<u8>>; 2]) -> usize {
    const BEFORE: usize = 8;
    let [Some(left), Some(right)] = values else { return 0 };
    if left.len().max(right.len()) <= SHOWN {
        return 0;
    }
    let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    // The bytes before the difference help to find the place.
    equal.saturating_sub(BEFORE)
}

impl From<KeyCounts> for Keys {
    fn from(counts: KeyCounts) -> Self {
        Self {
            differing: counts.differing(),
            values: counts.values,
            only_indexer: counts.alone[0],
            only_compare: counts.alone[1],
            written_indexer: counts.written[0],
            written_compare: counts.written[1],
        }
    }
}

impl DiffReport {
    pub(super) fn new(modules: [(&Path, &Profile); 2], prefix: &[u8]) -> Self {
        let [indexer, compare] = modules.map(|(path, profile)| Module {
            file: path.display().to_string(),
            sha256: profile.module.to_string(),
            profile: profile.hash().to_string(),
        });
        Self {
            indexer,
            compare,
            prefix: format!("0x{}", hex::encode(prefix)),
            blocks: 0,
            first_height: None,
            last_height: None,
            keys: 0,
            verdicts: BTreeMap::new(),
            difference: None,
            interrupted: false,
            error: None,
            seconds: 0.0,
        }
    }

    /// Counts a block whose results are equal.
    pub(super) fn add_equal(&mut self, outcome: &Outcome, keys: u64) {
        self.blocks += 1;
        self.keys += keys;
        self.first_height.get_or_insert(outcome.height);
        self.last_height = Some(outcome.height);
        *self.verdicts.entry(outcome.result.verdict.name()).or_default() += 1;
    }

    /// The number of blocks that did not complete, with equal results.
    pub(super) fn failed(&self) -> u64 {
        self.blocks - self.verdicts.get("completed").copied().unwrap_or(0)
    }

    pub(super) fn exit(&self) -> CommandExit {
        match (&self.difference, self.interrupted) {
            (Some(_), _) => CommandExit::Failure,
            (None, true) => CommandExit::Usage,
            (None, false) => CommandExit::Success,
        }
    }

    fn equal_blocks(&self) -> String {
        let heights = match (self.first_height, self.last_height) {
            (Some(first), Some(last)) if first == last => format!(" (height {first})"),
            (Some(first), Some(last)) => format!(" (heights {first} to {last})"),
            _ => String::new(),
        };
        let verdicts: Vec<_> = self.verdicts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let verdicts = if verdicts.is_empty() { String::new() } else { format!(": {}", verdicts.join(", ")) };
        let prefix =
            if self.prefix == "0x" { String::new() } else { format!(" with prefix {}", self.prefix) };
        format!("{}{heights}, {}{prefix}{verdicts}", counted(self.blocks, "block"), counted(self.keys, "key"))
    }
}

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(found) = &self.difference {
            writeln!(f, "{found}")?;
        }
        let what = match (&self.difference, self.interrupted) {
            (Some(_), _) => "equal before it",
            (None, true) => "equal until it was interrupted",
            (None, false) => "equal",
        };
        writeln!(f, "{what}: {}", self.equal_blocks())?;
        if self.keys == 0 && self.difference.is_none() {
            writeln!(f, "note: no key was compared, so this says nothing about the modules' writes")?;
        }
        write!(f, "A: {}\nB: {}", self.indexer.file, self.compare.file)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = NAMES;
        writeln!(f, "block {} differs ({})", self.height, self.block)?;
        match &self.what {
            What::Verdict { indexer, compare } => {
                write!(f, "  {a}    {indexer}\n  {b}    {compare}")
            }
            What::Writes { key, indexer, compare, keys } => {
                let told = |value: &Option<Box<Shown>>| match value {
                    Some(value) => value.for_people.clone(),
                    None => "absent".to_owned(),
                };
                writeln!(f, "  key  {}", key.for_people)?;
                writeln!(f, "  {a}    {}\n  {b}    {}", told(indexer), told(compare))?;
                write!(
                    f,
                    "  {} of this block {}: {} with another value, {} in {a} alone, {} in {b} alone",
                    counted(keys.differing, "key"),
                    if keys.differing == 1 { "differs" } else { "differ" },
                    keys.values,
                    keys.only_indexer,
                    keys.only_compare
                )
            }
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.detail.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.verdict, self.detail)
    }
}

fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_node::agreement::diff::KeyDifference;

    fn writes(key: &[u8], values: [Option<&[u8]>; 2]) -> What {
        let first =
            KeyDifference { key: key.to_vec(), values: values.map(|value| value.map(<[u8]>::to_vec)) };
        let counts = KeyCounts { written: [3, 2], alone: [1, 0], values: 1 };
        What::new(Difference::Writes { first, counts })
    }

    fn told(what: What) -> String {
        Found { height: 7, block: "00ab".to_owned(), what }.to_string()
    }

    #[test]
    fn short_values_are_shown_whole_and_keys_as_text() {
        let text = told(writes(b"/key", [Some(b"\x01"), Some(b"ab")]));
        let expected = "block 7 differs (00ab)\n  key  0x2f6b6579 \"/key\" (4 bytes)\n  A    0x01 (1 byte)\n  B    \
                        0x6162 \"ab\" (2 bytes)\n  2 keys of this block differ: 1 with another value, 1 in A \
                        alone, 0 in B alone";
        assert_eq!(text, expected);
        let text = told(writes(b"\xff", [None, Some(b"")]));
        assert!(text.contains("key  0xff (1 byte)\n  A    absent\n  B    0x (0 bytes)"), "{text}");
    }

    #[test]
    fn long_values_are_cut_around_their_first_difference() {
        let (mut left, right) = (vec![0; 1000], vec![0; 1000]);
        left[500] = 0xff;
        let text = told(writes(b"k", [Some(&left), Some(&right)]));
        let zeros = "00".repeat(8);
        assert!(text.contains(&format!("A    0x…{zeros}ff0000")), "{text}");
        assert!(text.contains("… (1000 bytes)"), "{text}");
        let [a, b] = [2, 3].map(|line| text.lines().nth(line).unwrap().chars().count());
        assert!(a == b && a < 200, "{text}");
        // One that is the beginning of the other.
        let text = told(writes(b"k", [Some(&right[..100]), Some(&right)]));
        assert!(text.contains(&format!("A    0x…{zeros} (100 bytes)")), "{text}");
    }

    #[test]
    fn json_has_lengths_hashes_and_the_beginning() {
        let long = vec![b'x'; IN_JSON + 1];
        let value = serde_json::to_value(writes(b"k", [Some(&long), None])).unwrap();
        assert_eq!(value["kind"], "writes");
        assert_eq!(value["key"]["text"], "k");
        assert_eq!(
            (&value["indexer"]["bytes"], &value["compare"]),
            (&(IN_JSON + 1).into(), &serde_json::Value::Null)
        );
        assert_eq!(value["indexer"]["hex"].as_str().unwrap().len(), 2 * IN_JSON);
        assert_eq!(value["indexer"]["sha256"], Hash::of(&long).to_string());
        assert_eq!(value["keys"]["differing"], 2);
    }
}
