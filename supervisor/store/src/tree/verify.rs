//! Checking a proof. It needs the root, the key, the value and the proof: no store, no node, and no trust in either.

use cofferdam_protocol::profile::Hash;
use thiserror::Error;

use super::hashing::{EMPTY, common_bits, goes_right, inner};
use super::proof::Proof;

/// Why a proof does not prove what is claimed.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A value is claimed, and the proof is one of absence.
    #[error("the proof is one of absence, or of another key's presence: it cannot show a value of this key")]
    ShowsAbsence,
    /// Absence is claimed, and the proof is one of presence.
    #[error("the proof is one of presence: it cannot show that the key is absent")]
    ShowsPresence,
    /// The value is not the one that the proof is of.
    #[error("the proof is of a value with SHA-256 {proven}; this value has {given}")]
    OtherValue {
        /// Hash of the value that the proof is of.
        proven: Hash,
        /// Hash of the value given.
        given: Hash,
    },
    /// The other key that the proof shows is not where this one would be.
    #[error(
        "the proof shows another key, which has {common} bits in common with this one: with {siblings} siblings it \
         takes {siblings} to stand in its place"
    )]
    Elsewhere {
        /// Bits that both keys' hashes begin with.
        common: usize,
        /// Siblings in the proof.
        siblings: usize,
    },
    /// The proof leads to another root.
    #[error("the proof leads to the root {reached}, and not to {wanted}")]
    OtherRoot {
        /// Where it leads.
        reached: Hash,
        /// The root given.
        wanted: Hash,
    },
}

cofferdam_protocol::debug_as_display!(VerifyError);

/// Checks that the state with this root has `value` for `key`, or nothing if it is none. A value of no bytes is a value.
///
/// The root must come from somebody who is trusted, or from several who agree; the proof and the value need not.
///
/// # Errors
/// [`VerifyError`] if the proof does not show that.
pub fn verify(root: Hash, key: &[u8], value: Option<&[u8]>, proof: &Proof) -> Result<(), VerifyError> {
    let key_hash = Hash::of(key);
    check_leaf(&key_hash, value, proof)?;
    let start = proof.leaf.map_or(EMPTY, |leaf| leaf.hash());
    let way = proof.siblings.iter().enumerate().rev();
    let reached = way.fold(start, |hash, (depth, sibling)| match goes_right(&key_hash, depth) {
        true => inner(sibling, &hash),
        false => inner(&hash, sibling),
    });
    if reached == root {
        return Ok(());
    }
    Err(VerifyError::OtherRoot { reached, wanted: root })
}

/// Checks that the way's end is what is claimed, if the way leads to the root.
fn check_leaf(key_hash: &Hash, value: Option<&[u8]>, proof: &Proof) -> Result<(), VerifyError> {
    let own = proof.leaf.filter(|leaf| leaf.key_hash == *key_hash);
    match (value, own, proof.leaf) {
        (Some(value), Some(leaf), _) => {
            let (proven, given) = (leaf.value_hash, Hash::of(value));
            (proven == given).then_some(()).ok_or(VerifyError::OtherValue { proven, given })
        }
        (Some(_), None, _) => Err(VerifyError::ShowsAbsence),
        (None, Some(_), _) => Err(VerifyError::ShowsPresence),
        (None, None, Some(other)) => {
            let (common, siblings) = (common_bits(key_hash, &other.key_hash), proof.siblings.len());
            (common >= siblings).then_some(()).ok_or(VerifyError::Elsewhere { common, siblings })
        }
        (None, None, None) => Ok(()),
    }
}
