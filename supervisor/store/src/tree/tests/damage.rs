//! Damaged nodes: they give errors, and neither our code nor `jmt` panics.

use prop::sample::Index;

use super::stored_node::{Node, NodeKey};
use super::*;

/// A kind of damage to a stored node.
#[derive(Clone, Debug)]
enum Harm {
    Bit(Index),
    Cut(Index),
    Byte(Index, u8),
    Other(Index),
    Removed,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        any::<Index>().prop_map(Harm::Bit),
        any::<Index>().prop_map(Harm::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Byte(at, byte)),
        any::<Index>().prop_map(Harm::Other),
        Just(Harm::Removed),
    ]
}

impl Harm {
    /// The bytes of entry `number` after the damage; none if the entry is removed.
    fn apply(&self, entries: &Pairs, number: usize) -> Option<Vec<u8>> {
        let mut bytes = entries[number].1.clone();
        match self {
            Self::Bit(bit) => {
                let bit = bit.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Self::Cut(length) => bytes.truncate(length.index(bytes.len())),
            // The first bytes have the most influence on decoding.
            Self::Byte(at, byte) => {
                let at = at.index(bytes.len().min(8));
                bytes[at] = *byte;
            }
            Self::Other(other) => bytes = entries[other.index(entries.len())].1.clone(),
            Self::Removed => return None,
        }
        Some(bytes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_damaged_tree_gives_errors(at: Index, harm in harm(), close: bool) {
        let fixture = Fixture::new();
        if close {
            fixture.apply(0, &close_keys().map(|key| (key, vec![])).into()).unwrap();
        }
        for height in 1..5 {
            let block = (height * 20..height * 20 + 40).map(|number| (key(number), vec![1])).collect();
            fixture.apply(height, &block).unwrap();
        }
        let entries = fixture.entries();
        let number = at.index(entries.len());
        let mut txn = fixture.env.write_txn().unwrap();
        let harmed = match harm.apply(&entries, number) {
            Some(bytes) => fixture.tree.nodes.0.put(&mut txn, &entries[number].0, &bytes),
            None => fixture.tree.nodes.0.delete(&mut txn, &entries[number].0).map(|_| ()),
        };
        harmed.unwrap();
        txn.commit().unwrap();

        for height in 0..5 {
            let txn = fixture.env.read_txn().unwrap();
            let _ = fixture.tree.root(&txn, height);
            (0..130).for_each(|number| drop(fixture.prove(&key(number), height)));
        }
        let all = (0..200).map(|number| (key(number), vec![2])).collect();
        let _ = fixture.apply(5, &all);
    }

    #[test]
    fn bytes_that_decode_encode_to_the_same_bytes(bytes: Vec<u8>, start in 0u8..4, height: u32) {
        let bytes = [vec![start], bytes].concat();
        if let Ok(node) = Node::decode(&NodeKey::root(height), &bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }

    #[test]
    fn foreign_keys_in_the_table_are_reported(key in prop::collection::vec(any::<u8>(), 1..8)) {
        let fixture = Fixture::new();
        let mut txn = fixture.env.write_txn().unwrap();
        fixture.tree.nodes.0.put(&mut txn, &key, b"").unwrap();
        txn.commit().unwrap();
        let txn = fixture.env.read_txn().unwrap();
        if let Some(root) = fixture.tree.root(&txn, u32::MAX - 1).err() {
            prop_assert!(matches!(root, TreeError::Key { .. } | TreeError::Damaged { .. }), "{root}");
        }
    }
}

#[test]
fn damage_is_reported_with_its_path() {
    let fixture = Fixture::new();
    fixture.apply(3, &(0..40).map(|number| (key(number), vec![1])).collect()).unwrap();
    let inner = fixture.entries()[1].0.clone();
    let mut txn = fixture.env.write_txn().unwrap();
    fixture.tree.nodes.0.delete(&mut txn, &inner).unwrap();
    txn.commit().unwrap();
    let digit = format!("{:x}", inner[5] >> 4);
    let below = (0..40).map(key).find(|key| Hash::of(key).to_string().starts_with(&digit)).unwrap();
    let proven = fixture.prove(&below, 3).unwrap_err();
    let applied = fixture.apply(4, &vec![(below, vec![2])]).unwrap_err();
    for error in [proven, applied] {
        assert!(matches!(&error, TreeError::Damaged { height: 3, path, .. } if *path == digit), "{error}");
    }
}
