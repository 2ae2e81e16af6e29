//! Makes proofs from stored nodes: walks from the root to a key and collects the hash of every subtree beside the path.

use std::ops::Range;

use cofferdam_protocol::profile::Hash;
use heed::RoTxn;

use super::error::TreeError;
use super::hashing::{EMPTY, Leaf, inner};
use super::node_table::NodeTable;
use super::proof::Proof;
use super::stored_node::{Child, Children, Node, NodeKey, WIDTH};

/// The root hash of a tree with this root node.
pub(super) fn root_hash(root: &Node) -> Hash {
    match root {
        Node::Empty => EMPTY,
        Node::Leaf(leaf) => leaf.hash(),
        Node::Inner(children) => subtree_hash(children, 0..WIDTH),
    }
}

/// Proves what the tree whose root has the key `node_key` holds for the key with the hash `key_hash`.
pub(super) fn prove(
    nodes: &NodeTable,
    txn: &RoTxn<'_>,
    mut node_key: NodeKey,
    key_hash: &Hash,
) -> Result<Proof, TreeError> {
    let mut siblings = Vec::new();
    // The loop ends because every child is one nibble deeper, and nothing as deep as a whole key hash decodes as an inner node.
    loop {
        let children = match nodes.get(txn, &node_key)? {
            Node::Empty => return Ok(Proof::new(None, siblings)),
            Node::Leaf(leaf) => return Ok(Proof::new(Some(leaf), siblings)),
            Node::Inner(children) => children,
        };
        let Some((nibble, child)) = descend(&children, node_key.path.next_of(key_hash), &mut siblings) else {
            return Ok(Proof::new(None, siblings));
        };
        node_key = NodeKey { height: child.height, path: node_key.path.child(nibble) };
        if child.is_leaf {
            let leaf = expect_leaf(nodes, txn, &node_key)?;
            return Ok(Proof::new(Some(leaf), siblings));
        }
    }
}

fn expect_leaf(nodes: &NodeTable, txn: &RoTxn<'_>, node_key: &NodeKey) -> Result<Leaf, TreeError> {
    match nodes.get(txn, node_key)? {
        Node::Leaf(leaf) => Ok(leaf),
        Node::Empty | Node::Inner(_) => {
            Err(node_key.damaged("is not a leaf, although its parent says that it is"))
        }
    }
}

/// Walks down the four levels of an inner node towards the child `nibble` and adds the sibling at each level to `siblings`.
/// Returns the child at the end of the path: an inner node, or the only leaf of a subtree, which may belong to another nibble.
/// Returns none if the subtree is empty.
fn descend(children: &Children, nibble: u8, siblings: &mut Vec<Hash>) -> Option<(u8, Child)> {
    let target = usize::from(nibble);
    let mut range = 0..WIDTH;
    loop {
        if is_empty(children, &range) {
            return None;
        }
        if let Some((nibble, child)) = sole_child(children, &range) {
            return Some((u8::try_from(nibble).ok()?, child));
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = (range.start..middle, middle..range.end);
        let (next, sibling) = if right.contains(&target) { (right, left) } else { (left, right) };
        siblings.push(subtree_hash(children, sibling));
        range = next;
    }
}

fn is_empty(children: &Children, range: &Range<usize>) -> bool {
    children[range.clone()].iter().all(Option::is_none)
}

/// The child whose hash is the hash of the whole range: the child of a range of one, or the only child if it is a leaf.
fn sole_child(children: &Children, range: &Range<usize>) -> Option<(usize, Child)> {
    let mut present = range.clone().filter_map(|nibble| Some((nibble, children[nibble]?)));
    let (nibble, child) = present.next()?;
    (present.next().is_none() && (child.is_leaf || range.len() == 1)).then_some((nibble, child))
}

fn subtree_hash(children: &Children, range: Range<usize>) -> Hash {
    if is_empty(children, &range) {
        return EMPTY;
    }
    if let Some((_, child)) = sole_child(children, &range) {
        return child.hash;
    }
    let middle = range.start + range.len() / 2;
    inner(&subtree_hash(children, range.start..middle), &subtree_hash(children, middle..range.end))
}
