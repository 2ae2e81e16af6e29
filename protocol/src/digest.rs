//! The digest of a chain. Two nodes agree on all results up to a height exactly if their digests at that height are equal.

use crate::profile::Hash;
use crate::verdict::GuestVerdict;
use sha2::{Digest, Sha256};

/// The digest after one more block:
/// `SHA-256(previous ‖ height ‖ SHA-256(block) ‖ verdict ‖ SHA-256(writes))`.
///
/// The height is a u32 little-endian. The verdict is its name in ASCII. The writes are encoded as in [`crate::writes`]; a block that did
/// not complete has none. The digest before the first block is the profile's hash.
pub fn extend(previous: Hash, height: u32, block: Hash, verdict: GuestVerdict, writes: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(previous.0);
    hasher.update(height.to_le_bytes());
    hasher.update(block.0);
    hasher.update(verdict.name().as_bytes());
    hasher.update(writes.0);
    Hash(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_every_part() {
        let (a, b) = (Hash::of(b"a"), Hash::of(b"b"));
        let base = extend(a, 1, a, GuestVerdict::Completed, a);
        for other in [
            extend(b, 1, a, GuestVerdict::Completed, a),
            extend(a, 2, a, GuestVerdict::Completed, a),
            extend(a, 1, b, GuestVerdict::Completed, a),
            extend(a, 1, a, GuestVerdict::Trap, a),
            extend(a, 1, a, GuestVerdict::Completed, b),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn the_definition_does_not_change() {
        let zero = Hash([0; 32]);
        let digest = extend(zero, 0, zero, GuestVerdict::Completed, zero);
        let mut bytes = vec![0; 32 + 4 + 32];
        bytes.extend_from_slice(b"completed");
        bytes.extend_from_slice(&[0; 32]);
        assert_eq!(digest, Hash::of(&bytes));
    }
}
