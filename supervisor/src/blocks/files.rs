//! A feed from files: the chain that lies in blk files, from where it leaves the one that is indexed.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::feed::{Feed, FeedError, FeedEvent, KnownError};
use super::{BlockError, BlockHash, BlockInput, BlockSource, Network, Options};
use crate::chain::Hashed;

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
        let from = tip.map_or(0, |(height, _)| height.saturating_sub(max_reorg_depth));
        let options = Options { known_below: from, check_chain: true, ..options.clone() };
        let source = super::open(inputs, &options, progress)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::{Files, bytes_of, input, mine, records_of};
    use super::*;
    use bitcoin::Block;

    /// A chain of regtest blocks: `common` of them, then `own` of a branch.
    fn chain(common: u32, branch: u32, own: u32) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        for height in 0..common + own {
            let salt = if height < common { 0 } else { branch };
            blocks.push(mine(blocks.last(), 4, height, salt));
        }
        blocks
    }

    fn open(files: &Files, blocks: &[Block], indexed: &[Block], depth: u32) -> Result<FileFeed, FeedError> {
        open_from(files, blocks, 0, indexed, depth)
    }

    /// The chain `blocks` in a file, beside what is indexed from the height `first` on.
    fn open_from(
        files: &Files,
        blocks: &[Block],
        first: u32,
        indexed: &[Block],
        depth: u32,
    ) -> Result<FileFeed, FeedError> {
        let bytes = bytes_of(blocks);
        let path = files.add("blk00000.dat", records_of(Network::Regtest, &bytes));
        let known: BTreeMap<u32, BlockHash> = (first..).zip(indexed.iter().map(Block::block_hash)).collect();
        let tip = known.last_key_value().map(|(height, hash)| (*height, *hash));
        FileFeed::open(
            &[input(path)],
            &Options::default(),
            tip,
            |height| Ok(known.get(&height).copied()),
            depth,
            &mut |_, _| {},
        )
    }

    /// What the feed gives: heights of blocks, and what else happens in words.
    fn events(mut feed: FileFeed) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            match feed.next(Duration::from_secs(60)) {
                Ok(Some(FeedEvent::Block(block))) => events.push(block.block.height.to_string()),
                Ok(Some(FeedEvent::Rewind { fork, depth })) => {
                    events.push(format!("rewind to {fork:?}, {depth}"));
                }
                Ok(Some(FeedEvent::AtTip { height, .. })) => events.push(format!("tip {height}")),
                Ok(None) => events.push("nothing".to_owned()),
                Err(FeedError::Ended) => return events,
                Err(error) => {
                    events.push(error.to_string());
                    return events;
                }
            }
        }
    }

    #[test]
    fn a_new_store_is_given_everything_and_an_old_one_what_it_lacks() {
        let files = Files::new();
        let blocks = chain(6, 0, 0);
        assert_eq!(events(open(&files, &blocks, &[], 100).unwrap()), ["0", "1", "2", "3", "4", "5", "tip 5"]);
        assert_eq!(events(open(&files, &blocks, &blocks[..4], 100).unwrap()), ["4", "5", "tip 5"]);
        assert_eq!(events(open(&files, &blocks, &blocks[..4], 1).unwrap()), ["4", "5", "tip 5"]);
        assert_eq!(events(open(&files, &blocks, &blocks, 100).unwrap()), ["tip 5"]);
        // Files that end below the tip take nothing back.
        assert_eq!(events(open(&files, &blocks[..3], &blocks, 100).unwrap()), ["tip 5"]);
    }

    #[test]
    fn another_branch_is_rewound_to() {
        let files = Files::new();
        let (a, b) = (chain(5, 1, 3), chain(5, 2, 4));
        assert_eq!(
            events(open(&files, &b, &a, 100).unwrap()),
            ["rewind to Some(4), 3", "5", "6", "7", "8", "tip 8"]
        );
        assert_eq!(
            events(open(&files, &b, &a, 3).unwrap()),
            ["rewind to Some(4), 3", "5", "6", "7", "8", "tip 8"]
        );
        let error = open(&files, &b, &a, 2).unwrap_err();
        assert!(matches!(error, FeedError::TooDeep { height: 5, tip: 7, max_reorg_depth: 2, .. }), "{error}");
        // Nothing of what is indexed, from height 2 on, is common.
        let (a, b) = (chain(2, 1, 3), chain(2, 2, 2));
        assert_eq!(
            events(open_from(&files, &b, 2, &a[2..], 3).unwrap()),
            ["rewind to None, 3", "2", "3", "tip 3"]
        );
        assert!(matches!(open_from(&files, &b, 2, &a[2..], 2), Err(FeedError::TooDeep { .. })));
        // And all of it.
        assert_eq!(events(open_from(&files, &a, 2, &a[2..4], 3).unwrap()), ["4", "tip 4"]);
    }

    #[test]
    fn an_error_of_who_is_asked_is_not_taken_for_no_block() {
        let files = Files::new();
        let (a, b) = (chain(5, 1, 3), chain(5, 2, 4));
        let path = files.add("blk00000.dat", records_of(Network::Regtest, &bytes_of(&b)));
        let tip = Some((7, a[7].block_hash()));
        // At the block where the two part, at the one below it, and at one that both have.
        for failing in [5, 4, 2] {
            let known = |height| match height {
                _ if height == failing => Err("the disk fails".into()),
                height => Ok(a.get(height as usize).map(Block::block_hash)),
            };
            let inputs = [input(path.clone())];
            let error = FileFeed::open(&inputs, &Options::default(), tip, known, 100, &mut |_, _| {});
            let error = error.unwrap_err();
            assert!(matches!(error, FeedError::Known { height, .. } if height == failing), "{error}");
        }
    }

    #[test]
    fn damage_is_told_after_what_is_good() {
        let files = Files::new();
        let blocks = chain(4, 0, 0);
        let mut bytes = bytes_of(&blocks);
        let last = bytes[3].len() - 1;
        bytes[3][last] ^= 1;
        let path = files.add("blk00000.dat", records_of(Network::Regtest, &bytes));
        let feed =
            FileFeed::open(&[input(path)], &Options::default(), None, |_| Ok(None), 100, &mut |_, _| {})
                .unwrap();
        let events = events(feed);
        assert_eq!(events[..3], ["0", "1", "2"]);
        assert!(events[3].contains("merkle root"), "{events:?}");
    }
}
