//! The hash over every value in a store.

use cofferdam_protocol::profile::Hash;
use cofferdam_worker::state::Table;
use heed::RoTxn;
use sha2::{Digest, Sha256};

/// SHA-256 over every stored key and value in the order of the keys, each after its length (u64 little-endian).
pub(crate) fn content_hash(values: Table, txn: &RoTxn<'_>) -> heed::Result<Hash> {
    let mut hasher = Sha256::new();
    for entry in values.iter(txn)? {
        let (key, value) = entry?;
        for field in [key, value] {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    Ok(Hash(hasher.finalize().into()))
}
