//! How bitcoind stores blocks in `blk*.dat`: records of network magic (4 bytes), length (u32 little-endian)
//! and block, obfuscated with the key in `xor.dat`. Files and streams share the format, so it lives here
//! once.

use std::io;
use std::path::Path;

use bitcoin::Network;
use bitcoin::p2p::Magic;

use super::BlockError;
use super::verify::Defect;

/// Bytes of magic and length before each block.
pub(super) const HEAD_BYTES: usize = 8;
/// Bytes of the obfuscation key.
pub(super) const XOR_KEY_BYTES: usize = 8;
/// The shortest block there can be: a header and a count of transactions.
pub(super) const MIN_BLOCK_BYTES: u64 = 81;

/// The file that holds the obfuscation key, beside the files that it belongs to.
const XOR_KEY_FILE: &str = "xor.dat";

/// What is wrong with a record of a blk file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Tear {
    /// The file ends inside the record.
    #[error("it needs {needs} bytes, the file has {has} more")]
    Cut {
        /// Length of the record, head included; that of the head alone if not even that is whole.
        needs: u64,
        /// Bytes from the start of the record to the end of the file.
        has: u64,
    },
    /// The length is that of no block.
    #[error(
        "its length field says {length} bytes, a block has {MIN_BLOCK_BYTES} to {limit} (--max-block-bytes)"
    )]
    Length {
        /// The length field.
        length: u32,
        /// The limit in bytes.
        limit: u64,
    },
    /// Something else stands where the network magic should.
    #[error("it starts with {} instead of the network magic", hex::encode(magic))]
    Magic {
        /// The bytes found, after de-obfuscation.
        magic: [u8; 4],
    },
    /// Zeros, as after the last record, but with more data after them.
    #[error("zeros, then more data at byte {at}")]
    AfterPadding {
        /// Offset in the file of the first byte that is not zero.
        at: u64,
    },
    /// The block header is damaged.
    #[error("{0}")]
    Header(Defect),
}

/// The network that a magic belongs to.
pub(super) fn network_of(magic: [u8; 4]) -> Option<Network> {
    Network::from_magic(Magic::from_bytes(magic))
}

/// The name that users know a network by.
pub(super) fn network_name(network: Network) -> &'static str {
    match network {
        Network::Bitcoin => "mainnet",
        Network::Testnet => "testnet3",
        Network::Testnet4 => "testnet4",
        Network::Signet => "signet",
        Network::Regtest => "regtest",
    }
}

/// The key with which bitcoind obfuscates its block files against virus scanners: byte `i` of a file is xored
/// with byte `i mod 8` of the key. Introduced, as `xor.dat`, in Bitcoin Core 28.0; all zeros mean none
/// (`-blocksxor=0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct XorKey([u8; XOR_KEY_BYTES]);

impl XorKey {
    /// No obfuscation.
    pub(super) const NONE: Self = Self([0; XOR_KEY_BYTES]);

    /// The key of the files in a directory: that of its `xor.dat`, or none if there is no such file.
    pub(super) fn of_directory(directory: &Path) -> Result<Self, BlockError> {
        let path = directory.join(XOR_KEY_FILE);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::NONE),
            Err(error) => return Err(BlockError::io(&path, "open")(error)),
        };
        let bytes = file.metadata().map_err(BlockError::io(&path, "read"))?.len();
        if bytes != XOR_KEY_BYTES as u64 {
            return Err(BlockError::XorKeyLength { path, bytes });
        }
        let mut key = Self::NONE;
        io::Read::read_exact(&mut &file, &mut key.0).map_err(BlockError::io(&path, "read"))?;
        Ok(key)
    }

    /// Removes the obfuscation of bytes that stand at `offset` of their file.
    pub(super) fn apply(self, bytes: &mut [u8], offset: u64) {
        if self == Self::NONE {
            return;
        }
        let mut key = self.0;
        // The remainder is below 8, so the conversion cannot fail.
        key.rotate_left(usize::try_from(offset % XOR_KEY_BYTES as u64).unwrap_or_default());
        for chunk in bytes.chunks_mut(XOR_KEY_BYTES) {
            for (byte, key) in chunk.iter_mut().zip(key) {
                *byte ^= key;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn from_bytes(key: [u8; XOR_KEY_BYTES]) -> Self {
        Self(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_the_offset() {
        let key = XorKey::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let mut whole = [0u8; 40];
        key.apply(&mut whole, 0);
        assert_eq!(&whole[..9], &[1, 2, 3, 4, 5, 6, 7, 8, 1]);
        for from in 0..40u8 {
            let mut part = vec![0u8; 40 - usize::from(from)];
            key.apply(&mut part, u64::from(from));
            assert_eq!(part, whole[usize::from(from)..], "{from}");
        }
    }

    #[test]
    fn a_key_file_of_another_length_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(XorKey::of_directory(directory.path()).unwrap(), XorKey::NONE);
        std::fs::write(directory.path().join("xor.dat"), [7; 8]).unwrap();
        assert_eq!(XorKey::of_directory(directory.path()).unwrap(), XorKey([7; 8]));
        std::fs::write(directory.path().join("xor.dat"), [7; 9]).unwrap();
        let error = XorKey::of_directory(directory.path()).unwrap_err();
        assert!(matches!(error, BlockError::XorKeyLength { bytes: 9, .. }), "{error}");
    }

    #[test]
    fn all_five_networks_are_known() {
        let networks =
            [Network::Bitcoin, Network::Testnet, Network::Testnet4, Network::Signet, Network::Regtest];
        for network in networks {
            assert_eq!(network_of(network.magic().to_bytes()), Some(network));
        }
        assert_eq!(network_of([0; 4]), None);
    }
}
