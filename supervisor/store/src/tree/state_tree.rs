//! The tree as the store uses it: applying blocks, rolling back, and reading roots and proofs.

use cofferdam_protocol::profile::Hash;
use heed::{Env, RoTxn, RwTxn, WithoutTls};

use super::error::TreeError;
use super::node_table::NodeTable;
use super::proof::Proof;
use super::prove;
use super::stored_node::{Node, NodeKey};
use super::update;

/// A state tree. It is a handle, like a table of LMDB: every call works in the transaction that the caller gives.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    pub(super) nodes: NodeTable,
}

impl Tree {
    /// Opens the tree, or creates it. The tree can be used in `txn`, and in other transactions once `txn` is committed.
    ///
    /// # Errors
    /// The error of LMDB, for example that the environment has no space for one more table.
    pub fn open(env: &Env<WithoutTls>, txn: &mut RwTxn<'_>) -> heed::Result<Self> {
        NodeTable::open(env, txn).map(|nodes| Self { nodes })
    }

    /// Applies the pairs of the block at `height` to the newest version, and returns the new root. The keys should differ; of
    /// pairs with the same key the last one counts. Without pairs the root does not change, and nothing is stored unless the
    /// tree is new.
    ///
    /// # Errors
    /// [`TreeError::NotAbove`] if there is a version at or above `height`; otherwise see [`TreeError`].
    pub fn apply(
        &self,
        txn: &mut RwTxn<'_>,
        height: u32,
        pairs: &[(&[u8], &[u8])],
    ) -> Result<Hash, TreeError> {
        let newest = self.nodes.newest(txn, u32::MAX)?;
        if let Some(newest) = newest.filter(|newest| *newest >= height) {
            return Err(TreeError::NotAbove { height, newest });
        }
        let root = newest.map(|newest| self.nodes.get(txn, &NodeKey::root(newest))).transpose()?;
        match (root, pairs) {
            (Some(root), []) => Ok(prove::root_hash(&root)),
            (None, []) => {
                self.nodes.append(txn, &NodeKey::root(height), &Node::Empty)?;
                Ok(prove::root_hash(&Node::Empty))
            }
            (root, pairs) => {
                let update = update::update(&self.nodes, txn, &root.unwrap_or(Node::Empty), height, pairs)?;
                update.nodes.iter().try_for_each(|(key, node)| self.nodes.append(txn, key, node))?;
                Ok(update.root)
            }
        }
    }

    /// Removes every version above `height`, or every version if `height` is none. Afterwards every byte of the tree is as it was
    /// after the block at `height`.
    ///
    /// # Errors
    /// [`TreeError::Lmdb`].
    pub fn roll_back(&self, txn: &mut RwTxn<'_>, height: Option<u32>) -> Result<(), TreeError> {
        self.nodes.remove_above(txn, height)
    }

    /// The root of the newest version at or below `height`; none if there is no such version.
    ///
    /// # Errors
    /// [`TreeError::Damaged`], [`TreeError::Key`], [`TreeError::Lmdb`].
    pub fn root(&self, txn: &RoTxn<'_>, height: u32) -> Result<Option<Hash>, TreeError> {
        let Some(newest) = self.nodes.newest(txn, height)? else { return Ok(None) };
        Ok(Some(prove::root_hash(&self.nodes.get(txn, &NodeKey::root(newest))?)))
    }

    /// Proves what the state after the block at `height` has for `key`: a value, whose hash is in the proof, or no value.
    ///
    /// # Errors
    /// [`TreeError::NoVersion`] if no block was applied at or below `height`; [`TreeError::Damaged`], [`TreeError::Key`],
    /// [`TreeError::Lmdb`].
    pub fn prove(&self, txn: &RoTxn<'_>, key: &[u8], height: u32) -> Result<Proof, TreeError> {
        let newest = self.nodes.newest(txn, height)?.ok_or(TreeError::NoVersion { height })?;
        prove::prove(&self.nodes, txn, NodeKey::root(newest), &Hash::of(key))
    }
}
