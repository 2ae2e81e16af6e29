//! How bitcoind stores blocks in `blk*.dat`: records of network magic (4 bytes), length (u32 little-endian)
//! and block, obfuscated with the key in `xor.dat`. Files and streams share the format, so it lives here
//! once.

use std::io;
use std::path::Path;

use bitcoin::block::Header;
use bitcoin::p2p::Magic;
use bitcoin::{BlockHash, Network};

use super::BlockError;
use super::verify::{Defect, verify_header};

/// Bytes of the magic.
pub(super) const MAGIC_BYTES: usize = 4;
/// Bytes of magic and length before each block.
pub(super) const HEAD_BYTES: usize = 8;
/// Head and block header: as much as tells a record from other bytes.
pub(super) const PEEK_BYTES: usize = HEAD_BYTES + Header::SIZE;
/// Bytes of the obfuscation key.
pub(super) const XOR_KEY_BYTES: usize = 8;
/// The shortest block there can be: a header and a count of transactions.
pub(super) const MIN_BLOCK_BYTES: u64 = 81;

/// The file that holds the obfuscation key, beside the files that it belongs to.
const XOR_KEY_FILE: &str = "xor.dat";

/// What is wrong with a record of a blk file.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Zeros, as after the last record.
    #[error("it starts with zeros")]
    Zeros,
    /// The block before, once more.
    #[error("they repeat the block before")]
    Repeated,
    /// The block header is damaged.
    #[error("{0}")]
    Header(Defect),
    /// Head and header are right, and the block is not.
    #[error("its block is damaged: {0}")]
    Block(Defect),
}

cofferdam_protocol::debug_as_display!(Tear);

/// Head and header of a record whose block may be whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) network: Network,
    /// Length of the block in bytes, within the limit and within what there is.
    pub(super) length: u32,
    /// Meets the target that it states.
    pub(super) header: Header,
    pub(super) hash: BlockHash,
}

/// What stands at a place where a record can begin.
#[derive(Debug)]
pub(super) enum Look {
    /// A record, as far as its head and its header can tell.
    Record(Head),
    /// A record that cannot be read: the end of the input cuts it off, or its block is above the limit. With the block's hash,
    /// if that much is there.
    Lost { tear: Tear, hash: Option<BlockHash> },
    /// No record.
    Nothing(Tear),
}

/// Looks at a place: `peek` is up to [`PEEK_BYTES`] from there on, fewer only where the input ends; `has` is how many bytes
/// there are in all from there on. A block has up to `limit` bytes.
pub(super) fn look(peek: &[u8], has: u64, limit: u64) -> Look {
    let cut = |needs, hash| Look::Lost { tear: Tear::Cut { needs, has }, hash };
    let Some((magic, rest)) = peek.split_first_chunk::<MAGIC_BYTES>() else {
        return match begins_a_magic(peek) {
            true => cut(HEAD_BYTES as u64, None),
            false => Look::Nothing(Tear::Magic { magic: padded(peek) }),
        };
    };
    let Some(network) = network_of(*magic) else { return Look::Nothing(Tear::Magic { magic: *magic }) };
    let Some((length, header)) = rest.split_first_chunk() else { return cut(HEAD_BYTES as u64, None) };
    let length = u32::from_le_bytes(*length);
    let (needs, too_long) = (record_bytes(length), u64::from(length) > limit);
    if u64::from(length) < MIN_BLOCK_BYTES {
        return Look::Nothing(Tear::Length { length, limit });
    }
    match header.get(..Header::SIZE).map(verify_header) {
        None if too_long => Look::Nothing(Tear::Length { length, limit }),
        None => cut(needs, None),
        Some(Ok((_, hash))) if too_long => {
            Look::Lost { tear: Tear::Length { length, limit }, hash: Some(hash) }
        }
        Some(Err(_)) if too_long => Look::Nothing(Tear::Length { length, limit }),
        Some(Err(defect)) => Look::Nothing(Tear::Header(defect)),
        Some(Ok((_, hash))) if needs > has => cut(needs, Some(hash)),
        Some(Ok((header, hash))) => Look::Record(Head { network, length, header, hash }),
    }
}

/// Length of a record, in bytes, from that of its block.
pub(super) fn record_bytes(length: u32) -> u64 {
    HEAD_BYTES as u64 + u64::from(length)
}

/// Where the first magic in `bytes` begins: that of `network`, or of any if it is none.
pub(super) fn find_magic(bytes: &[u8], network: Option<Network>) -> Option<usize> {
    let wanted = |magic: [u8; MAGIC_BYTES]| match network {
        Some(network) => magic == network.magic().to_bytes(),
        None => network_of(magic).is_some(),
    };
    bytes.windows(MAGIC_BYTES).position(|magic| magic.try_into().is_ok_and(wanted))
}

/// Whether a magic may begin with these bytes, of which there is at least one.
fn begins_a_magic(bytes: &[u8]) -> bool {
    !bytes.is_empty() && NETWORKS.iter().any(|network| network.magic().to_bytes().starts_with(bytes))
}

fn padded(bytes: &[u8]) -> [u8; MAGIC_BYTES] {
    let mut magic = [0; MAGIC_BYTES];
    magic.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    magic
}

/// The networks whose magic is known.
const NETWORKS: [Network; 5] =
    [Network::Bitcoin, Network::Testnet, Network::Testnet4, Network::Signet, Network::Regtest];

/// The network that a magic belongs to.
pub(super) fn network_of(magic: [u8; MAGIC_BYTES]) -> Option<Network> {
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
        for network in NETWORKS {
            assert_eq!(network_of(network.magic().to_bytes()), Some(network));
        }
        assert_eq!(network_of([0; 4]), None);
    }
}
