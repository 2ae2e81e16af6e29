//! A proof of what the tree holds for a key, and its JSON form.
//!
//! ```json
//! {"leaf":{"key_hash":"0x…","value_hash":"0x…"},"siblings":["0x…","0x…"]}
//! ```
//!
//! - `siblings`: the hashes beside the path from the root to the place of the key, beginning next to the root. There are at
//!   most 256.
//! - `leaf`: the leaf at the end of the path. If the leaf has the hash of the requested key, the proof shows that the key has a
//!   value. The proof shows that the key has no value in two cases: `leaf` is `null`; or the leaf has another key hash, and the
//!   first bits of both key hashes are equal, as many bits as there are siblings.
//!
//! There are always exactly these two fields, and every hash is `0x` and 64 digits in lower case, so a proof has only one form.
//!
//! # How a proof is checked
//! [`verify`](super::verify) does all of these steps, and is short enough to be written again in another language. Let `H` be
//! SHA-256.
//!
//! 1. Check that `leaf` shows what is claimed, as described above; for a value, `value_hash` must be `H(value)`.
//! 2. Start with `h = H("JMT::LeafNode" ‖ key_hash ‖ value_hash)`, or with the 32 bytes `SPARSE_MERKLE_PLACEHOLDER_HASH__` if
//!    `leaf` is `null`.
//! 3. For each sibling, from the last to the first, where the first has the number `i = 0`: if bit `i` of `H(key)` is set (bit 0
//!    is the highest bit of the first byte), set `h = H("JMT::IntrnalNode" ‖ sibling ‖ h)`; otherwise set
//!    `h = H("JMT::IntrnalNode" ‖ h ‖ sibling)`.
//! 4. `h` must be the root.

use std::fmt;

use cofferdam_protocol::profile::Hash;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::hashing::{DEPTH, Leaf};

/// The most bytes of JSON that are accepted as a proof. The longest proof takes some 18 KiB; the rest leaves room for spaces.
pub const MAX_PROOF_BYTES: usize = 64 << 10;

/// What the tree holds for a key: the hash of a value, or no value. See [`verify`](super::verify).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    // Without its own function, serde would take a missing field for `null`.
    #[serde(serialize_with = "write_leaf", deserialize_with = "read_leaf")]
    pub(super) leaf: Option<Leaf>,
    #[serde(serialize_with = "write_siblings", deserialize_with = "read_siblings")]
    pub(super) siblings: Vec<Hash>,
}

/// Why bytes are not a proof.
#[derive(Error)]
pub enum ProofError {
    /// There are more bytes than a proof can have.
    #[error("this is not a proof: it has {bytes} bytes, and a proof has at most {MAX_PROOF_BYTES} bytes")]
    TooLong {
        /// The number of bytes.
        bytes: usize,
    },
    /// The bytes are not JSON, or the JSON is not a proof.
    #[error("this is not a proof: {0}")]
    Malformed(#[from] serde_json::Error),
}

cofferdam_protocol::debug_as_display!(ProofError);

impl Proof {
    pub(super) fn new(leaf: Option<Leaf>, siblings: Vec<Hash>) -> Self {
        Self { leaf, siblings }
    }

    /// Parses a proof. The bytes may come from an untrusted party.
    ///
    /// # Errors
    /// [`ProofError`] if there are more than [`MAX_PROOF_BYTES`] bytes, or they do not have the form that the tree writes.
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
        // Upper case is refused because it would be a second form of the same proof.
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
