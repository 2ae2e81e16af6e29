//! The bytes of a stored node, and the bytes of the key that the node is stored under.
//!
//! A node represents the subtree below a [`NibblePath`] and covers four levels. A block writes every node on the path from the
//! root to each value that the block changed, and no node is changed later. So two values identify a node: the height of the
//! block that wrote the node, and the path of the node. The bytes are:
//!
//! - key: height (u32 big-endian) ‖ nibbles in the path (1 byte) ‖ the nibbles, two to a byte, high one first;
//! - an empty tree: `00`; only a root can be an empty tree;
//! - a leaf: `01` ‖ SHA-256 of the key ‖ SHA-256 of the value;
//! - an inner node: `02` ‖ a bitmap of the children that exist ‖ a bitmap of the children that are leaves (u16 big-endian
//!   each, child 0 is the lowest bit) ‖ for every child its hash and the height that wrote it (u32 big-endian).
//!
//! The keys are ordered by block, and the first node of a block is its root. So new nodes are appended to the table, and the
//! nodes of a block and all later blocks are one range. Decoding never panics, and accepts only what encoding can produce.

use std::fmt;

use cofferdam_protocol::profile::Hash;

use super::error::TreeError;
use super::hashing::Leaf;

/// Number of children of an inner node: one for each value of a nibble.
pub(super) const WIDTH: usize = 16;

/// Number of nibbles in a whole key hash.
const NIBBLES: usize = 64;

const HEIGHT_BYTES: usize = 4;
const KEY_BYTES: usize = HEIGHT_BYTES + 1 + NIBBLES / 2;

const EMPTY_TAG: u8 = 0;
const LEAF_TAG: u8 = 1;
const INNER_TAG: u8 = 2;

/// The path from the root to a node: the nibbles that all key hashes below the node begin with.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NibblePath {
    bytes: [u8; NIBBLES / 2],
    length: usize,
}

impl NibblePath {
    /// The path of the child `nibble`. Only an inner node has children, and no inner node is as deep as a whole key hash.
    pub(super) fn child(mut self, nibble: u8) -> Self {
        if let Some(byte) = self.bytes.get_mut(self.length / 2) {
            *byte |= if self.length.is_multiple_of(2) { nibble << 4 } else { nibble };
            self.length += 1;
        }
        self
    }

    /// The nibble of `key_hash` that follows this path.
    pub(super) fn next_of(&self, key_hash: &Hash) -> u8 {
        let byte = key_hash.0.get(self.length / 2).copied().unwrap_or_default();
        if self.length.is_multiple_of(2) { byte >> 4 } else { byte & 0x0F }
    }

    /// Whether `key_hash` begins with this path.
    fn is_prefix_of(&self, key_hash: &Hash) -> bool {
        let mut prefix = Self::default();
        while prefix.length < self.length {
            prefix = prefix.child(prefix.next_of(key_hash));
        }
        prefix == *self
    }
}

impl fmt::Display for NibblePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
        digits.take(self.length).try_for_each(|digit| write!(f, "{digit:x}"))
    }
}

/// The identity of a node: the block that wrote it, and its path.
#[derive(Clone, Copy)]
pub(super) struct NodeKey {
    pub(super) height: u32,
    pub(super) path: NibblePath,
}

impl NodeKey {
    pub(super) fn root(height: u32) -> Self {
        Self { height, path: NibblePath::default() }
    }

    pub(super) fn damaged(&self, reason: &'static str) -> TreeError {
        TreeError::Damaged { height: self.height, path: self.path.to_string(), reason }
    }

    /// The bytes that the node is stored under.
    pub(super) fn encode(&self) -> EncodedKey {
        let mut bytes = [0; KEY_BYTES];
        let packed = self.path.length.div_ceil(2);
        let (height, rest) = bytes.split_at_mut(HEIGHT_BYTES);
        height.copy_from_slice(&self.height.to_be_bytes());
        rest[0] = u8::try_from(self.path.length).unwrap_or(u8::MAX);
        rest[1..=packed].copy_from_slice(&self.path.bytes[..packed]);
        EncodedKey { bytes, length: HEIGHT_BYTES + 1 + packed }
    }
}

/// The bytes of a [`NodeKey`].
pub(super) struct EncodedKey {
    bytes: [u8; KEY_BYTES],
    length: usize,
}

impl EncodedKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A key that sorts after every key of the block at `height` and before the keys of all later blocks: no path has 255 nibbles.
pub(super) fn last_key(height: u32) -> [u8; HEIGHT_BYTES + 1] {
    let mut key = [0xFF; HEIGHT_BYTES + 1];
    key[..HEIGHT_BYTES].copy_from_slice(&height.to_be_bytes());
    key
}

/// The height of the block that wrote the node with this key.
pub(super) fn height_of(key: &[u8]) -> Result<u32, TreeError> {
    let height = key.first_chunk().ok_or(TreeError::Key { length: key.len() })?;
    Ok(u32::from_be_bytes(*height))
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Empty,
    Leaf(Leaf),
    Inner(Box<Children>),
}

/// The children of an inner node, by nibble.
pub(super) type Children = [Option<Child>; WIDTH];

/// A child as its parent stores it. The path of the child is the path of the parent and one more nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) hash: Hash,
    /// Height of the block that wrote the child.
    pub(super) height: u32,
    pub(super) is_leaf: bool,
}

impl Node {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Empty => vec![EMPTY_TAG],
            Self::Leaf(leaf) => [&[LEAF_TAG], leaf.key_hash.0.as_slice(), &leaf.value_hash.0].concat(),
            Self::Inner(children) => encode_inner(children),
        }
    }

    /// Decodes the node with this key from the bytes that [`Node::encode`] returned.
    ///
    /// # Errors
    /// [`TreeError::Damaged`] if [`Node::encode`] cannot have returned these bytes for a node with this key.
    pub(super) fn decode(key: &NodeKey, bytes: &[u8]) -> Result<Self, TreeError> {
        let node = match bytes.split_first() {
            Some((&EMPTY_TAG, [])) if key.path.length == 0 => Some(Self::Empty),
            Some((&LEAF_TAG, rest)) => decode_leaf(key, rest).map(Self::Leaf),
            Some((&INNER_TAG, rest)) if key.path.length < NIBBLES => {
                decode_inner(key, rest).map(Box::new).map(Self::Inner)
            }
            _ => None,
        };
        node.ok_or_else(|| key.damaged("cannot be decoded"))
    }
}

fn decode_leaf(key: &NodeKey, bytes: &[u8]) -> Option<Leaf> {
    let (&key_hash, rest) = bytes.split_first_chunk()?;
    let leaf = Leaf { key_hash: Hash(key_hash), value_hash: Hash(rest.try_into().ok()?) };
    key.path.is_prefix_of(&leaf.key_hash).then_some(leaf)
}

fn encode_inner(children: &Children) -> Vec<u8> {
    let bitmap = |is_set: fn(&Child) -> bool| {
        let bits = children.iter().enumerate().filter(|(_, child)| child.as_ref().is_some_and(is_set));
        bits.fold(0u16, |bitmap, (nibble, _)| bitmap | 1 << nibble)
    };
    let (present, leaves) = (bitmap(|_| true), bitmap(|child| child.is_leaf));
    let mut bytes = vec![INNER_TAG];
    bytes.extend_from_slice(&present.to_be_bytes());
    bytes.extend_from_slice(&leaves.to_be_bytes());
    for child in children.iter().flatten() {
        bytes.extend_from_slice(&child.hash.0);
        bytes.extend_from_slice(&child.height.to_be_bytes());
    }
    bytes
}

fn decode_inner(key: &NodeKey, bytes: &[u8]) -> Option<Children> {
    let (&present, rest) = bytes.split_first_chunk()?;
    let (&leaves, mut rest) = rest.split_first_chunk()?;
    let (present, leaves) = (u16::from_be_bytes(present), u16::from_be_bytes(leaves));
    // An only child is never a leaf: the leaf would have replaced its parent.
    if leaves & !present != 0 || present == 0 || (present.count_ones() == 1 && leaves != 0) {
        return None;
    }
    let mut children = [None; WIDTH];
    for (nibble, child) in children.iter_mut().enumerate().filter(|(nibble, _)| present >> nibble & 1 == 1) {
        let (&hash, after_hash) = rest.split_first_chunk()?;
        let (&height, after_height) = after_hash.split_first_chunk()?;
        let (height, is_leaf) = (u32::from_be_bytes(height), leaves >> nibble & 1 == 1);
        *child = (height <= key.height).then_some(Child { hash: Hash(hash), height, is_leaf });
        child.as_ref()?;
        rest = after_height;
    }
    rest.is_empty().then_some(children)
}
