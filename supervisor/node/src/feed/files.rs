//! A feed from files: the chain that lies in blk files, from where it leaves the one that is indexed.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use cofferdam_chain::blocks::{
    self, BlockError, BlockHash, BlockInput, BlockSource, Hashed, Known, Network, Options,
};

use super::{Feed, FeedError, FeedEvent, KnownError};

/// How many blocks are read, checked and hashed ahead.
const AHEAD: usize = 16;

/// A chain in files that was compared with one that is indexed.
#[derive(Debug)]
pub struct FileFeed {
    blocks: Receiver<Result<Hashed, BlockError>>,
    reader: Option<JoinHandle<()>>,
    /// What is given before anything is read.
    rewind: Option<FeedEvent>,
    /// The first block that is not indexed.
    first: Option<Hashed>,
    last: Option<(u32, BlockHash)>,
    network: Option<Network>,
    total: Option<u64>,
    ended: bool,
}

impl FileFeed {
    /// Opens `inputs`, and finds where the chain in them leaves the one that ends in `tip`, of which `known` gives the hash at
    /// a height. `known` says `None` only below the first indexed height. `progress` hears how many bytes were scanned, and of
    /// how many.
    ///
    /// # Errors
    /// [`FeedError::Blocks`]; [`FeedError::Known`]; [`FeedError::TooDeep`] if they part more than `max_reorg_depth` blocks
    /// below the tip.
    pub fn open(
        inputs: &[BlockInput],
        options: &Options,
        tip: Option<(u32, BlockHash)>,
        known: impl Fn(u32) -> Result<Option<BlockHash>, KnownError>,
        max_reorg_depth: u32,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, FeedError> {
        // Where what is indexed begins is not needed here, but for figures that nobody asks for.
        let indexed = tip.map(|(tip, _)| Known { first: 0, tip, again: max_reorg_depth });
        let options = Options { known: indexed, check_chain: true, ..options.clone() };
        let source = blocks::open(inputs, &options, progress)?;
        let (network, total) = (source.network(), source.total());
        let (blocks, reader) = read_ahead(source).map_err(FeedError::Thread)?;
        let reader = Some(reader);
        let mut feed =
            Self { blocks, reader, rewind: None, first: None, last: tip, network, total, ended: false };
        if let Some((height, _)) = tip {
            feed.find_fork(height, known, max_reorg_depth)?;
        }
        Ok(feed)
    }

    /// The network that the files name, if they do.
    pub fn network(&self) -> Option<Network> {
        self.network
    }

    /// How many blocks were found, if that is known: those that are indexed already among them.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Passes over what is indexed.
    fn find_fork(
        &mut self,
        tip: u32,
        known: impl Fn(u32) -> Result<Option<BlockHash>, KnownError>,
        max_reorg_depth: u32,
    ) -> Result<(), FeedError> {
        let known = |height| known(height).map_err(|source| FeedError::Known { height, source });
        let mut common = None;
        while let Ok(block) = self.blocks.recv() {
            let block = block?;
            let (height, hash) = (block.block.height, block.block.hash);
            if height > tip {
                self.first = Some(block);
                break;
            }
            match known(height)? {
                Some(indexed) if indexed == hash => {
                    common = Some((height, hash));
                    continue;
                }
                Some(_) => {}
                // What is indexed begins above it.
                None => continue,
            }
            // A store that begins at this height has nothing below it to agree on.
            let below = height.checked_sub(1);
            let fork = below.map(known).transpose()?.flatten().and(below);
            let depth = tip - fork.map_or(height, |fork| fork + 1) + 1;
            if depth > max_reorg_depth || (common.is_none() && fork.is_some()) {
                return Err(FeedError::TooDeep { height, given: hash, tip, max_reorg_depth });
            }
            self.rewind = Some(FeedEvent::Rewind { fork, depth });
            self.last = common;
            self.first = Some(block);
            break;
        }
        Ok(())
    }

    fn block(&mut self, block: Hashed) -> FeedEvent {
        self.last = Some((block.block.height, block.block.hash));
        FeedEvent::Block(block)
    }
}

impl Feed for FileFeed {
    fn next(&mut self, patience: Duration) -> Result<Option<FeedEvent>, FeedError> {
        if let Some(rewind) = self.rewind.take() {
            return Ok(Some(rewind));
        }
        if let Some(block) = self.first.take() {
            return Ok(Some(self.block(block)));
        }
        if self.ended {
            return Err(FeedError::Ended);
        }
        match self.blocks.recv_timeout(patience) {
            Ok(block) => {
                let block = block?;
                Ok(Some(self.block(block)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                if self.reader.take().is_some_and(|reader| reader.join().is_err()) {
                    return Err(FeedError::Reader);
                }
                // Of no block at all there is no tip.
                self.last.map_or(Err(FeedError::Ended), |(height, hash)| {
                    Ok(Some(FeedEvent::AtTip { height, hash }))
                })
            }
        }
    }
}

type Blocks = Receiver<Result<Hashed, BlockError>>;

/// Reads, checks and hashes blocks on a thread of its own, which ends when nobody receives any more.
fn read_ahead(source: BlockSource) -> std::io::Result<(Blocks, JoinHandle<()>)> {
    let (sender, receiver) = bounded(AHEAD);
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
