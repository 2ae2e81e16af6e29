//! Proofs out of stored nodes: the way down to a key, and the hash of everything beside it.

use std::ops::Range;

use cofferdam_protocol::profile::Hash;
use heed::RoTxn;

use super::hashing::{EMPTY, Leaf, inner};
use super::node::{Child, Children, Node, Place, WIDTH};
use super::proof::Proof;
use super::{Tree, TreeError};

/// The root hash of a tree with this root node.
pub(super) fn root_hash(root: &Node) -> Hash {
    match root {
        Node::Empty => EMPTY,
        Node::Leaf(leaf) => leaf.hash(),
        Node::Inner(children) => subtree_hash(children, 0..WIDTH),
    }
}

/// Proves what the tree with its root in `place` holds for the key with this hash.
pub(super) fn prove(
    tree: &Tree,
    txn: &RoTxn<'_>,
    mut place: Place,
    key_hash: &Hash,
) -> Result<Proof, TreeError> {
    let mut siblings = Vec::new();
    // Ends, because every child is one nibble deeper, and nothing as deep as a whole key hash decodes as an inner node.
    loop {
        let children = match tree.get(txn, &place)? {
            Node::Empty => return Ok(Proof::new(None, siblings)),
            Node::Leaf(leaf) => return Ok(Proof::new(Some(leaf), siblings)),
            Node::Inner(children) => children,
        };
        let Some((nibble, child)) = descend(&children, place.path.next_of(key_hash), &mut siblings) else {
            return Ok(Proof::new(None, siblings));
        };
        place = Place { height: child.height, path: place.path.child(nibble) };
        if child.is_leaf {
            let leaf = expect_leaf(tree, txn, &place)?;
            return Ok(Proof::new(Some(leaf), siblings));
        }
    }
}

fn expect_leaf(tree: &Tree, txn: &RoTxn<'_>, place: &Place) -> Result<Leaf, TreeError> {
    match tree.get(txn, place)? {
        Node::Leaf(leaf) => Ok(leaf),
        Node::Empty | Node::Inner(_) => Err(place.damaged("is no leaf, though its parent says so")),
    }
}

/// Goes down the four levels of an inner node towards the child `nibble`, noting every sibling. Gives the child where
/// the way ends: an inner node, or the only leaf of a subtree, which may be that of another nibble; none where the
/// subtree is empty.
fn descend(children: &Children, nibble: u8, siblings: &mut Vec<Hash>) -> Option<(u8, Child)> {
    let target = usize::from(nibble);
    let mut range = 0..WIDTH;
    loop {
        if is_empty(children, &range) {
            return None;
        }
        if let Some((nibble, child)) = only(children, &range) {
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

/// The child whose hash is that of the whole range: the only child of a range of one, or a leaf that is alone.
fn only(children: &Children, range: &Range<usize>) -> Option<(usize, Child)> {
    let mut present = range.clone().filter_map(|nibble| Some((nibble, children[nibble]?)));
    let (nibble, child) = present.next()?;
    (present.next().is_none() && (child.is_leaf || range.len() == 1)).then_some((nibble, child))
}

fn subtree_hash(children: &Children, range: Range<usize>) -> Hash {
    if is_empty(children, &range) {
        return EMPTY;
    }
    if let Some((_, child)) = only(children, &range) {
        return child.hash;
    }
    let middle = range.start + range.len() / 2;
    inner(&subtree_hash(children, range.start..middle), &subtree_hash(children, middle..range.end))
}
