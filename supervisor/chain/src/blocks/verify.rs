//! Checks whether bytes are an intact Bitcoin block, as far as this can be checked without other blocks.
//!
//! The block must decode to its last byte, its hash must meet the target in its header, and its merkle root and its witness
//! commitment must match its transactions. A single flipped bit fails at least one of these checks.

use bitcoin::block::Header;
use bitcoin::consensus::{Decodable, encode};
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::{Block, BlockHash, CompactTarget, Target, merkle_tree};

/// Why bytes are not an intact block.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockDefect {
    /// The bytes do not decode.
    #[error("{reason} at byte {at}")]
    Undecodable {
        /// The error of the decoder.
        reason: String,
        /// How many bytes the decoder had consumed.
        at: u64,
    },
    /// Bytes follow the block.
    #[error("the block ends at byte {at}, and {extra} more byte(s) follow it")]
    TrailingBytes {
        /// The length of the block, in bytes.
        at: u64,
        /// How many bytes follow it.
        extra: u64,
    },
    /// The target in the header is negative, zero, or above 2^256.
    #[error("the target bits {bits:#010x} in the header are not a valid target")]
    InvalidTarget {
        /// The target in compact form, as in the header.
        bits: u32,
    },
    /// The hash is above the target in the header.
    #[error("the hash {hash} does not meet the target in the header (bits {bits:#010x})")]
    ProofOfWork {
        /// The hash of the block.
        hash: BlockHash,
        /// The target in compact form, as in the header.
        bits: u32,
    },
    /// The merkle root does not match the transactions.
    #[error("the merkle root of block {hash} does not match its transactions")]
    MerkleRoot {
        /// The hash of the block.
        hash: BlockHash,
    },
    /// A transaction occurs twice. Repeating transactions can leave the merkle root unchanged (CVE-2012-2459).
    #[error("block {hash} contains a transaction twice")]
    RepeatedTransaction {
        /// The hash of the block.
        hash: BlockHash,
    },
    /// The witness commitment in the coinbase (BIP141) is missing, or does not match the transactions.
    #[error("the witness commitment of block {hash} does not match its transactions")]
    WitnessCommitment {
        /// The hash of the block.
        hash: BlockHash,
    },
}

cofferdam_protocol::debug_as_display!(BlockDefect);

/// Decodes the bytes of exactly one block and checks the block.
///
/// # Errors
/// [`BlockDefect`]: the first check that failed.
pub fn verify(bytes: &[u8]) -> Result<Block, BlockDefect> {
    let block = decode(bytes)?;
    check(&block)?;
    Ok(block)
}

/// Decodes the bytes of exactly one block, and checks nothing else.
pub(super) fn decode(bytes: &[u8]) -> Result<Block, BlockDefect> {
    let mut rest = bytes;
    // The other entry point of the decoder, `consensus_decode`, stops at 4,000,000 bytes whatever the limit of the caller is.
    let decoded = Block::consensus_decode_from_finite_reader(&mut rest);
    let at = (bytes.len() - rest.len()) as u64;
    let block = decoded.map_err(|error| undecodable(&error, at))?;
    if rest.is_empty() { Ok(block) } else { Err(BlockDefect::TrailingBytes { at, extra: rest.len() as u64 }) }
}

/// The error of the decoder as a [`BlockDefect`]. The decoder reports an unexpected end as an error of its reader; here the text
/// is "unexpected end".
pub(super) fn undecodable(error: &encode::Error, at: u64) -> BlockDefect {
    let reason = match error {
        encode::Error::Io(_) => "unexpected end".to_owned(),
        other => other.to_string(),
    };
    BlockDefect::Undecodable { reason, at }
}

/// Checks what can be checked without the previous blocks.
pub(super) fn check(block: &Block) -> Result<(), BlockDefect> {
    let hash = check_header(&block.header)?;
    let mut ids: Vec<sha256d::Hash> = block.txdata.iter().map(|tx| tx.compute_txid().to_raw_hash()).collect();
    let root = merkle_tree::calculate_root(ids.iter().copied());
    if root != Some(block.header.merkle_root.to_raw_hash()) {
        return Err(BlockDefect::MerkleRoot { hash });
    }
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(BlockDefect::RepeatedTransaction { hash });
    }
    // This accepts a block without witness data. A block with witness data must commit to that data.
    if !block.check_witness_commitment() {
        return Err(BlockDefect::WitnessCommitment { hash });
    }
    Ok(())
}

/// Decodes a header, checks it, and returns it with its hash.
pub(super) fn verify_header(bytes: &[u8]) -> Result<(Header, BlockHash), BlockDefect> {
    let header: Header = encode::deserialize(bytes).map_err(|error| undecodable(&error, 0))?;
    check_header(&header).map(|hash| (header, hash))
}

/// Checks that the hash of a header meets the target in the header, and returns the hash. Whether the network allows that
/// target is not checked.
fn check_header(header: &Header) -> Result<BlockHash, BlockDefect> {
    let bits = header.bits.to_consensus();
    let target = target(header.bits).ok_or(BlockDefect::InvalidTarget { bits })?;
    let hash = header.block_hash();
    if target.is_met_by(hash) { Ok(hash) } else { Err(BlockDefect::ProofOfWork { hash, bits }) }
}

/// Decodes a target in compact form. `None` if the target is negative, overflows 256 bits, or is zero: Bitcoin Core's
/// `CheckProofOfWork` refuses these, too. `Target::from_compact` alone wraps around on overflow.
fn target(bits: CompactTarget) -> Option<Target> {
    let [exponent, mantissa @ ..] = bits.to_consensus().to_be_bytes();
    let significant = 3 - mantissa.iter().take_while(|byte| **byte == 0).count();
    // The value occupies `exponent - 3 + significant` bytes.
    if mantissa[0] & 0x80 != 0 || usize::from(exponent) + significant > 32 + 3 {
        return None;
    }
    Some(Target::from_compact(bits)).filter(|target| *target != Target::ZERO)
}

/// The hash of bytes that are not interpreted: their double SHA-256.
pub(super) fn opaque_hash(bytes: &[u8]) -> BlockHash {
    BlockHash::from_raw_hash(sha256d::Hash::hash(bytes))
}

#[cfg(test)]
mod tests {
    use bitcoin::consensus::serialize;
    use proptest::prelude::*;

    use super::*;
    use crate::blocks::testing::{block_702861, early_blocks};

    #[test]
    fn real_blocks_pass() {
        for bytes in early_blocks() {
            verify(&bytes).unwrap();
        }
        verify(block_702861()).unwrap();
    }

    #[test]
    fn every_flipped_bit_of_a_small_block_is_seen() {
        let whole = early_blocks()[170].clone();
        for byte in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x10;
            assert!(verify(&bytes).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn a_changed_witness_is_seen() {
        let mut block = decode(block_702861()).unwrap();
        let input =
            block.txdata.iter_mut().skip(1).flat_map(|tx| &mut tx.input).find(|i| !i.witness.is_empty());
        input.unwrap().witness.push([1]);
        assert!(matches!(verify(&serialize(&block)), Err(BlockDefect::WitnessCommitment { .. })));
    }

    #[test]
    fn a_repeated_transaction_is_seen_although_the_merkle_root_fits() {
        let mut block = decode(block_702861()).unwrap();
        if block.txdata.len() % 2 == 1 {
            block.txdata.extend(block.txdata.last().cloned());
            assert!(matches!(check(&block), Err(BlockDefect::RepeatedTransaction { .. })));
        } else {
            let pair = block.txdata[block.txdata.len() - 2..].to_vec();
            block.txdata.extend(pair);
            assert!(check(&block).is_err());
        }
    }

    #[test]
    fn cut_and_extended_blocks_are_seen() {
        let mut bytes = early_blocks()[1].clone();
        bytes.push(0);
        let at = bytes.len() as u64 - 1;
        assert_eq!(verify(&bytes), Err(BlockDefect::TrailingBytes { at, extra: 1 }));
        bytes.truncate(100);
        assert_eq!(verify(&bytes).unwrap_err().to_string(), "unexpected end at byte 100");
    }

    #[test]
    fn impossible_targets_are_refused() {
        for bits in
            [0, 0x1d00_0000, 0x0180_0000, 0x1d80_ffff, 0xff7f_ffff, 0x2300_0001, 0x2200_0100, 0x2101_0000]
        {
            assert_eq!(target(CompactTarget::from_consensus(bits)), None, "{bits:#x}");
        }
        for bits in [0x1d00_ffff, 0x207f_ffff, 0x2200_00ff, 0x2100_ffff, 0x0300_0001] {
            assert!(target(CompactTarget::from_consensus(bits)).is_some(), "{bits:#x}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = verify(&bytes);
        }

        #[test]
        fn damaged_blocks_never_panic(at in 0usize..500, value: u8, cut in 0usize..500) {
            let mut bytes = early_blocks()[170].clone();
            let len = bytes.len();
            bytes[at % len] = value;
            bytes.truncate(len - cut % len);
            let _ = verify(&bytes);
        }
    }
}
