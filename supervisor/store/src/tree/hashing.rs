//! How the tree's hashes are made: the rules that a prover and a verifier must share, and nothing else.
//!
//! They are those of the `jmt` crate with SHA-256, so that other verifiers of Jellyfish Merkle trees agree with them.

use cofferdam_protocol::profile::Hash;
use sha2::{Digest, Sha256};

/// Bits of a key's hash, and so the most siblings that a proof can have.
pub(super) const DEPTH: usize = 256;

/// Stands for a subtree without leaves. It is text, so nothing is known that hashes to it.
pub(super) const EMPTY: Hash = Hash(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

const LEAF_TAG: &[u8] = b"JMT::LeafNode";
// Spelt as in `jmt`, which left a letter out.
const INNER_TAG: &[u8] = b"JMT::IntrnalNode";

/// A key and its value, as the tree holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) key_hash: Hash,
    pub(super) value_hash: Hash,
}

impl Leaf {
    pub(super) fn hash(&self) -> Hash {
        tagged(LEAF_TAG, &self.key_hash, &self.value_hash)
    }
}

/// The hash of a subtree with more than one leaf, from those of its halves.
pub(super) fn inner(left: &Hash, right: &Hash) -> Hash {
    tagged(INNER_TAG, left, right)
}

/// The bit of a key's hash that decides at `depth` (0 to 255, from the root): whether the way goes to the right.
pub(super) fn goes_right(key_hash: &Hash, depth: usize) -> bool {
    key_hash.0[depth / 8] >> (7 - depth % 8) & 1 == 1
}

/// How many bits two hashes have in common from the beginning.
pub(super) fn common_bits(a: &Hash, b: &Hash) -> usize {
    (0..DEPTH).take_while(|&depth| goes_right(a, depth) == goes_right(b, depth)).count()
}

fn tagged(tag: &[u8], first: &Hash, second: &Hash) -> Hash {
    Hash(Sha256::new().chain_update(tag).chain_update(first.0).chain_update(second.0).finalize().into())
}
