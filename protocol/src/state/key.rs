//! The keys of the tables.

use std::borrow::Cow;
use std::slice;

use super::error::LayoutError;
use super::layout::{
    ESCAPED_ZERO, HEIGHT_BYTES, KEY_LIMIT, LONG_KEY_BYTES, LONG_MARK, SHORT_END, SHORT_KEY_BYTES,
};
use crate::profile::Hash;

/// The key that one version of one value is stored under. Making one allocates nothing: a guest makes thousands of reads in
/// a block.
#[derive(Clone, Debug)]
pub struct VersionKey<'k> {
    key: &'k [u8],
    bytes: [u8; KEY_LIMIT],
    length: usize,
    long: bool,
}

impl<'k> VersionKey<'k> {
    /// The stored key of `key` at `height`. Any bytes can be a key; a key may be empty.
    pub fn new(key: &'k [u8], height: u32) -> Self {
        let mut this = Self { key, bytes: [0; KEY_LIMIT], length: 0, long: false };
        if this.push_escaped(key) {
            this.push(&SHORT_END, KEY_LIMIT);
        } else {
            this.push_long_prefix(key);
        }
        this.push(&(!height).to_be_bytes(), KEY_LIMIT);
        this
    }

    /// The stored key, under which a value is put and from which a read seeks. It has at most [`KEY_LIMIT`] bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The bytes stored for `value`: the value itself, preceded by its key if the key is long.
    pub fn stored<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        if !self.long {
            return Cow::Borrowed(value);
        }
        let length = (self.key.len() as u64).to_le_bytes();
        Cow::Owned([length.as_slice(), self.key, value].concat())
    }

    /// The value in the entry that a seek to this key found; none if the entry belongs to another key.
    ///
    /// # Errors
    /// [`LayoutError::LongValue`] if the entry has the hash of this key, and the key stored with the value is another one.
    pub fn value<'v>(&self, found: &[u8], stored: &'v [u8]) -> Result<Option<&'v [u8]>, LayoutError> {
        let prefix = &self.bytes[..self.length - HEIGHT_BYTES];
        if found.len() != self.length || !found.starts_with(prefix) {
            return Ok(None);
        }
        if !self.long {
            return Ok(Some(stored));
        }
        let damaged = LayoutError::LongValue { key: self.key.len(), length: stored.len() };
        self.after_key(stored).map(Some).ok_or(damaged)
    }

    fn after_key<'v>(&self, stored: &'v [u8]) -> Option<&'v [u8]> {
        let (length, rest) = stored.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (key, value) = rest.split_at_checked(length)?;
        (key == self.key).then_some(value)
    }

    /// Appends the whole escaped key. Returns false, with a part of it appended, if it does not fit into a short prefix.
    fn push_escaped(&mut self, key: &[u8]) -> bool {
        // Copies whole runs between zeros: byte by byte, copying would take a third of a read's time.
        let mut runs = key.split(|byte| *byte == 0);
        self.push(runs.next().unwrap_or_default(), SHORT_KEY_BYTES)
            && runs.all(|run| self.push(&ESCAPED_ZERO, SHORT_KEY_BYTES) && self.push(run, SHORT_KEY_BYTES))
    }

    fn push_long_prefix(&mut self, key: &[u8]) {
        (self.length, self.long) = (0, true);
        for byte in key {
            let escaped = if *byte == 0 { &ESCAPED_ZERO } else { slice::from_ref(byte) };
            if !self.push(escaped, LONG_KEY_BYTES) {
                break;
            }
        }
        self.push(&LONG_MARK, KEY_LIMIT);
        self.push(&Hash::of(key).0, KEY_LIMIT);
    }

    /// Appends `part` if the key then has at most `limit` bytes.
    fn push(&mut self, part: &[u8], limit: usize) -> bool {
        let end = self.length + part.len();
        let fits = end <= limit;
        if fits {
            self.bytes[self.length..end].copy_from_slice(part);
            self.length = end;
        }
        fits
    }

    #[cfg(test)]
    pub(super) fn is_long(&self) -> bool {
        self.long
    }
}

/// The height that a key in the table of blocks encodes. The key is `height.to_be_bytes()`.
///
/// # Errors
/// [`LayoutError::BlockKey`] if the key does not have the length of a height.
pub fn block_height(key: &[u8]) -> Result<u32, LayoutError> {
    let bytes = key.try_into().map_err(|_| LayoutError::BlockKey { length: key.len() })?;
    Ok(u32::from_be_bytes(bytes))
}

/// The key in [`UNDO`](super::UNDO) of part number `part` of the list of the block at `height`.
pub fn undo_key(height: u32, part: u32) -> [u8; 8] {
    (u64::from(height) << 32 | u64::from(part)).to_be_bytes()
}

/// The height in a key of [`VALUES`](super::VALUES); none if the key is too short to contain one.
pub fn version_height(stored: &[u8]) -> Option<u32> {
    stored.last_chunk().map(|bytes| !u32::from_be_bytes(*bytes))
}
