//! Keeps the state tree in step with the store: opens the tree, applies each block, and rolls blocks back. A build without the
//! feature `tree` uses `no_tree_feature` in place of this file.

use std::path::Path;

use cofferdam_protocol::state;
use cofferdam_worker::state::Table;
use heed::{Env, RwTxn, WithoutTls};

use crate::error::StoreError;
use crate::failure::write_error;
pub(crate) use crate::tree::Tree;
use crate::tree::TreeError;

/// Opens the tree of a store that was made with one; none if the store has no tree.
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

/// Applies the pairs of the block at `height` to the tree, if the store has one.
pub(crate) fn apply(
    tree: Option<Tree>,
    txn: &mut RwTxn<'_>,
    path: &Path,
    height: u32,
    pairs: &[(&[u8], &[u8])],
) -> Result<(), StoreError> {
    let Some(tree) = tree else { return Ok(()) };
    tree.apply(txn, height, pairs).map(drop).map_err(|source| error(path, height, source))
}

/// Rolls the tree back to the block below `lowest`, if the store has a tree.
pub(crate) fn roll_back(
    tree: Option<Tree>,
    txn: &mut RwTxn<'_>,
    path: &Path,
    lowest: u32,
    fail: impl Fn(heed::Error) -> StoreError,
) -> Result<(), StoreError> {
    let Some(tree) = tree else { return Ok(()) };
    tree.roll_back(txn, lowest.checked_sub(1)).map_err(|source| match source {
        TreeError::Lmdb { source, .. } => fail(source),
        source => error(path, lowest, source),
    })
}

/// The store's error for an error of the tree at `height`.
pub(crate) fn error(path: &Path, height: u32, source: TreeError) -> StoreError {
    match source {
        TreeError::Lmdb { source, .. } => {
            StoreError::NotWritten { path: path.to_owned(), height, source: write_error(path, source) }
        }
        source => StoreError::Tree { path: path.to_owned(), height, source },
    }
}
