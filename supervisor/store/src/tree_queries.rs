//! The state tree of a store as callers see it: making a store with a tree, and reading roots and proofs.

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state;

use crate::error::StoreError;
use crate::failure::write_error;
use crate::store::Store;
use crate::tree::{Proof, Tree};
use crate::tree_feature;

/// A value with its proof.
#[derive(Clone, Debug)]
pub struct ProvenValue {
    /// The root of the state tree that the proof leads to.
    pub root: Hash,
    /// The value; none if the proof shows that the key has no value.
    pub value: Option<Vec<u8>>,
    /// The proof.
    pub proof: Proof,
}

impl Store {
    /// Keeps a tree over the newest value of every key, from which values can be proved ([`crate::tree`]). A store that was made
    /// with a tree always keeps the tree. Only a store without blocks can get a tree.
    ///
    /// # Errors
    /// [`StoreError::WithoutTree`] if the store has blocks that were committed without a tree; [`StoreError::Lmdb`].
    pub fn with_tree(mut self) -> Result<Self, StoreError> {
        if self.tree.is_some() {
            return Ok(self);
        }
        if let Some(tip) = self.tip()? {
            return Err(StoreError::WithoutTree { path: self.path, tip: tip.height });
        }
        let fail = |source| self.lmdb("making the state tree", write_error(&self.path, source));
        let mut txn = self.env.write_txn().map_err(fail)?;
        let tree = Tree::open(&self.env, &mut txn).map_err(fail)?;
        self.meta.put(&mut txn, state::TREE_KEY, &[]).map_err(fail)?;
        txn.commit().map_err(fail)?;
        self.tree = Some(tree);
        Ok(self)
    }

    /// The root of the state tree after the block at `height`; none if the store has no tree, or no block at or below
    /// `height`.
    ///
    /// # Errors
    /// [`StoreError::Tree`], [`StoreError::Lmdb`].
    pub fn tree_root(&self, height: u32) -> Result<Option<Hash>, StoreError> {
        let Some(tree) = self.tree else { return Ok(None) };
        let txn = self.env.read_txn().map_err(|source| self.lmdb("reading the state tree", source))?;
        tree.root(&txn, height).map_err(|source| tree_feature::error(&self.path, height, source))
    }

    /// The value of `key` after the block at `height`, with its proof and the root that the proof leads to; none if the store
    /// has no tree.
    ///
    /// # Errors
    /// [`StoreError::Tree`], [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn prove(&self, key: &[u8], height: u32) -> Result<Option<ProvenValue>, StoreError> {
        let Some(tree) = self.tree else { return Ok(None) };
        // One transaction, so that root, proof and value belong to the same state.
        let txn = self.env.read_txn().map_err(|source| self.lmdb("reading the state tree", source))?;
        let failed = |source| tree_feature::error(&self.path, height, source);
        let root = tree.root(&txn, height).map_err(failed)?;
        let proof = tree.prove(&txn, key, height).map_err(failed)?;
        let value = self.get_in(&txn, key, height)?;
        Ok(root.map(|root| ProvenValue { root, value, proof }))
    }
}
