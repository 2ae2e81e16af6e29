//! Real blocks that are compiled into the program, so that `cofferdam run` without `--blocks`, `cofferdam bench` and the tests
//! need neither a node nor a download.
//!
//! `supervisor/chain/bundled/README.md` says where the blocks come from and how they were checked.

use super::byte_source::{BlkFile, ByteSource};
use super::discover::InputFile;
use super::error::BlockError;
use super::open::SourceBuilder;
use super::options::Options;
use super::source::BlockSource;
use super::xor::XorKey;

/// Blocks 0 to 438 of mainnet, as blk records.
const EARLY: &[u8] = include_bytes!("../../bundled/mainnet-0-438.blk");
/// The height of the one later block. It has 1.4 MB, witness data, and kinds of scripts that the early blocks lack.
const LATE_HEIGHT: u32 = 702_861;

/// The bundled blocks: mainnet 0 to 438, then 702861. They pass the same checks as any other blocks.
///
/// # Errors
/// None, unless the program file is damaged.
pub fn bundled() -> Result<BlockSource, BlockError> {
    let early = ByteSource::bundled("bundled:mainnet-0-438.blk", EARLY);
    let late = ByteSource::bundled("bundled:mainnet-702861.raw", bitcoin_test_data::blocks::mainnet_702861());
    // The blocks between 438 and 702861 are not bundled.
    let options = Options { allow_gaps: true, ..Options::default() };
    let mut builder = SourceBuilder::new(&options);
    builder.add(InputFile::Blk(BlkFile { source: early, key: XorKey::NONE }), None)?;
    builder.add(InputFile::Raw(late), Some(LATE_HEIGHT))?;
    builder.open(&mut |_, _| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_blocks_are_what_their_readme_says() {
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
