//! A caller of a feed that believes nothing: it keeps the chain that it was given, as an index would, and fails at the first
//! event that does not fit.

use std::time::{Duration, Instant};

use cofferdam::blocks::BlockHash;
use cofferdam::node::daemon::{DaemonError, Follower, FollowerSettings};
use cofferdam::node::feed::FeedEvent;
use sha2::{Digest, Sha256};

use super::command::PATIENCE;
use super::daemon::hash_of;

/// A follower, and what it gave.
#[derive(Debug)]
pub struct Following {
    follower: Follower,
    /// Heights and hashes of the chain, as it is now.
    pub chain: Vec<(u32, BlockHash)>,
    /// Every rewind: fork and depth.
    pub rewinds: Vec<(Option<u32>, u32)>,
    /// How many blocks were given in all.
    pub given: usize,
}

impl Following {
    /// Starts with nothing.
    #[must_use]
    pub fn start(settings: &FollowerSettings) -> Self {
        Self::resume(settings, Vec::new())
    }

    /// Goes on after a chain that was indexed before.
    #[must_use]
    pub fn resume(settings: &FollowerSettings, chain: Vec<(u32, BlockHash)>) -> Self {
        let committed = chain.clone();
        let at = move |height| committed.iter().find(|(known, _)| *known == height).map(|(_, hash)| *hash);
        let known = move |height| Ok(at(height));
        let follower = Follower::start(settings.clone(), chain.last().copied(), known).expect("it starts");
        Self { follower, chain, rewinds: Vec::new(), given: 0 }
    }

    /// The follower.
    #[must_use]
    pub fn follower(&self) -> &Follower {
        &self.follower
    }

    /// The next event, checked and applied.
    ///
    /// # Errors
    /// That of the follower.
    pub fn event(&mut self) -> Result<FeedEvent, DaemonError> {
        let began = Instant::now();
        loop {
            if let Some(event) = self.follower.next(Duration::from_millis(100))? {
                self.apply(&event);
                return Ok(event);
            }
            assert!(began.elapsed() < PATIENCE, "nothing comes: {:?}", self.follower.status());
        }
    }

    /// Takes events until it is at this tip.
    pub fn reach(&mut self, tip: BlockHash) {
        loop {
            if let FeedEvent::AtTip { hash, .. } = self.event().expect("it goes on")
                && hash == tip
            {
                return;
            }
        }
    }

    /// Takes events until there is a chain of so many blocks.
    pub fn take(&mut self, blocks: usize) {
        while self.chain.len() < blocks {
            self.event().expect("it goes on");
        }
    }

    /// Takes events until there is an error.
    #[must_use]
    pub fn fail(&mut self) -> DaemonError {
        loop {
            if let Err(error) = self.event() {
                let after = self.follower.next(Duration::ZERO);
                assert!(matches!(after, Err(DaemonError::Ended)), "{after:?}");
                return error;
            }
        }
    }

    fn apply(&mut self, event: &FeedEvent) {
        let tip = self.chain.last().copied();
        match event {
            FeedEvent::Block(hashed) => {
                let block = &hashed.block;
                assert_eq!(hash_of(&block.bytes), block.hash);
                assert_eq!(hashed.sha256.0, <[u8; 32]>::from(Sha256::digest(&block.bytes)));
                if let Some((height, hash)) = tip {
                    assert_eq!((block.height, block.previous), (height + 1, Some(hash)));
                }
                self.chain.push((block.height, block.hash));
                self.given += 1;
            }
            FeedEvent::Rollback { fork, depth } => {
                let before = self.chain.len();
                self.chain.retain(|(height, _)| fork.is_some_and(|fork| *height <= fork));
                assert_eq!(self.chain.last().map(|(height, _)| *height), *fork, "the fork was given");
                assert_eq!(before - self.chain.len(), *depth as usize);
                assert!(*depth > 0, "a rewind of nothing");
                self.rewinds.push((*fork, *depth));
            }
            FeedEvent::AtTip { height, hash } => {
                if let Some(tip) = tip {
                    assert_eq!(tip, (*height, *hash));
                }
            }
        }
    }
}

/// The heights and hashes of serialised blocks, the first of which has height 0.
#[must_use]
pub fn indexed(blocks: &[Vec<u8>]) -> Vec<(u32, BlockHash)> {
    (0..).zip(blocks.iter().map(|block| hash_of(block))).collect()
}
