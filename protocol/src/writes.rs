//! The pairs that a block wrote, in the one encoding that is passed on, hashed and compared.
//!
//! Pair after pair in flush order: u32 little-endian length and bytes of the key, then of the value. SHA-256 over
//! exactly these bytes is `writes_sha256`, by which other implementations' outputs are compared.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::profile::Hash;

/// Bytes that do not parse as pairs.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum WritesError {
    /// A length reaches beyond the end.
    #[error("the field at byte {at} of {total} reaches beyond the end")]
    Truncated {
        /// Where the field's length stands.
        at: usize,
        /// Bytes in all.
        total: usize,
    },
    /// The last key has no value.
    #[error("the last key has no value")]
    Odd,
}

crate::debug_as_display!(WritesError);

/// Who lends memory for bytes, and wants it back.
pub trait Home: fmt::Debug + Send + Sync {
    /// Takes back what was lent.
    fn take_back(&self, bytes: Vec<u8>);
}

/// Bytes in memory of their own, or in memory that is lent.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    home: Option<Arc<dyn Home>>,
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), home: None }
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.take_back(std::mem::take(&mut self.bytes));
        }
    }
}

/// Pairs that have been checked to parse.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Writes {
    bytes: Held,
    count: u64,
}

impl fmt::Debug for Writes {
    /// Prints how many pairs and bytes there are, and not the bytes: a block can write many megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writes").field("count", &self.count).field("bytes", &self.bytes.len()).finish()
    }
}

impl Writes {
    /// Checks `bytes` and takes them over.
    ///
    /// # Errors
    /// [`WritesError`] if they are no whole pairs.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, WritesError> {
        Self::parse_held(Held { bytes, home: None })
    }

    /// As [`Writes::parse`], of bytes in memory that `home` gets back once they are no longer needed.
    ///
    /// # Errors
    /// As [`Writes::parse`].
    pub fn parse_lent(bytes: Vec<u8>, home: Arc<dyn Home>) -> Result<Self, WritesError> {
        Self::parse_held(Held { bytes, home: Some(home) })
    }

    fn parse_held(bytes: Held) -> Result<Self, WritesError> {
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

    /// How many pairs there are.
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

/// The pairs of an encoding, up to where it is damaged, if it is.
pub fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (key, value, next) = pair_at(bytes, at)?;
        at = next;
        Some((key, value))
    })
}

/// The pair that begins at byte `at` of an encoding, and where the next one begins.
pub(crate) fn pair_at(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let (key, next) = field(bytes, at)?;
    let (value, next) = field(bytes, next)?;
    Some((key, value, next))
}

/// Bytes that one field, key or value, takes in the encoding.
pub const fn encoded_field_len(field: &[u8]) -> u64 {
    4 + field.len() as u64
}

/// Writes one field, key or value, at the start of `target` and returns what is left; none if it does not fit.
pub fn put_field<'a>(target: &'a mut [u8], field: &[u8]) -> Option<&'a mut [u8]> {
    let length = u32::try_from(field.len()).ok()?;
    let (head, rest) = target.split_at_mut_checked(4)?;
    let (body, rest) = rest.split_at_mut_checked(field.len())?;
    head.copy_from_slice(&length.to_le_bytes());
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
        fn pairs_come_back_as_they_went_in(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
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
    fn half_a_pair_and_a_torn_field_are_refused() {
        assert_eq!(Writes::parse(vec![1, 0, 0, 0, b'k']), Err(WritesError::Odd));
        assert_eq!(Writes::parse(vec![2, 0, 0, 0, b'k']), Err(WritesError::Truncated { at: 0, total: 5 }));
        assert_eq!(Writes::parse(vec![0xff; 4]), Err(WritesError::Truncated { at: 0, total: 4 }));
    }
}
