//! A feed from files. It gives the chain in bitcoind's block files, from the height at which that chain leaves the indexed chain.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use cofferdam_chain::blocks::{
    self, BlockError, BlockHash, BlockInput, BlockSource, Hashed, IndexedRange, Network, Options,
};

use super::error::FeedError;
use super::follow::Feed;
use crate::event::{FeedEvent, LookupError};

/// How many blocks the reader thread reads, checks and hashes ahead.
const READ_AHEAD_BLOCKS: usize = 16;

/// What the reader thread sends.
type Blocks = Receiver<Result<Hashed, BlockError>>;

/// A feed of the chain in block files. The chain was compared with the indexed chain when the feed was opened.
#[derive(Debug)]
pub struct FileFeed {
    blocks: Blocks,
    reader: Option<JoinHandle<()>>,
    /// The rollback that is given before any block.
    rollback: Option<FeedEvent>,
    /// The first block that is not indexed. The comparison with the indexed chain has already read it.
    first: Option<Hashed>,
    last: Option<(u32, BlockHash)>,
    network: Option<Network>,
    total: Option<u64>,
    ended: bool,
}

impl FileFeed {
    /// Opens `inputs`, and finds the height at which their chain leaves the indexed chain, which ends in `tip`.
    ///
    /// `indexed_hash` returns the hash of the indexed block at a height, and `None` only below the first indexed height.
    /// `progress` is called with the number of bytes that were scanned, and the number of bytes in all.
    ///
    /// # Errors
    /// - [`FeedError::Blocks`] if the inputs cannot be read or hold no chain.
    /// - [`FeedError::Lookup`] if `indexed_hash` fails.
    /// - [`FeedError::TooDeep`] if the two chains part more than `max_reorg_depth` blocks below the tip.
    /// - [`FeedError::Thread`] if the reader thread cannot be started.
    pub fn open(
        inputs: &[BlockInput],
        options: &Options,
        tip: Option<(u32, BlockHash)>,
        indexed_hash: impl Fn(u32) -> Result<Option<BlockHash>, LookupError>,
        max_reorg_depth: u32,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, FeedError> {
        // The first indexed height is used only to count the skipped blocks, and this feed does not report that count. So any
        // value will do.
        let indexed = tip.map(|(tip, _)| IndexedRange { first: 0, tip, overlap: max_reorg_depth });
        let options = Options { indexed, check_chain: true, ..options.clone() };
        let source = blocks::open(inputs, &options, progress)?;
        let (network, total) = (source.network(), source.total());
        let (blocks, reader) = read_ahead(source).map_err(FeedError::Thread)?;
        let reader = Some(reader);
        let mut feed =
            Self { blocks, reader, rollback: None, first: None, last: tip, network, total, ended: false };
        if let Some((height, _)) = tip {
            feed.skip_indexed(height, indexed_hash, max_reorg_depth)?;
        }
        Ok(feed)
    }

    /// The network that the files name, if they name one.
    pub fn network(&self) -> Option<Network> {
        self.network
    }

    /// How many blocks the files deliver, if that is known. Indexed blocks that are read again for the comparison with the
    /// indexed chain count, too.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Skips the blocks that are indexed, and plans a rollback if the files have another branch.
    fn skip_indexed(
        &mut self,
        tip: u32,
        indexed_hash: impl Fn(u32) -> Result<Option<BlockHash>, LookupError>,
        max_reorg_depth: u32,
    ) -> Result<(), FeedError> {
        let indexed_hash =
            |height| indexed_hash(height).map_err(|source| FeedError::Lookup { height, source });
        let mut common = None;
        while let Ok(block) = self.blocks.recv() {
            let block = block?;
            let (height, hash) = (block.block.height, block.block.hash);
            if height > tip {
                self.first = Some(block);
                break;
            }
            match indexed_hash(height)? {
                Some(indexed) if indexed == hash => {
                    common = Some((height, hash));
                    continue;
                }
                Some(_) => {}
                // The indexed chain begins above this height.
                None => continue,
            }
            // A store that begins at this height has no block below it that could be the fork.
            let below = height.checked_sub(1);
            let fork = below.map(indexed_hash).transpose()?.flatten().and(below);
            let depth = tip - fork.map_or(height, |fork| fork + 1) + 1;
            if depth > max_reorg_depth || (common.is_none() && fork.is_some()) {
                return Err(FeedError::TooDeep { height, given: hash, tip, max_reorg_depth });
            }
            self.rollback = Some(FeedEvent::Rollback { fork, depth });
            self.last = common;
            self.first = Some(block);
            break;
        }
        Ok(())
    }

    fn give(&mut self, block: Hashed) -> FeedEvent {
        self.last = Some((block.block.height, block.block.hash));
        FeedEvent::Block(block)
    }
}

impl Feed for FileFeed {
    fn next(&mut self, timeout: Duration) -> Result<Option<FeedEvent>, FeedError> {
        if let Some(rollback) = self.rollback.take() {
            return Ok(Some(rollback));
        }
        if let Some(block) = self.first.take() {
            return Ok(Some(self.give(block)));
        }
        if self.ended {
            return Err(FeedError::Ended);
        }
        match self.blocks.recv_timeout(timeout) {
            Ok(block) => {
                let block = block?;
                Ok(Some(self.give(block)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
                    return Err(FeedError::Reader);
                }
                // A feed without any block has no tip.
                self.last.map_or(Err(FeedError::Ended), |(height, hash)| {
                    Ok(Some(FeedEvent::AtTip { height, hash }))
                })
            }
        }
    }
}

/// Starts a thread that reads, checks and hashes blocks. The thread ends when the receiver is dropped.
fn read_ahead(source: BlockSource) -> std::io::Result<(Blocks, JoinHandle<()>)> {
    let (sender, receiver) = bounded(READ_AHEAD_BLOCKS);
    let read = move || {
        for block in source {
            if sender.send(block.map(Hashed::from)).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("cofferdam-blocks".to_owned()).spawn(read)?;
    Ok((receiver, thread))
}
