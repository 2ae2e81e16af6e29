//! What the store keeps about a committed block.

use super::error::LayoutError;
use super::layout::RECORD_VERSION;
use crate::profile::Hash;
use crate::verdict::GuestVerdict;

/// The record of a committed block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRecord {
    /// The block's height.
    pub height: u32,
    /// The block's hash, in the byte order of its header.
    pub hash: [u8; 32],
    /// The chain's digest up to and including this block.
    pub digest: Hash,
    /// The block's verdict.
    pub verdict: GuestVerdict,
    /// Number of pairs that the block flushed. Pairs with equal keys count each time.
    pub writes: u64,
    /// SHA-256 over the pairs, see [`crate::writes`].
    pub writes_sha256: Hash,
}

impl BlockRecord {
    /// Encodes the record without its height, which is its key: version (1 byte), hash, digest, writes_sha256 (32 bytes each),
    /// writes (u64 little-endian), and the verdict's name, up to the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![RECORD_VERSION];
        for hash in [&self.hash, &self.digest.0, &self.writes_sha256.0] {
            bytes.extend_from_slice(hash);
        }
        bytes.extend_from_slice(&self.writes.to_le_bytes());
        bytes.extend_from_slice(self.verdict.name().as_bytes());
        bytes
    }

    /// Decodes the record of the block at `height` from the bytes of [`BlockRecord::encode`].
    ///
    /// # Errors
    /// [`LayoutError`] if `encode` never makes these bytes.
    pub fn decode(height: u32, bytes: &[u8]) -> Result<Self, LayoutError> {
        let short = || LayoutError::RecordLength { height, length: bytes.len() };
        let (&version, rest) = bytes.split_first().ok_or_else(short)?;
        if version != RECORD_VERSION {
            return Err(LayoutError::RecordVersion { height, version });
        }
        let (&hash, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&digest, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&writes_sha256, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (&writes, name) = rest.split_first_chunk().ok_or_else(short)?;
        let name = String::from_utf8_lossy(name);
        let verdict = GuestVerdict::from_name(&name)
            .ok_or_else(|| LayoutError::RecordVerdict { height, verdict: name.into_owned() })?;
        let (digest, writes_sha256) = (Hash(digest), Hash(writes_sha256));
        Ok(Self { height, hash, digest, verdict, writes: u64::from_le_bytes(writes), writes_sha256 })
    }
}
