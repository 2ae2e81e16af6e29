//! New nodes for a block's pairs, worked out by the `jmt` crate.
//!
//! The crate reads and gives nodes as its own types, whose parts cannot all be named outside of it but have a documented
//! encoding, `borsh`; [`to_jmt`] and [`from_jmt`] go through that. Its encoding is not what is stored, because it is
//! larger by two fifths and may decode to nodes on which the crate panics.

use anyhow::bail;
use cofferdam_protocol::profile::Hash;
use heed::RoTxn;
use jmt::storage::{LeafNode, Node as JmtNode, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue, SimpleHasher, ValueHash, Version};
use sha2::{Digest, Sha256};

use super::hashing::Leaf;
use super::node::{Child, Children, Node, Path, Place, WIDTH};
use super::{Tree, TreeError};

/// What a block makes of the tree.
pub(super) struct Update {
    pub(super) root: Hash,
    /// The new nodes, in the order of their keys.
    pub(super) nodes: Vec<(Place, Node)>,
}

/// The update that `pairs`, of which there must be some, are to the tree with the root node `root`.
pub(super) fn update(
    tree: &Tree,
    txn: &RoTxn<'_>,
    root: &Node,
    height: u32,
    pairs: &[(&[u8], &[u8])],
) -> Result<Update, TreeError> {
    // An error of the reader's comes back through the crate as it was.
    let refused = |source: anyhow::Error| match source.downcast() {
        Ok(own) => own,
        Err(source) => TreeError::Refused { height, source },
    };
    let reader = Reader { tree, txn, root: to_jmt(root).map_err(refused)? };
    let pairs = pairs.iter().map(|(key, value)| (KeyHash(Hash::of(key).0), value.to_vec())).collect();
    let jmt = JellyfishMerkleTree::<_, JmtSha256>::new(&reader);
    let (roots, batch) =
        jmt.batch_put_value_sets(vec![pairs], None, Version::from(height)).map_err(refused)?;
    let [root] = roots.as_slice() else {
        return Err(refused(anyhow::anyhow!("{} roots for one block", roots.len())));
    };
    let new = |(key, node): (&NodeKey, &JmtNode)| anyhow::Ok((place(key)?, from_jmt(node)?));
    let nodes = batch.node_batch.nodes().iter().map(new).collect::<anyhow::Result<_>>().map_err(refused)?;
    Ok(Update { root: Hash(root.0), nodes })
}

/// What `jmt` sees of the tree while it works out one block.
struct Reader<'r> {
    tree: &'r Tree,
    txn: &'r RoTxn<'r>,
    root: JmtNode,
}

impl TreeReader for Reader<'_> {
    /// For `jmt` every version has the one before it, whose root it starts from. Heights have gaps, and a first one;
    /// so whichever root it asks for, it is given the newest.
    fn get_node_option(&self, key: &NodeKey) -> anyhow::Result<Option<JmtNode>> {
        if key.nibble_path().is_empty() {
            return Ok(Some(self.root.clone()));
        }
        // No other node is asked for but those that a stored one names, so one that is missing is damage.
        to_jmt(&self.tree.get(self.txn, &place(key)?)?).map(Some)
    }

    fn get_value_option(&self, _: Version, _: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        bail!("an update reads no values")
    }

    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        bail!("an update does not restore a tree")
    }
}

/// SHA-256 by the release of `sha2` that everything else here uses.
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

fn place(key: &NodeKey) -> anyhow::Result<Place> {
    let path = key.nibble_path().nibbles().fold(Path::default(), |path, nibble| path.child(nibble.into()));
    Ok(Place { height: u32::try_from(key.version())?, path })
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

/// An inner node as `borsh` encodes jmt's `InternalNode`: 16 optional children, how many there are, and how many leaves
/// are below. No hash depends on the leaves' number, and nothing here asks for it, so it is left at zero.
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
