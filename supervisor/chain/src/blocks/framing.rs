//! The record format of bitcoind's `blk*.dat`: the magic of the network (4 bytes), the length of the block (u32,
//! little-endian), the block. Files and streams share the format.

use bitcoin::block::Header;
use bitcoin::p2p::Magic;
use bitcoin::{BlockHash, Network};

use super::verify::{BlockDefect, verify_header};

/// The length of the network magic, in bytes.
pub(super) const MAGIC_BYTES: usize = 4;
/// The length of the head of a record, in bytes: magic and length field.
pub(super) const HEAD_BYTES: usize = 8;
/// The length of a record's head and a block header, in bytes. This number of bytes is enough to distinguish a record from other
/// bytes.
pub(super) const PROBE_BYTES: usize = HEAD_BYTES + Header::SIZE;
/// The length of the obfuscation key, in bytes.
pub(super) const XOR_KEY_BYTES: usize = 8;
/// The length of the shortest possible block, in bytes: a header and the number of transactions.
pub(super) const MIN_BLOCK_BYTES: u64 = 81;

/// Why bytes are not a record with an intact block.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordDefect {
    /// The file ends inside the record.
    #[error("it needs {needs} bytes, and the file has {has} more")]
    Truncated {
        /// The length of the record in bytes, including its head. If the head itself is cut off: the length of the head.
        needs: u64,
        /// The number of bytes from the start of the record to the end of the file.
        has: u64,
    },
    /// No block has the length in the length field.
    #[error(
        "its length field says {length} bytes, and a block has {MIN_BLOCK_BYTES} to {limit} bytes (--max-block-bytes)"
    )]
    Length {
        /// The value of the length field.
        length: u32,
        /// The limit in bytes.
        limit: u64,
    },
    /// Other bytes stand where the network magic should be.
    #[error("it starts with {} instead of the network magic", hex::encode(magic))]
    Magic {
        /// The bytes found, after the obfuscation was removed.
        magic: [u8; 4],
    },
    /// Zeros, such as bitcoind leaves after the last record.
    #[error("it starts with zeros")]
    Zeros,
    /// A second copy of the previous block.
    #[error("it repeats the previous block")]
    Duplicate,
    /// The block header is damaged.
    #[error("its block header is damaged: {0}")]
    Header(BlockDefect),
    /// The head of the record and the block header are intact, and the block is not.
    #[error("its block is damaged: {0}")]
    Block(BlockDefect),
}

cofferdam_protocol::debug_as_display!(RecordDefect);

/// The head and the block header of a record whose block may be intact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) network: Network,
    /// The length of the block in bytes. The length is within the limit, and the input has at least this number of bytes.
    pub(super) length: u32,
    /// The block header. Its hash meets its target.
    pub(super) header: Header,
    pub(super) hash: BlockHash,
}

/// What stands at a place where a record can begin.
#[derive(Debug)]
pub(super) enum RecordProbe {
    /// A record, as far as its head and its block header tell.
    Record(Head),
    /// A record that cannot be read: the input ends inside it, or its block is longer than the limit. The hash is known if
    /// the block header could be read.
    Unreadable { defect: RecordDefect, hash: Option<BlockHash> },
    /// Something else than a record.
    NotARecord(RecordDefect),
}

/// Examines a place where a record can begin.
///
/// `probe` holds up to [`PROBE_BYTES`] bytes from that place, and fewer only if the input ends there. `has` is the number of
/// bytes from that place to the end of the input. A block has at most `limit` bytes.
pub(super) fn probe_record(probe: &[u8], has: u64, limit: u64) -> RecordProbe {
    let truncated =
        |needs, hash| RecordProbe::Unreadable { defect: RecordDefect::Truncated { needs, has }, hash };
    let Some((magic, rest)) = probe.split_first_chunk::<MAGIC_BYTES>() else {
        return match is_start_of_magic(probe) {
            true => truncated(HEAD_BYTES as u64, None),
            false => RecordProbe::NotARecord(RecordDefect::Magic { magic: padded(probe) }),
        };
    };
    let Some(network) = network_of(*magic) else {
        return RecordProbe::NotARecord(RecordDefect::Magic { magic: *magic });
    };
    let Some((length, header)) = rest.split_first_chunk() else { return truncated(HEAD_BYTES as u64, None) };
    let length = u32::from_le_bytes(*length);
    let (needs, too_long) = (record_bytes(length), u64::from(length) > limit);
    let bad_length = RecordDefect::Length { length, limit };
    if u64::from(length) < MIN_BLOCK_BYTES {
        return RecordProbe::NotARecord(bad_length);
    }
    match header.get(..Header::SIZE).map(verify_header) {
        None if too_long => RecordProbe::NotARecord(bad_length),
        None => truncated(needs, None),
        Some(Ok((_, hash))) if too_long => RecordProbe::Unreadable { defect: bad_length, hash: Some(hash) },
        Some(Err(_)) if too_long => RecordProbe::NotARecord(bad_length),
        Some(Err(defect)) => RecordProbe::NotARecord(RecordDefect::Header(defect)),
        Some(Ok((_, hash))) if needs > has => truncated(needs, Some(hash)),
        Some(Ok((header, hash))) => RecordProbe::Record(Head { network, length, header, hash }),
    }
}

/// The length of a record in bytes, from the length of its block.
pub(super) fn record_bytes(length: u32) -> u64 {
    HEAD_BYTES as u64 + u64::from(length)
}

/// The position of the first magic in `bytes`: the magic of `network`, or of any network if that is `None`.
pub(super) fn find_magic(bytes: &[u8], network: Option<Network>) -> Option<usize> {
    let wanted = |magic: [u8; MAGIC_BYTES]| match network {
        Some(network) => magic == network.magic().to_bytes(),
        None => network_of(magic).is_some(),
    };
    bytes.windows(MAGIC_BYTES).position(|magic| magic.try_into().is_ok_and(wanted))
}

/// Whether these bytes, of which there is at least one, are the start of a magic.
fn is_start_of_magic(bytes: &[u8]) -> bool {
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

/// The network that uses this magic.
pub(super) fn network_of(magic: [u8; MAGIC_BYTES]) -> Option<Network> {
    Network::from_magic(Magic::from_bytes(magic))
}

/// The usual name of a network.
pub(super) fn network_name(network: Network) -> &'static str {
    match network {
        Network::Bitcoin => "mainnet",
        Network::Testnet => "testnet3",
        Network::Testnet4 => "testnet4",
        Network::Signet => "signet",
        Network::Regtest => "regtest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_five_networks_are_known() {
        for network in NETWORKS {
            assert_eq!(network_of(network.magic().to_bytes()), Some(network));
        }
        assert_eq!(network_of([0; 4]), None);
    }
}
