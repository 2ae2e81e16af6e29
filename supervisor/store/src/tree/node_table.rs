//! The table of stored nodes.

use std::ops::Bound;

use cofferdam_worker::state::Table;
use heed::types::Bytes;
use heed::{Env, PutFlags, RoTxn, RwTxn, WithoutTls};

use super::error::TreeError;
use super::stored_node::{self, Node, NodeKey};

/// Name of the table of nodes, the only table of the tree.
pub const TREE_NODES: &str = "tree-nodes";

/// A handle to the table. Every call works in the transaction that the caller gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeTable(pub(super) Table);

impl NodeTable {
    /// Opens the table, or creates it.
    pub(super) fn open(env: &Env<WithoutTls>, txn: &mut RwTxn<'_>) -> heed::Result<Self> {
        env.create_database::<Bytes, Bytes>(txn, Some(TREE_NODES)).map(Self)
    }

    /// The newest version at or below `height`: the height of a block that wrote nodes.
    pub(super) fn newest(&self, txn: &RoTxn<'_>, height: u32) -> Result<Option<u32>, TreeError> {
        let found = self.0.get_lower_than_or_equal_to(txn, &stored_node::last_key(height));
        let found = found.map_err(failed("looking for a version"))?;
        found.map(|(key, _)| stored_node::height_of(key)).transpose()
    }

    /// The node with this key.
    pub(super) fn get(&self, txn: &RoTxn<'_>, key: &NodeKey) -> Result<Node, TreeError> {
        let bytes = self.0.get(txn, key.encode().as_bytes()).map_err(failed("reading a node"))?;
        Node::decode(key, bytes.ok_or_else(|| key.damaged("is missing"))?)
    }

    /// Stores a node behind all others. LMDB then fills its pages completely and needs no search.
    pub(super) fn append(&self, txn: &mut RwTxn<'_>, key: &NodeKey, node: &Node) -> Result<(), TreeError> {
        let put = self.0.put_with_flags(txn, PutFlags::APPEND, key.encode().as_bytes(), &node.encode());
        put.map_err(failed("writing a node"))
    }

    /// Removes every node that a block above `height` wrote, or every node if `height` is none.
    pub(super) fn remove_above(&self, txn: &mut RwTxn<'_>, height: Option<u32>) -> Result<(), TreeError> {
        let removed = match height.map(stored_node::last_key) {
            Some(kept) => {
                let above = (Bound::Excluded(kept.as_slice()), Bound::Unbounded);
                self.0.delete_range(txn, &above).map(drop)
            }
            None => self.0.clear(txn),
        };
        removed.map_err(failed("removing nodes"))
    }
}

fn failed(operation: &'static str) -> impl Fn(heed::Error) -> TreeError {
    move |source| TreeError::Lmdb { operation, source }
}
