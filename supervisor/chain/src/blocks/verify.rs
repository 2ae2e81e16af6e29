//! Is this a Bitcoin block, and is it intact? What can be checked of one block on its own is checked here:
//! that it decodes to its last byte, that its hash meets the target it states, and that the merkle root and
//! the witness commitment are those of its transactions. A single flipped bit fails at least one of these.

use bitcoin::block::Header;
use bitcoin::consensus::{Decodable, encode};
use bitcoin::hashes::{Hash, sha256d};
use bitcoin::{Block, BlockHash, CompactTarget, Target, merkle_tree};

/// What is wrong with the bytes of a block.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// They do not decode.
    #[error("{reason} at byte {at}")]
    Undecodable {
        /// What the decoder did not like.
        reason: String,
        /// How many bytes of the block it had consumed.
        at: u64,
    },
    /// They decode, but do not end where the block does.
    #[error("{extra} byte(s) too many at byte {at}, where the block ends")]
    TrailingBytes {
        /// Length of the block, in bytes.
        at: u64,
        /// How many bytes follow it.
        extra: u64,
    },
    /// The target that the header states is negative, zero, or above 2^256.
    #[error("the header's target bits {bits:#010x} are no target")]
    Bits {
        /// The bits, as in the header.
        bits: u32,
    },
    /// The hash is above the target that the header states.
    #[error("hash {hash} does not meet the header's target (bits {bits:#010x})")]
    ProofOfWork {
        /// The hash.
        hash: BlockHash,
        /// The bits, as in the header.
        bits: u32,
    },
    /// The merkle root is not that of the transactions.
    #[error("the merkle root of block {hash} is not that of its transactions")]
    MerkleRoot {
        /// Hash of the block.
        hash: BlockHash,
    },
    /// A transaction is there twice, which leaves the merkle root as it was (CVE-2012-2459).
    #[error("a transaction of block {hash} is repeated")]
    RepeatedTransaction {
        /// Hash of the block.
        hash: BlockHash,
    },
    /// The witness commitment in the coinbase (BIP141) is missing or not that of the transactions.
    #[error("the witness commitment of block {hash} is not that of its transactions")]
    WitnessCommitment {
        /// Hash of the block.
        hash: BlockHash,
    },
}

cofferdam_protocol::debug_as_display!(Defect);

/// Decodes and checks the bytes of exactly one block.
pub fn verify(bytes: &[u8]) -> Result<Block, Defect> {
    let block = decode(bytes)?;
    check(&block)?;
    Ok(block)
}

/// Decodes the bytes of exactly one block, checking nothing else.
pub(super) fn decode(bytes: &[u8]) -> Result<Block, Defect> {
    let mut rest = bytes;
    // The "finite reader": the other entry point stops at 4,000,000 bytes whatever the caller's limit is.
    let decoded = Block::consensus_decode_from_finite_reader(&mut rest);
    let at = (bytes.len() - rest.len()) as u64;
    let block = decoded.map_err(|error| undecodable(&error, at))?;
    if rest.is_empty() { Ok(block) } else { Err(Defect::TrailingBytes { at, extra: rest.len() as u64 }) }
}

/// The decoder's error in words that make sense to someone who looks at a file.
pub(super) fn undecodable(error: &encode::Error, at: u64) -> Defect {
    let reason = match error {
        encode::Error::Io(_) => "unexpected end".to_owned(),
        other => other.to_string(),
    };
    Defect::Undecodable { reason, at }
}

/// Checks all that can be checked of a block without the ones before it.
pub(super) fn check(block: &Block) -> Result<(), Defect> {
    let hash = check_header(&block.header)?;
    let mut ids: Vec<sha256d::Hash> = block.txdata.iter().map(|tx| tx.compute_txid().to_raw_hash()).collect();
    let root = merkle_tree::calculate_root(ids.iter().copied());
    if root != Some(block.header.merkle_root.to_raw_hash()) {
        return Err(Defect::MerkleRoot { hash });
    }
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Defect::RepeatedTransaction { hash });
    }
    // Passes a block without witness data; one with it must commit to it.
    if !block.check_witness_commitment() {
        return Err(Defect::WitnessCommitment { hash });
    }
    Ok(())
}

/// Decodes and checks the bytes of a header, and returns it with its hash.
pub(super) fn verify_header(bytes: &[u8]) -> Result<(Header, BlockHash), Defect> {
    let header: Header = encode::deserialize(bytes).map_err(|error| undecodable(&error, 0))?;
    check_header(&header).map(|hash| (header, hash))
}

/// Checks that a header meets the target it states, whatever the network, and returns its hash.
fn check_header(header: &Header) -> Result<BlockHash, Defect> {
    let bits = header.bits.to_consensus();
    let target = target(header.bits).ok_or(Defect::Bits { bits })?;
    let hash = header.block_hash();
    if target.is_met_by(hash) { Ok(hash) } else { Err(Defect::ProofOfWork { hash, bits }) }
}

/// The target that compact bits stand for, or `None` if they are negative, overflow 256 bits, or are zero:
/// the cases that Bitcoin Core's `CheckProofOfWork` refuses. `Target::from_compact` alone wraps around on
/// overflow.
fn target(bits: CompactTarget) -> Option<Target> {
    let [exponent, mantissa @ ..] = bits.to_consensus().to_be_bytes();
    let significant = 3 - mantissa.iter().take_while(|byte| **byte == 0).count();
    // The value occupies `exponent - 3 + significant` bytes.
    if mantissa[0] & 0x80 != 0 || usize::from(exponent) + significant > 32 + 3 {
        return None;
    }
    Some(Target::from_compact(bits)).filter(|target| *target != Target::ZERO)
}

/// The hash that stands for bytes of which nothing is known.
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
        assert!(matches!(verify(&serialize(&block)), Err(Defect::WitnessCommitment { .. })));
    }

    #[test]
    fn a_repeated_transaction_is_seen_although_the_merkle_root_fits() {
        let mut block = decode(block_702861()).unwrap();
        if block.txdata.len() % 2 == 1 {
            block.txdata.extend(block.txdata.last().cloned());
            assert!(matches!(check(&block), Err(Defect::RepeatedTransaction { .. })));
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
        assert_eq!(verify(&bytes), Err(Defect::TrailingBytes { at, extra: 1 }));
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
