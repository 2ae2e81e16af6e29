//! Names, numbers and limits of the store.

/// Version of the store's format. A store of another version is refused.
pub const FORMAT: u32 = 1;

/// Bytes of address space that the store is mapped into, and so the most it can grow to: 1 TiB. Readers and writer use
/// the same number, because LMDB refuses a reader whose map is smaller than the data. It costs neither memory nor disk.
pub const MAP_BYTES: usize = 1 << 40;

/// The most read transactions at one time, over all processes. LMDB's default is 126. Each worker needs one or two.
pub const MAX_READERS: u32 = 512;

/// The most tables that a store may have.
pub const TABLES: u32 = 8;

/// Name of the table that identifies the store.
pub const META: &str = "meta";

/// Name of the table of block records.
pub const BLOCKS: &str = "blocks";

/// Name of the table of values.
pub const VALUES: &str = "values";

/// Name of the table by which recent blocks can be rolled back.
pub const UNDO: &str = "undo";

/// Key in [`META`] of the [`FORMAT`], u32 little-endian.
pub const FORMAT_KEY: &[u8] = b"format";

/// Key in [`META`] of the profile's hash, 32 bytes.
pub const PROFILE_KEY: &[u8] = b"profile";

/// Key in [`META`] of the parts of the profile, so that a message can say which part differs. Older stores do not have it.
pub const PROFILE_PARTS_KEY: &[u8] = b"profile-parts";

/// Key in [`META`] of the network's name, UTF-8.
pub const NETWORK_KEY: &[u8] = b"network";

/// Key in [`META`], with an empty value, that marks a store with a state tree. Only the supervisor reads it.
pub const TREE_KEY: &[u8] = b"tree";

/// LMDB's limit on a key, in bytes (`MDB_MAXKEYSIZE`, lmdb.h: "default 511").
pub const KEY_LIMIT: usize = 511;

pub(super) const HEIGHT_BYTES: usize = 4;
pub(super) const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
pub(super) const SHORT_END: [u8; 2] = [0x00, 0x00];
pub(super) const LONG_MARK: [u8; 2] = [0x00, 0x01];
/// The most bytes of `escape(key)` in a short prefix.
pub(super) const SHORT_KEY_BYTES: usize = KEY_LIMIT - HEIGHT_BYTES - SHORT_END.len();
/// The most bytes of `escape(key)` in a long prefix.
pub(super) const LONG_KEY_BYTES: usize = KEY_LIMIT - HEIGHT_BYTES - LONG_MARK.len() - 32;

/// Version of a block's record.
pub(super) const RECORD_VERSION: u8 = 1;
