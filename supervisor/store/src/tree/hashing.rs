//! The hashes of the tree: the rules that a prover and a verifier must share, and nothing else.
//!
//! The rules are those of the `jmt` crate with SHA-256, so that other verifiers of Jellyfish Merkle trees compute the same
//! hashes.

use cofferdam_protocol::profile::Hash;
use sha2::{Digest, Sha256};

/// The number of bits in a key's hash, and so the greatest number of siblings in a proof.
pub(super) const DEPTH: usize = 256;

/// The hash of a subtree without leaves. It is a text and not the hash of anything known.
pub(super) const EMPTY: Hash = Hash(*b"SPARSE_MERKLE_PLACEHOLDER_HASH__");

const LEAF_TAG: &[u8] = b"JMT::LeafNode";
// The spelling is that of `jmt`, in which one letter is missing.
const INNER_TAG: &[u8] = b"JMT::IntrnalNode";

/// A key and its value in the tree. The tree stores only their hashes.
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

/// The hash of a subtree with more than one leaf, from the hashes of its two halves.
pub(super) fn inner(left: &Hash, right: &Hash) -> Hash {
    tagged(INNER_TAG, left, right)
}

/// Whether the path of a key turns right at `depth` (0 to 255, counted from the root). One bit of the key's hash decides that.
pub(super) fn goes_right(key_hash: &Hash, depth: usize) -> bool {
    key_hash.0[depth / 8] >> (7 - depth % 8) & 1 == 1
}

/// How many bits at the beginning of two hashes are equal.
pub(super) fn common_bits(a: &Hash, b: &Hash) -> usize {
    (0..DEPTH).take_while(|&depth| goes_right(a, depth) == goes_right(b, depth)).count()
}

fn tagged(tag: &[u8], first: &Hash, second: &Hash) -> Hash {
    Hash(Sha256::new().chain_update(tag).chain_update(first.0).chain_update(second.0).finalize().into())
}
