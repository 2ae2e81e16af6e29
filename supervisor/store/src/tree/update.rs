//! Computes the new nodes for a block's pairs with the `jmt` crate.
//!
//! `jmt` reads and returns nodes in its own types. Not all parts of these types can be named outside of `jmt`, but they have a
//! documented encoding, `borsh`, and [`to_jmt`] and [`from_jmt`] use that encoding. The store does not use `borsh`, because nodes
//! in `borsh` are longer by two fifths, and because damaged `borsh` bytes may decode to nodes on which `jmt` panics.

use anyhow::bail;
use cofferdam_protocol::profile::Hash;
use heed::RoTxn;
use jmt::storage::{LeafNode, Node as JmtNode, NodeKey as JmtNodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, SimpleHasher, ValueHash, Version};
use sha2::{Digest, Sha256};

use super::error::TreeError;
use super::hashing::Leaf;
use super::node_table::NodeTable;
use super::stored_node::{Child, Children, NibblePath, Node, NodeKey, WIDTH};

/// The change that a block makes to the tree.
pub(super) struct Update {
    pub(super) root: Hash,
    /// The new nodes, in the order of their keys.
    pub(super) nodes: Vec<(NodeKey, Node)>,
}

/// Computes the update that `pairs` make to the tree with the root node `root`. There must be at least one pair.
pub(super) fn update(
    nodes: &NodeTable,
    txn: &RoTxn<'_>,
    root: &Node,
    height: u32,
    pairs: &[(&[u8], &[u8])],
) -> Result<Update, TreeError> {
    // An error of `Reader` comes back from `jmt` unchanged.
    let refused = |source: anyhow::Error| match source.downcast() {
        Ok(own) => own,
        Err(source) => TreeError::Refused { height, source },
    };
    let reader = Reader { nodes, txn, root: to_jmt(root).map_err(refused)? };
    let pairs = pairs.iter().map(|(key, value)| (KeyHash(Hash::of(key).0), value.to_vec())).collect();
    let jmt = JellyfishMerkleTree::<_, JmtSha256>::new(&reader);
    let (roots, batch) =
        jmt.batch_put_value_sets(vec![pairs], None, Version::from(height)).map_err(refused)?;
    let [root] = roots.as_slice() else {
        return Err(refused(anyhow::anyhow!("{} roots for one block", roots.len())));
    };
    let new = |(key, node): (&JmtNodeKey, &JmtNode)| anyhow::Ok((node_key(key)?, from_jmt(node)?));
    let nodes = batch.node_batch.nodes().iter().map(new).collect::<anyhow::Result<_>>().map_err(refused)?;
    Ok(Update { root: Hash(root.0), nodes })
}

/// The part of the tree that `jmt` reads while it computes the update of one block.
struct Reader<'r> {
    nodes: &'r NodeTable,
    txn: &'r RoTxn<'r>,
    root: JmtNode,
}

impl TreeReader for Reader<'_> {
    /// `jmt` starts from the root of the version `height - 1`. Heights have gaps, and the first block has no version before it.
    /// So the reader returns the newest root, whichever root `jmt` asks for.
    fn get_node_option(&self, key: &JmtNodeKey) -> anyhow::Result<Option<JmtNode>> {
        if key.nibble_path().is_empty() {
            return Ok(Some(self.root.clone()));
        }
        // `jmt` asks only for nodes that a stored node refers to, so a missing node means that the tree is damaged.
        to_jmt(&self.nodes.get(self.txn, &node_key(key)?)?).map(Some)
    }

    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        bail!("an update reads no values")
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(JmtNodeKey, LeafNode)>> {
        bail!("an update does not restore a tree")
    }
}

/// SHA-256 from the version of `sha2` that the rest of Cofferdam uses.
struct JmtSha256(Sha256);

impl SimpleHasher for JmtSha256 {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

fn node_key(key: &JmtNodeKey) -> anyhow::Result<NodeKey> {
    let path =
        key.nibble_path().nibbles().fold(NibblePath::default(), |path, nibble| path.child(nibble.into()));
    Ok(NodeKey { height: u32::try_from(key.version())?, path })
}

fn to_jmt(node: &Node) -> anyhow::Result<JmtNode> {
    Ok(match node {
        Node::Empty => JmtNode::Null,
        Node::Leaf(Leaf { key_hash, value_hash }) => {
            JmtNode::Leaf(LeafNode::new(KeyHash(key_hash.0), ValueHash(value_hash.0)))
        }
        Node::Inner(children) => JmtNode::Internal(borsh::from_slice(&borsh_inner(children))?),
    })
}

/// An inner node in the `borsh` encoding of jmt's `InternalNode`: 16 optional children, the number of children, and the number
/// of leaves below. No hash depends on the number of leaves, and nothing here reads it, so it is always zero.
fn borsh_inner(children: &Children) -> Vec<u8> {
    const NO_COUNT: [u8; 8] = [0; 8];
    let mut bytes = Vec::with_capacity(WIDTH * 50 + 16);
    for child in children {
        let Some(child) = child else {
            bytes.push(0);
            continue;
        };
        bytes.push(1);
        bytes.extend_from_slice(&child.hash.0);
        bytes.extend_from_slice(&Version::from(child.height).to_le_bytes());
        bytes.push(u8::from(!child.is_leaf));
        if !child.is_leaf {
            bytes.extend_from_slice(&NO_COUNT);
        }
    }
    bytes.extend_from_slice(&(children.iter().flatten().count() as u64).to_le_bytes());
    bytes.extend_from_slice(&NO_COUNT);
    bytes
}

fn from_jmt(node: &JmtNode) -> anyhow::Result<Node> {
    Ok(match node {
        JmtNode::Null => Node::Empty,
        JmtNode::Leaf(leaf) => {
            let (key_hash, value_hash) = borsh::from_slice(&borsh::to_vec(leaf)?)?;
            Node::Leaf(Leaf { key_hash: Hash(key_hash), value_hash: Hash(value_hash) })
        }
        JmtNode::Internal(inner) => {
            let mut children = [None; WIDTH];
            for (nibble, child) in inner.children_sorted() {
                let (hash, height) = (Hash(child.hash), u32::try_from(child.version)?);
                children[nibble.as_usize()] = Some(Child { hash, height, is_leaf: child.is_leaf() });
            }
            Node::Inner(Box::new(children))
        }
    })
}
