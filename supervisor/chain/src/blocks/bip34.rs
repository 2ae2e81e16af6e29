//! What a block says about its own height.
//!
//! Only a genesis block has no previous block, and since BIP34 the coinbase of each block states the height of the block. So a
//! block that would be indexed at a wrong height is noticed, wherever the wrong height came from.

use bitcoin::hashes::Hash;
use bitcoin::{Block, BlockHash, CompactTarget, Network};

/// From this height on, each block of mainnet states its height (BIP34; `BIP34Height` in chainparams.cpp of Bitcoin Core). All
/// other networks activated BIP34 at a lower height.
const MAINNET_ACTIVATION: u32 = 227_931;
/// From this height on, each block of testnet3 states its height.
const TESTNET_ACTIVATION: u32 = 21_111;
/// A stated height from here on is not believed. Bitcoin needs three more centuries to reach heights of more than three bytes,
/// and the coinbases of old blocks begin with a push of four bytes that is not a height but the target of the block.
const IMPLAUSIBLE: u32 = 1 << 24;
/// The target of all blocks of regtest, and of no other network. One hash in two meets this target.
const REGTEST_BITS: u32 = 0x207f_ffff;

/// What a block says about its height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeightClaim {
    is_genesis: bool,
    /// The height in the coinbase.
    stated: Option<u32>,
    bits: CompactTarget,
}

/// Why a block cannot have the height that it would be indexed at.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeightMismatch {
    /// A block without a previous block, at a height above 0.
    #[error("it is a genesis block, which has height 0")]
    Genesis,
    /// A block with a previous block, at height 0.
    #[error("it is not a genesis block, and only a genesis block has height 0")]
    NotGenesis,
    /// The coinbase states another height.
    #[error("its coinbase states height {0} (BIP34)")]
    Stated(u32),
    /// The coinbase states no height, and each block at this height does.
    #[error("its coinbase states no height, and each block from height {0} on does (BIP34)")]
    NotStated(u32),
}

cofferdam_protocol::debug_as_display!(HeightMismatch);

impl HeightClaim {
    /// Reads what a block says.
    pub(super) fn of(block: &Block) -> Self {
        Self {
            is_genesis: block.header.prev_blockhash == BlockHash::all_zeros(),
            stated: coinbase_height(block),
            bits: block.header.bits,
        }
    }

    /// The height that the block states, even if BIP34 did not apply to the block. 0 for a genesis block.
    pub(super) fn stated(&self) -> Option<u32> {
        if self.is_genesis { Some(0) } else { self.stated }
    }

    /// The height that the block states, if BIP34 applied to the block. Before BIP34 was a rule, a coinbase could begin with any
    /// bytes.
    pub(super) fn reliable(&self, network: Option<Network>) -> Option<u32> {
        if self.is_genesis {
            return Some(0);
        }
        self.stated.filter(|stated| (self.activation(network)..IMPLAUSIBLE).contains(stated))
    }

    /// Why the block cannot have this height. `None` if it can.
    pub(super) fn mismatch(&self, height: u32, network: Option<Network>) -> Option<HeightMismatch> {
        let activation = self.activation(network);
        match (self.is_genesis, height) {
            (true, 0) => return None,
            (true, _) => return Some(HeightMismatch::Genesis),
            (false, 0) => return Some(HeightMismatch::NotGenesis),
            (false, _) => {}
        }
        match self.stated {
            Some(stated) if stated == height => None,
            Some(stated) if height >= activation || self.reliable(network).is_some() => {
                Some(HeightMismatch::Stated(stated))
            }
            // A program that makes blocks for regtest may leave the height out.
            None if height >= activation && !self.is_regtest(network) => {
                Some(HeightMismatch::NotStated(activation))
            }
            _ => None,
        }
    }

    /// The height from which on blocks state their height. Blocks that were not read from records do not name their network.
    fn activation(&self, network: Option<Network>) -> u32 {
        match network {
            Some(Network::Testnet) => TESTNET_ACTIVATION,
            Some(Network::Testnet4 | Network::Signet | Network::Regtest) => 1,
            None if self.is_regtest(None) => 1,
            Some(Network::Bitcoin) | None => MAINNET_ACTIVATION,
        }
    }

    fn is_regtest(&self, network: Option<Network>) -> bool {
        network.map_or(self.bits.to_consensus() == REGTEST_BITS, |network| network == Network::Regtest)
    }
}

/// The height in the coinbase of a block (BIP34): the first push of the script, in blocks of version 2 and later.
fn coinbase_height(block: &Block) -> Option<u32> {
    if let Ok(height) = block.bip34_block_height() {
        return u32::try_from(height).ok();
    }
    // Heights 1 to 16 are the opcodes OP_1 to OP_16 instead of a push. Only test networks state such low heights.
    let script = &block.coinbase()?.input.first()?.script_sig;
    match script.as_bytes().first()? {
        op @ 0x51..=0x60 if block.header.version.to_consensus() >= 2 => Some(u32::from(*op - 0x50)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::script::Builder;

    use super::super::testing::{block_702861, early_blocks, mine, regtest};
    use super::super::verify::decode;
    use super::*;

    fn claim(bytes: &[u8]) -> HeightClaim {
        HeightClaim::of(&decode(bytes).unwrap())
    }

    #[test]
    fn a_real_block_has_the_height_that_it_states() {
        let late = claim(block_702861());
        for network in [None, Some(Network::Bitcoin)] {
            assert_eq!(late.reliable(network), Some(702_861));
            assert_eq!(late.mismatch(702_861, network), None);
            assert_eq!(late.mismatch(5, network), Some(HeightMismatch::Stated(702_861)));
        }
        assert_eq!(late.mismatch(0, None), Some(HeightMismatch::NotGenesis));
    }

    #[test]
    fn a_block_that_states_no_height_can_have_any_height_below_the_activation() {
        let early = early_blocks();
        assert_eq!(claim(&early[0]).reliable(None), Some(0));
        assert_eq!(claim(&early[0]).mismatch(7, None), Some(HeightMismatch::Genesis));
        let seventh = claim(&early[7]);
        assert_eq!((seventh.stated(), seventh.reliable(None)), (None, None));
        assert_eq!(seventh.mismatch(7, None), None);
        assert_eq!(seventh.mismatch(227_930, Some(Network::Bitcoin)), None);
        for network in [None, Some(Network::Bitcoin)] {
            let not_stated = Some(HeightMismatch::NotStated(MAINNET_ACTIVATION));
            assert_eq!(seventh.mismatch(227_931, network), not_stated);
        }
        assert_eq!(
            seventh.mismatch(21_111, Some(Network::Testnet)),
            Some(HeightMismatch::NotStated(TESTNET_ACTIVATION))
        );
    }

    #[test]
    fn a_height_that_was_stated_before_the_activation_proves_nothing() {
        let mut block = decode(&early_blocks()[7]).unwrap();
        block.header.version = bitcoin::block::Version::TWO;
        let mut stating = |height: i64| {
            block.txdata[0].input[0].script_sig = Builder::new().push_int(height).into_script();
            HeightClaim::of(&block)
        };
        // A block of version 2 from before the activation: the height may be wrong, or be the target of the block.
        let wrong = stating(200_001);
        assert_eq!((wrong.stated(), wrong.reliable(None)), (Some(200_001), None));
        assert_eq!(wrong.mismatch(200_000, None), None);
        assert_eq!(stating(0x1a05_db8b).mismatch(200_000, None), None);
        // From the activation on, the height must be right.
        assert_eq!(stating(200_001).mismatch(227_931, None), Some(HeightMismatch::Stated(200_001)));
        assert_eq!(stating(227_931).mismatch(227_930, None), Some(HeightMismatch::Stated(227_931)));
    }

    #[test]
    fn on_regtest_stated_heights_are_reliable_from_height_1_on() {
        let blocks = regtest(18);
        for height in [1, 2, 16, 17] {
            let claim = HeightClaim::of(&blocks[height as usize]);
            for network in [None, Some(Network::Regtest)] {
                assert_eq!(claim.reliable(network), Some(height));
                assert_eq!(claim.mismatch(height, network), None);
                assert_eq!(claim.mismatch(height + 1, network), Some(HeightMismatch::Stated(height)));
            }
        }
        // Blocks that state no height can have any height.
        let without = HeightClaim::of(&mine(blocks.last(), 1, 18, 0));
        assert_eq!(without.mismatch(500_000, None), None);
        assert_eq!(without.mismatch(18, Some(Network::Regtest)), None);
    }
}
