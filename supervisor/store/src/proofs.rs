//! The state tree of a store: kept with every commit and rollback, and read for proofs.

use std::path::Path;

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state;
use cofferdam_worker::state::Table;
use heed::{Env, RwTxn, WithoutTls};

pub(crate) use crate::tree::Tree;
use crate::tree::{Proof, TreeError};
use crate::trouble::of_write;
use crate::{Store, StoreError};

/// What a state tree proves.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The root that the proof is against.
    pub root: Hash,
    /// The value; none if the proof is that there is none.
    pub value: Option<Vec<u8>>,
    /// The proof.
    pub proof: Proof,
}

/// Opens the tree of a store that was made with one.
pub(crate) fn open(
    env: &Env<WithoutTls>,
    txn: &mut RwTxn<'_>,
    meta: Table,
    fail: impl Fn(heed::Error) -> StoreError,
    _path: &Path,
) -> Result<Option<Tree>, StoreError> {
    match meta.get(txn, state::TREE_KEY).map_err(&fail)?.is_some() {
        true => Tree::open(env, txn).map(Some).map_err(fail),
        false => Ok(None),
    }
}

impl Store {
    /// Keeps a tree over the newest value of every key, by which they can be proved ([`crate::tree`]). A store that was made
    /// with one always does; a new one can be told to.
    ///
    /// # Errors
    /// [`StoreError::WithoutTree`] if blocks were committed without; [`StoreError::Lmdb`].
    pub fn with_tree(mut self) -> Result<Self, StoreError> {
        if self.tree.is_some() {
            return Ok(self);
        }
        if let Some(tip) = self.tip()? {
            return Err(StoreError::WithoutTree { path: self.path, tip: tip.height });
        }
        let fail = |source| StoreError::Lmdb {
            path: self.path.clone(),
            doing: "making the state tree",
            source: of_write(&self.path, source),
        };
        let mut txn = self.env.write_txn().map_err(fail)?;
        let tree = Tree::open(&self.env, &mut txn).map_err(fail)?;
        self.meta.put(&mut txn, state::TREE_KEY, &[]).map_err(fail)?;
        txn.commit().map_err(fail)?;
        self.tree = Some(tree);
        Ok(self)
    }

    /// The root of the state tree after the block at `height`; none if there is no tree, or no block yet.
    ///
    /// # Errors
    /// [`StoreError::Tree`], [`StoreError::Lmdb`].
    pub fn tree_root(&self, height: u32) -> Result<Option<Hash>, StoreError> {
        let Some(tree) = self.tree else { return Ok(None) };
        let txn = self.env.read_txn().map_err(|source| self.lmdb("reading the state tree", source))?;
        tree.root(&txn, height).map_err(|source| self.tree_error(height, source))
    }

    /// What is stored under `key` after the block at `height`, with the proof of it and the root that it is against; none if
    /// there is no tree.
    ///
    /// # Errors
    /// [`StoreError::Tree`], [`StoreError::Damaged`], [`StoreError::Lmdb`].
    pub fn prove(&self, key: &[u8], height: u32) -> Result<Option<Proven>, StoreError> {
        let Some(tree) = self.tree else { return Ok(None) };
        // All of one moment.
        let txn = self.env.read_txn().map_err(|source| self.lmdb("reading the state tree", source))?;
        let root = tree.root(&txn, height).map_err(|source| self.tree_error(height, source))?;
        let proof = tree.prove(&txn, key, height).map_err(|source| self.tree_error(height, source))?;
        let value = self.get_in(&txn, key, height)?;
        Ok(root.map(|root| Proven { root, value, proof }))
    }

    /// Applies a block's pairs to the tree, if there is one.
    pub(crate) fn apply_to_tree(
        &self,
        txn: &mut RwTxn<'_>,
        height: u32,
        pairs: &[(&[u8], &[u8])],
    ) -> Result<(), StoreError> {
        let Some(tree) = self.tree else { return Ok(()) };
        tree.apply(txn, height, pairs).map(drop).map_err(|source| self.tree_error(height, source))
    }

    /// Rolls the tree back to the block below `lowest`, if there is a tree.
    pub(crate) fn roll_tree_back(
        &self,
        txn: &mut RwTxn<'_>,
        lowest: u32,
        fail: impl Fn(heed::Error) -> StoreError,
    ) -> Result<(), StoreError> {
        let Some(tree) = self.tree else { return Ok(()) };
        tree.rollback(txn, lowest.checked_sub(1)).map_err(|source| match source {
            TreeError::Lmdb { source, .. } => fail(source),
            source => self.tree_error(lowest, source),
        })
    }

    fn tree_error(&self, height: u32, source: TreeError) -> StoreError {
        match source {
            TreeError::Lmdb { source, .. } => StoreError::NotWritten {
                path: self.path.clone(),
                height,
                source: of_write(&self.path, source),
            },
            source => StoreError::Tree { path: self.path.clone(), height, source },
        }
    }
}
