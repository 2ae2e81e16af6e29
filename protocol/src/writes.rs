//! The pairs that a block wrote, in the one encoding in which they are passed on, hashed and compared.
//!
//! The encoding is one pair after the other in flush order. A pair is the key and then the value, each as its length (u32
//! little-endian) and its bytes. SHA-256 over exactly these bytes is `writes_sha256`, by which the output of other
//! implementations can be compared.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::profile::Hash;

/// Why bytes are not a list of pairs.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum WritesError {
    /// A field reaches beyond the end of the bytes.
    #[error("the field at byte {at} of {total} reaches beyond the end")]
    Truncated {
        /// Offset of the field's length.
        at: usize,
        /// Number of bytes in all.
        total: usize,
    },
    /// The last key has no value.
    #[error("the last key has no value")]
    Odd,
}

crate::debug_as_display!(WritesError);

/// A pool that lends buffers and takes them back.
pub trait BufferPool: fmt::Debug + Send + Sync {
    /// Takes back a buffer that this pool lent.
    fn give_back(&self, buffer: Vec<u8>);
}

/// Bytes in a buffer that may belong to a pool. Dropping them gives the buffer back to its pool.
#[derive(Debug, Default)]
struct PooledBytes {
    bytes: Vec<u8>,
    pool: Option<Arc<dyn BufferPool>>,
}

impl Deref for PooledBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for PooledBytes {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), pool: None }
    }
}

impl PartialEq for PooledBytes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PooledBytes {}

impl Drop for PooledBytes {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

/// A list of pairs whose encoding has been checked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Writes {
    bytes: PooledBytes,
    count: u64,
}

impl fmt::Debug for Writes {
    /// Prints how many pairs and bytes there are, and not the bytes: a block can write many megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writes").field("count", &self.count).field("bytes", &self.bytes.len()).finish()
    }
}

impl Writes {
    /// Checks `bytes` and takes ownership of them.
    ///
    /// # Errors
    /// [`WritesError`] if the bytes are not a whole number of pairs.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, WritesError> {
        Self::parse_bytes(PooledBytes { bytes, pool: None })
    }

    /// As [`Writes::parse`], for bytes in a buffer of `pool`. The pool gets the buffer back once the pairs are dropped.
    ///
    /// # Errors
    /// As [`Writes::parse`].
    pub fn parse_pooled(bytes: Vec<u8>, pool: Arc<dyn BufferPool>) -> Result<Self, WritesError> {
        Self::parse_bytes(PooledBytes { bytes, pool: Some(pool) })
    }

    fn parse_bytes(bytes: PooledBytes) -> Result<Self, WritesError> {
        let (mut at, mut fields) = (0, 0u64);
        while at < bytes.len() {
            at = field(&bytes, at).ok_or(WritesError::Truncated { at, total: bytes.len() })?.1;
            fields += 1;
        }
        if fields % 2 == 1 {
            return Err(WritesError::Odd);
        }
        Ok(Self { bytes, count: fields / 2 })
    }

    /// Number of pairs.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The encoded pairs.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 over the encoded pairs: `writes_sha256`.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.bytes)
    }

    /// The pairs in flush order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        pairs(&self.bytes)
    }
}

impl AsRef<[u8]> for Writes {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// The pairs of an encoding. If the encoding is damaged, the pairs before the damage.
pub fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (key, value, next) = pair_at(bytes, at)?;
        at = next;
        Some((key, value))
    })
}

/// The pair that begins at byte `at` of an encoding, and the offset of the next pair.
pub(crate) fn pair_at(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let (key, next) = field(bytes, at)?;
    let (value, next) = field(bytes, next)?;
    Some((key, value, next))
}

/// Size in bytes of one field (a key or a value) in the encoding.
pub const fn encoded_field_len(field: &[u8]) -> u64 {
    4 + field.len() as u64
}

/// The header of one field (a key or a value) in the encoding; none if the field has 4 GiB or more.
pub fn field_header(field: &[u8]) -> Option<[u8; 4]> {
    Some(u32::try_from(field.len()).ok()?.to_le_bytes())
}

/// Writes one field (a key or a value) at the start of `target` and returns the rest of `target`; none if the field does not fit.
pub fn put_field<'a>(target: &'a mut [u8], field: &[u8]) -> Option<&'a mut [u8]> {
    let header = field_header(field)?;
    let (head, rest) = target.split_at_mut_checked(4)?;
    let (body, rest) = rest.split_at_mut_checked(field.len())?;
    head.copy_from_slice(&header);
    body.copy_from_slice(field);
    Some(rest)
}

fn field(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*head)).ok()?;
    Some((rest.get(..length)?, at + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let total: u64 =
            pairs.iter().map(|(key, value)| encoded_field_len(key) + encoded_field_len(value)).sum();
        let mut bytes = vec![0; usize::try_from(total).unwrap()];
        let mut rest = bytes.as_mut_slice();
        for (key, value) in pairs {
            rest = put_field(put_field(rest, key).unwrap(), value).unwrap();
        }
        assert!(rest.is_empty());
        bytes
    }

    proptest! {
        #[test]
        fn encoded_pairs_decode_to_the_same_pairs(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let writes = Writes::parse(encode(&pairs)).unwrap();
            prop_assert_eq!(writes.count(), pairs.len() as u64);
            let back: Vec<_> = writes.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(back, pairs);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(writes) = Writes::parse(bytes) {
                prop_assert_eq!(writes.iter().count() as u64, writes.count());
            }
        }
    }

    #[test]
    fn half_a_pair_and_a_truncated_field_are_refused() {
        assert_eq!(Writes::parse(vec![1, 0, 0, 0, b'k']), Err(WritesError::Odd));
        assert_eq!(Writes::parse(vec![2, 0, 0, 0, b'k']), Err(WritesError::Truncated { at: 0, total: 5 }));
        assert_eq!(Writes::parse(vec![0xff; 4]), Err(WritesError::Truncated { at: 0, total: 4 }));
    }
}
