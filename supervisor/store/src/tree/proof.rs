//! What the tree holds for a key, with what it takes to check that; and its JSON.
//!
//! ```json
//! {"leaf":{"key_hash":"0x…","value_hash":"0x…"},"siblings":["0x…","0x…"]}
//! ```
//!
//! - `siblings`: the hashes beside the way from the root to where the key belongs, the one next to the root first. There
//!   are 256 at most.
//! - `leaf`: what stands at the way's end. With the hash of the key asked for, it proves presence; with another one, which
//!   must begin with as many equal bits as there are siblings, or `null`, it proves absence.
//!
//! Both fields are always there, no other is, and every hash is `0x` and 64 digits in lower case: one proof has one form.
//!
//! # How it is checked
//! [`verify`](super::verify) is the whole of it, and short enough to write again in another language. Let `H` be SHA-256
//! and start with `H("JMT::LeafNode" ‖ key_hash ‖ value_hash)`, or with the 32 bytes `SPARSE_MERKLE_PLACEHOLDER_HASH__`
//! if `leaf` is `null`. Then for the siblings from the last to the first, number `i` from 0, replace the hash `h` by
//! `H("JMT::IntrnalNode" ‖ h ‖ sibling)`, or, if bit `i` of `H(key)` is set (the highest bit of the first byte is bit
//! 0), by `H("JMT::IntrnalNode" ‖ sibling ‖ h)`. What comes out must be the root.

use std::fmt;

use cofferdam_protocol::profile::Hash;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::hashing::{DEPTH, Leaf};

/// The most bytes that a proof is read from: the longest one takes some 18 KiB, and may have spaces in it.
pub const MAX_PROOF_BYTES: usize = 64 << 10;

/// What the tree holds for a key: a value, by its hash, or nothing. See [`verify`](super::verify).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    // Without a function of its own, a missing field would be taken for `null`.
    #[serde(serialize_with = "write_leaf", deserialize_with = "read_leaf")]
    pub(super) leaf: Option<Leaf>,
    #[serde(serialize_with = "write_siblings", deserialize_with = "read_siblings")]
    pub(super) siblings: Vec<Hash>,
}

/// Why bytes are no proof.
#[derive(Error)]
pub enum ProofError {
    /// More than any proof has.
    #[error("a proof has {MAX_PROOF_BYTES} bytes at most, and these are {bytes}")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
    /// Not JSON, or not that of a proof.
    #[error("this is no proof: {0}")]
    Malformed(#[from] serde_json::Error),
}

cofferdam_protocol::debug_as_display!(ProofError);

impl Proof {
    pub(super) fn new(leaf: Option<Leaf>, siblings: Vec<Hash>) -> Self {
        Self { leaf, siblings }
    }

    /// Reads a proof, which may come from anybody.
    ///
    /// # Errors
    /// [`ProofError`] if it is longer than [`MAX_PROOF_BYTES`], or not of the form that the tree writes.
    pub fn from_json(json: &[u8]) -> Result<Self, ProofError> {
        if json.len() > MAX_PROOF_BYTES {
            return Err(ProofError::TooLong { bytes: json.len() });
        }
        Ok(serde_json::from_slice(json)?)
    }
}

/// A hash in JSON.
struct HexHash(Hash);

impl Serialize for HexHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("0x{}", self.0))
    }
}

impl<'de> Deserialize<'de> for HexHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor)
    }
}

struct HexVisitor;

impl Visitor<'_> for HexVisitor {
    type Value = HexHash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x and 64 hexadecimal digits in lower case")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HexHash, E> {
        let invalid = || E::invalid_value(de::Unexpected::Str(text), &self);
        let digits = text.strip_prefix("0x").ok_or_else(invalid)?;
        let mut hash = Hash::default();
        hex::decode_to_slice(digits, &mut hash.0).map_err(|_| invalid())?;
        // Upper case would be a second form of the same proof.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(invalid());
        }
        Ok(HexHash(hash))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLeaf {
    key_hash: HexHash,
    value_hash: HexHash,
}

fn write_leaf<S: Serializer>(leaf: &Option<Leaf>, serializer: S) -> Result<S::Ok, S::Error> {
    leaf.map(|leaf| JsonLeaf { key_hash: HexHash(leaf.key_hash), value_hash: HexHash(leaf.value_hash) })
        .serialize(serializer)
}

fn read_leaf<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Leaf>, D::Error> {
    let leaf = Option::<JsonLeaf>::deserialize(deserializer)?;
    Ok(leaf.map(|leaf| Leaf { key_hash: leaf.key_hash.0, value_hash: leaf.value_hash.0 }))
}

fn write_siblings<S: Serializer>(siblings: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(siblings.iter().map(|sibling| HexHash(*sibling)))
}

fn read_siblings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
    deserializer.deserialize_seq(SiblingsVisitor)
}

struct SiblingsVisitor;

impl<'de> Visitor<'de> for SiblingsVisitor {
    type Value = Vec<Hash>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {DEPTH} hashes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Hash>, A::Error> {
        let mut siblings = Vec::new();
        while let Some(HexHash(sibling)) = sequence.next_element()? {
            if siblings.len() == DEPTH {
                return Err(de::Error::invalid_length(DEPTH + 1, &self));
            }
            siblings.push(sibling);
        }
        Ok(siblings)
    }
}
