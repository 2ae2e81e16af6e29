//! Checks a proof. The check needs only the root, the key, the value and the proof. The check needs no store and no node, and so
//! does not have to trust one.

use cofferdam_protocol::profile::Hash;
use thiserror::Error;

use super::hashing::{EMPTY, common_bits, goes_right, inner};
use super::proof::Proof;

/// Why a proof does not show what is claimed.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The claim is a value, but the proof shows that the key has none, or is about another key.
    #[error(
        "the proof shows the absence of a value, or the value of another key: it does not show a value of this key"
    )]
    ShowsAbsence,
    /// The claim is that the key has no value, but the proof shows a value.
    #[error("the proof shows a value of the key: it does not show that the key has none")]
    ShowsPresence,
    /// The proof shows another value.
    #[error("the proof shows a value with the SHA-256 {proven}, but the given value has {given}")]
    OtherValue {
        /// Hash of the value in the proof.
        proven: Hash,
        /// Hash of the given value.
        given: Hash,
    },
    /// The proof shows the leaf of another key, and that leaf is not at the place of this key.
    #[error(
        "the proof shows the leaf of another key, which is not at the place of this key: with {siblings} siblings the first \
         {siblings} bits of both key hashes must be equal, but only {common} are"
    )]
    Elsewhere {
        /// How many bits at the beginning of both key hashes are equal.
        common: usize,
        /// Number of siblings in the proof.
        siblings: usize,
    },
    /// The proof leads to another root.
    #[error("the proof leads to the root {reached}, but the given root is {wanted}")]
    OtherRoot {
        /// The root that the proof leads to.
        reached: Hash,
        /// The given root.
        wanted: Hash,
    },
}

cofferdam_protocol::debug_as_display!(VerifyError);

/// Checks that the state with the root `root` has `value` for `key`, or has no value for `key` if `value` is none. A value of
/// zero bytes is a value.
///
/// The root must come from a trusted party, or from several parties that agree. The proof and the value may come from anybody.
///
/// # Errors
/// [`VerifyError`] if the proof does not show the claim.
pub fn verify(root: Hash, key: &[u8], value: Option<&[u8]>, proof: &Proof) -> Result<(), VerifyError> {
    let key_hash = Hash::of(key);
    check_leaf(&key_hash, value, proof)?;
    let start = proof.leaf.map_or(EMPTY, |leaf| leaf.hash());
    let upwards = proof.siblings.iter().enumerate().rev();
    let reached = upwards.fold(start, |hash, (depth, sibling)| match goes_right(&key_hash, depth) {
        true => inner(sibling, &hash),
        false => inner(&hash, sibling),
    });
    if reached == root {
        return Ok(());
    }
    Err(VerifyError::OtherRoot { reached, wanted: root })
}

/// Checks that the leaf at the end of the path shows the claim. Whether the path leads to the root is not checked here.
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
