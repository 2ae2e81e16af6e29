//! Replaces `tree_feature` in a build without the feature `tree`. A store that was made with a tree is refused, because this
//! build would commit values without updating the tree.

use std::convert::Infallible;
use std::path::Path;

use cofferdam_protocol::state;
use cofferdam_worker::state::Table;
use heed::{Env, RwTxn, WithoutTls};

use crate::error::StoreError;

/// There is no tree.
pub(crate) type Tree = Infallible;

/// Refuses a store that was made with a tree.
pub(crate) fn open(
    _env: &Env<WithoutTls>,
    txn: &mut RwTxn<'_>,
    meta: Table,
    fail: impl Fn(heed::Error) -> StoreError,
    path: &Path,
) -> Result<Option<Tree>, StoreError> {
    match meta.get(txn, state::TREE_KEY).map_err(fail)?.is_some() {
        true => Err(StoreError::TreeNotBuilt { path: path.to_owned() }),
        false => Ok(None),
    }
}

/// Does nothing, because there is no tree.
pub(crate) fn apply(
    tree: Option<Tree>,
    _txn: &mut RwTxn<'_>,
    _path: &Path,
    _height: u32,
    _pairs: &[(&[u8], &[u8])],
) -> Result<(), StoreError> {
    match tree {
        Some(never) => match never {},
        None => Ok(()),
    }
}

/// Does nothing, because there is no tree.
pub(crate) fn roll_back(
    tree: Option<Tree>,
    _txn: &mut RwTxn<'_>,
    _path: &Path,
    _lowest: u32,
    _fail: impl Fn(heed::Error) -> StoreError,
) -> Result<(), StoreError> {
    match tree {
        Some(never) => match never {},
        None => Ok(()),
    }
}
