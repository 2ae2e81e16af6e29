//! An authenticated tree over the newest value of every key. With this tree, a client does not have to trust the node that it
//! queries.
//!
//! A node that keeps the tree has one hash for the whole state after each block: the state root. Anybody who knows the root can
//! check a value, or the absence of a value, with a [`Proof`] and [`verify`] alone.
//!
//! The tree is a Jellyfish Merkle tree with SHA-256, computed by the `jmt` crate. It is a binary tree over the SHA-256 of the
//! keys. A subtree with one leaf is replaced by that leaf, and four levels are stored as one node. The root depends only on the
//! pairs, not on the blocks that wrote the pairs.
//!
//! The tree is stored in the store's own LMDB environment and written in the store's own transactions, so the tree and the values
//! always belong to the same block. Nodes are only added, each under the height of the block that wrote it. So a proof can be
//! made at every height, and a rollback removes only entries at the end of the table.
//!
//! # What the tree costs
//! A block writes a new copy of every node on the path to each key that it wrote, and nothing is pruned. With a million keys in
//! the tree, a pair takes 1.0 KB on disk in blocks of 5000 pairs, 1.5 KB in blocks of 500 and 2.5 KB in blocks of ten, whatever
//! the length of its value. A proof has 21 siblings and 1.6 KB of JSON. The ignored test `measure` prints these figures, and
//! the times, for this machine.

mod error;
mod hashing;
mod node_table;
mod proof;
mod prove;
mod state_tree;
mod stored_node;
#[cfg(test)]
mod tests;
mod update;
mod verifier;

pub use error::TreeError;
pub use node_table::TREE_NODES;
pub use proof::{MAX_PROOF_BYTES, Proof, ProofError};
pub use state_tree::Tree;
pub use verifier::{VerifyError, verify};
