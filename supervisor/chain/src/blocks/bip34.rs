//! What a block says of its own height. Only a genesis block has none before it, and since BIP34 the coinbase of every block
//! names its height; so a block that would be indexed at another height is noticed, whoever says that height.

use bitcoin::hashes::Hash;
use bitcoin::{Block, BlockHash, CompactTarget, Network};

/// From this height on every block of mainnet names its height (BIP34; `BIP34Height` in Bitcoin Core's chainparams.cpp). No
/// other network came to it so late.
const MAINNET_ACTIVATION: u32 = 227_931;
/// The same of testnet3.
const TESTNET_ACTIVATION: u32 = 21_111;
/// Heights of more than three bytes lie three centuries ahead. Old blocks begin their coinbase with a push of four bytes that
/// is none: the bits of their target.
const IMPLAUSIBLE: u32 = 1 << 24;
/// The target that regtest's blocks have, and no others: every second hash meets it.
const REGTEST_BITS: u32 = 0x207f_ffff;

/// What a block says of its height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    is_genesis: bool,
    named: Option<u32>,
    bits: CompactTarget,
}

/// Why a block cannot be at a height.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Contradiction {
    /// A block with none before it, at a height above 0.
    #[error("it is a genesis block, which is at height 0")]
    Genesis,
    /// A block with one before it, at height 0.
    #[error("it is no genesis block, and only such a block is at height 0")]
    NotGenesis,
    /// It names another height.
    #[error("its coinbase names height {0} (BIP34)")]
    Named(u32),
    /// It names no height, and blocks at this height do.
    #[error("its coinbase names no height, which every block from height {0} on does (BIP34)")]
    Unnamed(u32),
}

cofferdam_protocol::debug_as_display!(Contradiction);

impl Claim {
    /// What a block says.
    pub(super) fn of(block: &Block) -> Self {
        Self {
            is_genesis: block.header.prev_blockhash == BlockHash::all_zeros(),
            named: named_height(block),
            bits: block.header.bits,
        }
    }

    /// The height that the block names, whether or not it had to be right; 0 of a genesis block.
    pub(super) fn named(&self) -> Option<u32> {
        if self.is_genesis { Some(0) } else { self.named }
    }

    /// The height that the block certainly has, if it says so. Before BIP34 was a rule a coinbase could begin with anything.
    pub(super) fn certain(&self, network: Option<Network>) -> Option<u32> {
        if self.is_genesis {
            return Some(0);
        }
        self.named.filter(|named| (self.activation(network)..IMPLAUSIBLE).contains(named))
    }

    /// Why the block cannot be at `height`, if it cannot.
    pub(super) fn contradiction(&self, height: u32, network: Option<Network>) -> Option<Contradiction> {
        let activation = self.activation(network);
        match (self.is_genesis, height) {
            (true, 0) => return None,
            (true, _) => return Some(Contradiction::Genesis),
            (false, 0) => return Some(Contradiction::NotGenesis),
            (false, _) => {}
        }
        match self.named {
            Some(named) if named == height => None,
            Some(named) if height >= activation || self.certain(network).is_some() => {
                Some(Contradiction::Named(named))
            }
            // Whoever makes blocks for regtest by a program of their own may leave it out.
            None if height >= activation && !self.is_regtest(network) => {
                Some(Contradiction::Unnamed(activation))
            }
            _ => None,
        }
    }

    /// From which height on blocks name theirs. Blocks without a record do not say their network.
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

/// The height that a block's coinbase names (BIP34): the first push of its script, from version 2 on.
fn named_height(block: &Block) -> Option<u32> {
    if let Ok(height) = block.bip34_block_height() {
        return u32::try_from(height).ok();
    }
    // Heights 1 to 16, which only test networks have, are the opcodes OP_1 to OP_16 rather than a push.
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

    fn claim(bytes: &[u8]) -> Claim {
        Claim::of(&decode(bytes).unwrap())
    }

    #[test]
    fn a_real_block_is_at_the_height_that_it_names() {
        let late = claim(block_702861());
        for network in [None, Some(Network::Bitcoin)] {
            assert_eq!(late.certain(network), Some(702_861));
            assert_eq!(late.contradiction(702_861, network), None);
            assert_eq!(late.contradiction(5, network), Some(Contradiction::Named(702_861)));
        }
        assert_eq!(late.contradiction(0, None), Some(Contradiction::NotGenesis));
    }

    #[test]
    fn old_blocks_may_be_anywhere_below_the_activation() {
        let early = early_blocks();
        assert_eq!(claim(&early[0]).certain(None), Some(0));
        assert_eq!(claim(&early[0]).contradiction(7, None), Some(Contradiction::Genesis));
        let seventh = claim(&early[7]);
        assert_eq!((seventh.named(), seventh.certain(None)), (None, None));
        assert_eq!(seventh.contradiction(7, None), None);
        assert_eq!(seventh.contradiction(227_930, Some(Network::Bitcoin)), None);
        for network in [None, Some(Network::Bitcoin)] {
            let unnamed = Some(Contradiction::Unnamed(MAINNET_ACTIVATION));
            assert_eq!(seventh.contradiction(227_931, network), unnamed);
        }
        assert_eq!(
            seventh.contradiction(21_111, Some(Network::Testnet)),
            Some(Contradiction::Unnamed(TESTNET_ACTIVATION))
        );
    }

    #[test]
    fn a_name_that_was_no_rule_yet_proves_nothing() {
        let mut block = decode(&early_blocks()[7]).unwrap();
        block.header.version = bitcoin::block::Version::TWO;
        let mut named = |height: i64| {
            block.txdata[0].input[0].script_sig = Builder::new().push_int(height).into_script();
            Claim::of(&block)
        };
        // Version 2, before it was a rule: the height may be wrong, or bits of the target.
        let wrong = named(200_001);
        assert_eq!((wrong.named(), wrong.certain(None)), (Some(200_001), None));
        assert_eq!(wrong.contradiction(200_000, None), None);
        assert_eq!(named(0x1a05_db8b).contradiction(200_000, None), None);
        // Once it is a rule, it is one.
        assert_eq!(named(200_001).contradiction(227_931, None), Some(Contradiction::Named(200_001)));
        assert_eq!(named(227_931).contradiction(227_930, None), Some(Contradiction::Named(227_931)));
    }

    #[test]
    fn on_regtest_names_count_from_the_first_block_on() {
        let blocks = regtest(18);
        for height in [1, 2, 16, 17] {
            let claim = Claim::of(&blocks[height as usize]);
            for network in [None, Some(Network::Regtest)] {
                assert_eq!(claim.certain(network), Some(height));
                assert_eq!(claim.contradiction(height, network), None);
                assert_eq!(claim.contradiction(height + 1, network), Some(Contradiction::Named(height)));
            }
        }
        // Those that name none may be anywhere.
        let nameless = Claim::of(&mine(blocks.last(), 1, 18, 0));
        assert_eq!(nameless.contradiction(500_000, None), None);
        assert_eq!(nameless.contradiction(18, Some(Network::Regtest)), None);
    }
}
