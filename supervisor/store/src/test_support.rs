//! Helpers for the tests of this crate.

use cofferdam_protocol::profile::Hash;
use cofferdam_protocol::state::BlockRecord;
use cofferdam_protocol::verdict::GuestVerdict;
use cofferdam_protocol::writes::{Writes, put_field};
use tempfile::TempDir;

use crate::error::StoreError;
use crate::identity::{Durability, Identity};
use crate::store::Store;

/// Keys and values.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn identity() -> Identity {
    Identity { profile: Hash::of(b"profile"), network: None }
}

pub(crate) fn open(dir: &TempDir) -> Result<Store, StoreError> {
    Store::open(dir.path(), &identity(), Durability::None)
}

pub(crate) fn writes<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> Writes {
    let mut bytes = Vec::new();
    for (key, value) in pairs {
        for field in [key.as_ref(), value.as_ref()] {
            let mut encoded = vec![0; 4 + field.len()];
            assert!(put_field(&mut encoded, field).unwrap().is_empty());
            bytes.extend_from_slice(&encoded);
        }
    }
    Writes::parse(bytes).unwrap()
}

pub(crate) fn record(height: u32, writes: &Writes) -> BlockRecord {
    BlockRecord {
        height,
        hash: Hash::of(&height.to_le_bytes()).0,
        digest: Hash::of(&height.to_be_bytes()),
        verdict: GuestVerdict::Completed,
        writes: writes.count(),
        writes_sha256: writes.hash(),
    }
}

pub(crate) fn commit<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    store: &Store,
    height: u32,
    pairs: &[(K, V)],
) -> Result<(), StoreError> {
    let writes = writes(pairs);
    store.commit(&record(height, &writes), &writes)
}

/// The hash of the stored content, and the tip.
pub(crate) fn content(store: &Store) -> (Hash, Option<BlockRecord>) {
    (store.content_hash().unwrap(), store.tip().unwrap())
}
