//! What stands in for the state tree in a build without the feature `tree`: a store that was made with a tree is refused, because
//! the tree would fall behind the values.

use std::convert::Infallible;
use std::path::Path;

use cofferdam_protocol::state;
use cofferdam_worker::state::Table;
use heed::{Env, RwTxn, WithoutTls};

use crate::{Store, StoreError};

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

impl Store {
    /// Does nothing: there is no tree.
    pub(crate) fn apply_to_tree(
        &self,
        _txn: &mut RwTxn<'_>,
        _height: u32,
        _pairs: &[(&[u8], &[u8])],
    ) -> Result<(), StoreError> {
        match self.tree {
            Some(never) => match never {},
            None => Ok(()),
        }
    }

    /// Does nothing: there is no tree.
    pub(crate) fn roll_tree_back(
        &self,
        _txn: &mut RwTxn<'_>,
        _lowest: u32,
        _fail: impl Fn(heed::Error) -> StoreError,
    ) -> Result<(), StoreError> {
        match self.tree {
            Some(never) => match never {},
            None => Ok(()),
        }
    }
}
