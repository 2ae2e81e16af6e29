//! The bytes of the embedded state store, which the supervisor writes and the workers read.
//!
//! The store is one LMDB environment (a directory with `data.mdb` and `lock.mdb`) of four tables. Only the supervisor uses the
//! last of them. A store that keeps a state tree has one more table, which only the supervisor uses as well:
//!
//! | table | key | value |
//! |---|---|---|
//! | [`META`] | [`FORMAT_KEY`], [`PROFILE_KEY`], [`NETWORK_KEY`] | [`FORMAT`] as u32 LE; 32 bytes; UTF-8, absent until known |
//! | [`META`] | [`TREE_KEY`] | empty; only in a store with a state tree |
//! | [`META`] | [`PROFILE_PARTS_KEY`] | [`Profile::encode`](crate::profile::Profile::encode), absent in older stores |
//! | [`BLOCKS`] | height, u32 big-endian | [`BlockRecord::encode`] |
//! | [`VALUES`] | [`VersionKey`] | [`VersionKey::stored`] |
//! | [`UNDO`] | [`undo_key`] | for each recent block, the keys that it added to [`VALUES`], each after its length, u16 LE |
//!
//! Both processes must agree on every byte. This module knows only bytes: each process accesses LMDB by itself. Decoding never
//! panics, because a disk may return any bytes.
//!
//! # How a value is found
//! A version's key is `prefix(key) ‖ !height` (u32 big-endian). The prefixes are a prefix-free code: no prefix is the beginning
//! of another one. So the versions of a key are neighbours, newest first, and the value at height h takes one seek: it is the
//! first entry at or after `prefix(key) ‖ !h`, if that entry has the same prefix. The prefix of a key is
//!
//! - **short**: `escape(key) ‖ 00 00`, where escaping turns each `00` into `00 FF`. It preserves the order of keys;
//! - **long**, if the short prefix and the height exceed LMDB's limit of 511 bytes: as much of `escape(key)` as fits (an
//!   escaped `00` is never cut in two) ‖ `00 01` ‖ SHA-256(key). The stored value then begins with the whole key, and a reader
//!   compares this key with the one it looks for.
//!
//! In a prefix, `00` is followed by `FF` inside the key, by `00` at the end of a short prefix, and by `01` before a hash, after
//! which the length is fixed. Hence no prefix begins another one, and a short prefix never equals a long one.

mod error;
mod key;
mod layout;
mod record;

pub use error::LayoutError;
pub use key::{VersionKey, block_height, undo_key, version_height};
pub use layout::{
    BLOCKS, FORMAT, FORMAT_KEY, KEY_LIMIT, MAP_BYTES, MAX_READERS, META, NETWORK_KEY, PROFILE_KEY,
    PROFILE_PARTS_KEY, TABLES, TREE_KEY, UNDO, VALUES,
};
pub use record::BlockRecord;

#[cfg(test)]
mod tests;
