//! Real blocks that come with the program, so that `cofferdam bench`, `cofferdam verify` and the tests need
//! neither a node nor a download. Where they are from and how they were checked:
//! `supervisor/chain/bundled/README.md`.

use super::discover::Found;
use super::framing::XorKey;
use super::plan::Plan;
use super::store::{BlkFile, Store};
use super::{BlockError, BlockSource, Options};

/// Mainnet's blocks 0 to 438, as blk records.
pub(super) const EARLY: &[u8] = include_bytes!("../../bundled/mainnet-0-438.blk");
/// Height of the one later block: 1.4 MB, with the witness data and the variety of scripts that the early
/// ones lack.
const LATE_HEIGHT: u32 = 702_861;

/// The bundled blocks: mainnet 0 to 438, then 702861. They pass through the same checks as any other.
///
/// # Errors
///
/// None, unless the program file is damaged.
pub fn bundled() -> Result<BlockSource, BlockError> {
    let early = Store::bundled("bundled:mainnet-0-438.blk", EARLY);
    let late = Store::bundled("bundled:mainnet-702861.raw", bitcoin_test_data::blocks::mainnet_702861());
    // Between the two lies all that this program does not bring along.
    let options = Options { allow_gaps: true, ..Options::default() };
    let mut plan = Plan::new(&options);
    plan.add(Found::Blk(BlkFile { store: early, key: XorKey::NONE }), None)?;
    plan.add(Found::Raw(late), Some(LATE_HEIGHT))?;
    plan.open(&mut |_, _| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_blocks_are_what_they_are_said_to_be() {
        let source = bundled().unwrap();
        assert_eq!(source.total(), Some(440));
        assert_eq!(source.network(), Some(crate::blocks::Network::Bitcoin));
        assert!(!source.links());
        let blocks: Vec<_> = source.map(Result::unwrap).collect();
        let heights: Vec<_> = blocks.iter().map(|block| block.height).collect();
        assert_eq!(heights, (0..=438).chain([702_861]).collect::<Vec<_>>());
        assert_eq!(
            blocks[0].hash.to_string(),
            "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
        );
        assert_eq!(
            blocks[439].hash.to_string(),
            "000000000000000000000c835b2adcaedc20fdf6ee440009c249452c726dafae"
        );
        assert!(
            blocks[1..439].iter().zip(&blocks).all(|(block, before)| block.previous == Some(before.hash))
        );
        assert_eq!(blocks[1].origin.to_string(), "bundled:mainnet-0-438.blk at byte 293");
    }
}
