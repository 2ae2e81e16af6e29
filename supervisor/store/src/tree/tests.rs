//! Tests of the tree, in an LMDB environment of their own and with a second way to compute a root.

#![allow(unsafe_code, reason = "heed's open is unsafe: LMDB maps a file into memory")]

mod damage;
mod histories;
mod measure;
mod proofs;

use std::collections::BTreeMap;

use cofferdam_protocol::profile::Hash;
use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};
use proptest::prelude::*;
use tempfile::TempDir;

use super::hashing::{EMPTY, Leaf, goes_right, inner};
use super::*;

/// A block's pairs.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// The state after some block.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// An environment with a tree in it.
struct Fixture {
    env: Env<WithoutTls>,
    tree: Tree,
    _dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(1 << 34).max_dbs(1);
        // SAFETY: a directory of this test's own, which is deleted afterwards.
        unsafe { options.flags(EnvFlags::NO_SYNC) };
        // SAFETY: nobody else opens the directory.
        let env = unsafe { options.open(dir.path()) }.unwrap();
        let mut txn = env.write_txn().unwrap();
        let tree = Tree::open(&env, &mut txn).unwrap();
        txn.commit().unwrap();
        Self { env, tree, _dir: dir }
    }

    fn apply(&self, height: u32, pairs: &Pairs) -> Result<Hash, TreeError> {
        let mut txn = self.env.write_txn().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
        let root = self.tree.apply(&mut txn, height, &pairs)?;
        txn.commit().unwrap();
        Ok(root)
    }

    fn roll_back(&self, height: Option<u32>) {
        let mut txn = self.env.write_txn().unwrap();
        self.tree.roll_back(&mut txn, height).unwrap();
        txn.commit().unwrap();
    }

    fn root(&self, height: u32) -> Option<Hash> {
        self.tree.root(&self.env.read_txn().unwrap(), height).unwrap()
    }

    fn prove(&self, key: &[u8], height: u32) -> Result<Proof, TreeError> {
        self.tree.prove(&self.env.read_txn().unwrap(), key, height)
    }

    /// Every stored byte.
    fn entries(&self) -> Pairs {
        let txn = self.env.read_txn().unwrap();
        let entries = self.tree.nodes.0.iter(&txn).unwrap().map(Result::unwrap);
        entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }
}

/// The root of a state, computed from the definition of the tree: bit by bit, and without stored nodes.
fn plain_root(state: &State) -> Hash {
    let leaf =
        |(key, value): (&Vec<u8>, &Vec<u8>)| Leaf { key_hash: Hash::of(key), value_hash: Hash::of(value) };
    let leaves: Vec<Leaf> = state.iter().map(leaf).collect();
    plain_subtree(&leaves, 0)
}

fn plain_subtree(leaves: &[Leaf], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [leaf] => leaf.hash(),
        _ => {
            let (right, left): (Vec<Leaf>, Vec<Leaf>) =
                leaves.iter().partition(|leaf| goes_right(&leaf.key_hash, depth));
            inner(&plain_subtree(&left, depth + 1), &plain_subtree(&right, depth + 1))
        }
    }
}

/// Numbered keys, so few that keys are overwritten. The lengths that matter are zero and above LMDB's limit of 511.
fn key(number: u32) -> Vec<u8> {
    match number {
        0 => Vec::new(),
        1 => vec![0; 512],
        2 => vec![0xFF; 4000],
        _ => number.to_be_bytes().to_vec(),
    }
}

fn pairs(keys: u32, most: usize) -> impl Strategy<Value = Pairs> {
    let value = prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 1..40)];
    prop::collection::btree_map((0..keys).prop_map(key), value, 0..most)
        .prop_map(|pairs| pairs.into_iter().collect())
}

/// Blocks whose heights start anywhere and have gaps.
fn blocks(keys: u32, most: usize, count: usize) -> impl Strategy<Value = Vec<(u32, Pairs)>> {
    let block = (1u32..4, pairs(keys, most));
    let first = prop_oneof![Just(0u32), 1..10u32, Just(u32::MAX - 100)];
    (first, prop::collection::vec(block, 1..count)).prop_map(|(mut height, blocks)| {
        let place = |(gap, pairs)| {
            let block = (height, pairs);
            height += gap;
            block
        };
        blocks.into_iter().map(place).collect()
    })
}

/// The state after every block.
fn states(blocks: &[(u32, Pairs)]) -> Vec<(u32, State)> {
    let mut state = State::new();
    let apply = |(height, pairs): &(u32, Pairs)| {
        state.extend(pairs.iter().cloned());
        (*height, state.clone())
    };
    blocks.iter().map(apply).collect()
}

/// Two keys whose hashes begin with the same four nibbles, so that the tree has a chain of inner nodes below the root.
fn close_keys() -> [Vec<u8>; 2] {
    let mut seen = BTreeMap::new();
    for number in 100u32.. {
        let start = Hash::of(&key(number)).0[..2].to_vec();
        if let Some(other) = seen.insert(start, number) {
            return [key(other), key(number)];
        }
    }
    unreachable!("there are 65536 beginnings")
}
