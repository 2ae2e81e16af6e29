//! The parts of a source. Each part is read to its end before the next one.

use std::fmt;
use std::io::Read;

use bitcoin::Network;

use super::best_chain::BestChain;
use super::block::{Origin, ReadBlock};
use super::byte_source::ByteSource;
use super::error::BlockError;
use super::options::Options;
use super::stream::Stream;
use super::verify::{BlockDefect, verify};

/// One part of a source.
pub(super) enum Part {
    /// A file that is one block.
    Raw { source: ByteSource, height: Option<u32> },
    /// A chain of blocks in blk files.
    Chain(BestChain),
    /// Standard input, or another pipe.
    Stream { stream: Stream<Box<dyn Read + Send>>, height: Option<u32> },
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw { source, .. } => f.debug_tuple("Raw").field(source).finish(),
            Self::Chain(chain) => f.debug_tuple("Chain").field(chain).finish(),
            Self::Stream { .. } => f.debug_tuple("Stream").finish_non_exhaustive(),
        }
    }
}

impl Part {
    /// How many blocks the part has. `None` for a stream, because its number of blocks is known only at its end.
    pub(super) fn blocks(&self) -> Option<u64> {
        match self {
            Self::Raw { .. } => Some(1),
            Self::Chain(chain) => Some(chain.remaining()),
            Self::Stream { .. } => None,
        }
    }

    /// How many blocks of the part are skipped because they are indexed already.
    pub(super) fn already_indexed(&self) -> u64 {
        match self {
            Self::Chain(chain) => chain.already_indexed(),
            Self::Raw { .. } | Self::Stream { .. } => 0,
        }
    }

    /// Reads the next block. `None` at the end of the part.
    pub(super) fn next_block(&mut self, options: &Options) -> Result<Option<ReadBlock>, BlockError> {
        match self {
            Self::Raw { source, height } => read_raw(source, *height, options).map(Some),
            Self::Chain(chain) => chain.next_block(),
            Self::Stream { stream, height } => {
                let block = stream.next_block()?;
                // The height in the argument is the height of the first block only.
                Ok(block.map(|block| ReadBlock { height: height.take(), ..block }))
            }
        }
    }

    /// Whether the part has exactly one block.
    pub(super) fn is_single(&self) -> bool {
        matches!(self, Self::Raw { .. })
    }
}

/// Reads a file that is one block.
fn read_raw(source: &ByteSource, height: Option<u32>, options: &Options) -> Result<ReadBlock, BlockError> {
    let bytes = source.read_whole(options.max_block_bytes)?;
    let origin = source.origin(0);
    if options.opaque {
        return Ok(ReadBlock { height, ..ReadBlock::opaque(bytes, origin) });
    }
    match verify(&bytes) {
        Ok(block) => Ok(ReadBlock { height, ..ReadBlock::decoded(&block, bytes, origin) }),
        Err(defect @ (BlockDefect::Undecodable { .. } | BlockDefect::TrailingBytes { .. })) => {
            Err(BlockError::NotABlock { origin, defect })
        }
        Err(defect) => Err(BlockError::DamagedBlock { origin, defect }),
    }
}

/// Checks that a part belongs to the network of the parts before it, if their network is known.
pub(super) fn join_network(
    network: &mut Option<Network>,
    found: Network,
    origin: &Origin,
) -> Result<(), BlockError> {
    let expected = *network.get_or_insert(found);
    if found == expected {
        return Ok(());
    }
    Err(BlockError::MixedNetworks { origin: origin.clone(), expected, found })
}
