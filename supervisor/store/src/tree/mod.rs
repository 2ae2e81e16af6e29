//! An authenticated tree over the newest value of every key, so that a client need not trust the node it asks.
//!
//! A node that keeps the tree has one hash for the whole state after each block, the state root. With a [`Proof`]
//! anybody who knows the root checks a value, or that there is none, by [`verify`] alone.
//!
//! It is a Jellyfish Merkle tree with SHA-256, worked out by the `jmt` crate: a binary tree over the SHA-256 of the keys,
//! in which a subtree of one leaf is that leaf and four levels are stored as one node. The root depends on the pairs
//! and not on the blocks that they came in.
//!
//! The tree lives in the store's own environment and is written in the store's own transactions, so both are always
//! of the same block. Nodes are only added, each under the height that wrote it: proofs can be made at every height,
//! and a reorganisation cuts off the table's end.
//!
//! # What it costs
//! A block stores anew every node on the way to what it wrote, and nothing is pruned. With a million keys in the tree a
//! pair takes 1.0 KB on disk in blocks of 5000 pairs, 1.5 KB in blocks of 500 and 2.5 KB in blocks of ten, whatever its
//! value's length; a proof has 21 siblings, 1.6 KB of JSON. The ignored test `measure` says that of this machine, and
//! how long it takes.

mod error;
mod hashing;
mod node;
mod proof;
mod prove;
#[cfg(test)]
mod tests;
mod update;
mod verify;

use std::ops::Bound;

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::Table;
use heed::types::Bytes;
use heed::{Env, PutFlags, RoTxn, RwTxn, WithoutTls};

pub use error::TreeError;
pub use proof::{MAX_PROOF_BYTES, Proof, ProofError};
pub use verify::{VerifyError, verify};

use node::{Node, Place};

/// Name of the table of nodes, the only one that the tree needs.
pub const TREE_NODES: &str = "tree-nodes";

/// The tree. Like a table it is a handle: whatever it does, it does in the transaction that it is given.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    nodes: Table,
}

impl Tree {
    /// Opens the tree, or makes it. It can be used once `txn` is committed, and in `txn` itself.
    ///
    /// # Errors
    /// What LMDB says, for instance that the environment has no room for one more table.
    pub fn open(env: &Env<WithoutTls>, txn: &mut RwTxn<'_>) -> heed::Result<Self> {
        Ok(Self { nodes: env.create_database::<Bytes, Bytes>(txn, Some(TREE_NODES))? })
    }

    /// Applies a block's pairs at `height`, on top of the newest version, and returns the root. Keys should differ; of
    /// equal ones the last counts. Without pairs the root stays as it is, and nothing is stored unless the tree is new.
    ///
    /// # Errors
    /// [`TreeError::NotAbove`] if there is a version at or above `height`; otherwise what stands in [`TreeError`].
    pub fn apply(
        &self,
        txn: &mut RwTxn<'_>,
        height: u32,
        pairs: &[(&[u8], &[u8])],
    ) -> Result<Hash, TreeError> {
        let newest = self.newest(txn, u32::MAX)?;
        if let Some(newest) = newest.filter(|newest| *newest >= height) {
            return Err(TreeError::NotAbove { height, newest });
        }
        let root = newest.map(|newest| self.get(txn, &Place::root(newest))).transpose()?;
        match (root, pairs) {
            (Some(root), []) => Ok(prove::root_hash(&root)),
            (None, []) => {
                self.append(txn, &Place::root(height), &Node::Empty)?;
                Ok(prove::root_hash(&Node::Empty))
            }
            (root, pairs) => {
                let update = update::update(self, txn, &root.unwrap_or(Node::Empty), height, pairs)?;
                update.nodes.iter().try_for_each(|(place, node)| self.append(txn, place, node))?;
                Ok(update.root)
            }
        }
    }

    /// Removes every version above `height`, or every version: then the tree, and every byte of it, is as it was after
    /// that height.
    ///
    /// # Errors
    /// [`TreeError::Lmdb`].
    pub fn rollback(&self, txn: &mut RwTxn<'_>, height: Option<u32>) -> Result<(), TreeError> {
        let removed = match height.map(node::last_key) {
            Some(kept) => {
                let above = (Bound::Excluded(kept.as_slice()), Bound::Unbounded);
                self.nodes.delete_range(txn, &above).map(|_| ())
            }
            None => self.nodes.clear(txn),
        };
        removed.map_err(|source| TreeError::Lmdb { doing: "removing nodes", source })
    }

    /// The root of the newest version at or below `height`; none if there is no such version.
    ///
    /// # Errors
    /// [`TreeError::Damaged`], [`TreeError::Key`], [`TreeError::Lmdb`].
    pub fn root(&self, txn: &RoTxn<'_>, height: u32) -> Result<Option<Hash>, TreeError> {
        let Some(newest) = self.newest(txn, height)? else { return Ok(None) };
        Ok(Some(prove::root_hash(&self.get(txn, &Place::root(newest))?)))
    }

    /// Proves what the state after the block at `height` has for `key`: a value, which the proof has the hash of, or
    /// nothing.
    ///
    /// # Errors
    /// [`TreeError::NoVersion`] if nothing was applied at or below `height`; [`TreeError::Damaged`], [`TreeError::Key`],
    /// [`TreeError::Lmdb`].
    pub fn prove(&self, txn: &RoTxn<'_>, key: &[u8], height: u32) -> Result<Proof, TreeError> {
        let newest = self.newest(txn, height)?.ok_or(TreeError::NoVersion { height })?;
        prove::prove(self, txn, Place::root(newest), &Hash::of(key))
    }

    /// The newest version at or below `height`.
    fn newest(&self, txn: &RoTxn<'_>, height: u32) -> Result<Option<u32>, TreeError> {
        let found = self.nodes.get_lower_than_or_equal_to(txn, &node::last_key(height));
        let found = found.map_err(|source| TreeError::Lmdb { doing: "looking for a version", source })?;
        found.map(|(key, _)| node::height_of(key)).transpose()
    }

    fn get(&self, txn: &RoTxn<'_>, place: &Place) -> Result<Node, TreeError> {
        let bytes = self.nodes.get(txn, place.key().as_bytes());
        let bytes = bytes.map_err(|source| TreeError::Lmdb { doing: "reading a node", source })?;
        Node::decode(place, bytes.ok_or_else(|| place.damaged("is missing"))?)
    }

    /// Stores a node behind all others: LMDB fills its pages to the end then, and searches none of them.
    fn append(&self, txn: &mut RwTxn<'_>, place: &Place, node: &Node) -> Result<(), TreeError> {
        let put = self.nodes.put_with_flags(txn, PutFlags::APPEND, place.key().as_bytes(), &node.encode());
        put.map_err(|source| TreeError::Lmdb { doing: "writing a node", source })
    }
}
