//! What the block queue promises, tested without a node and without threads.

use std::path::Path;

use bitcoin::hashes::Hash as _;
use cofferdam_protocol::profile::Hash;
use proptest::prelude::*;

use super::*;
use crate::daemon::settings::FETCH_AHEAD_BYTES;
use cofferdam_chain::blocks::{Origin, SourceBlock};

/// A hash made from a number.
fn hash(number: u32) -> BlockHash {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

fn sized(height: u32, hash: BlockHash, parent: BlockHash, bytes: usize) -> Hashed {
    let origin = Origin { file: Path::new("a test").into(), offset: 0 };
    let block = SourceBlock { height, hash, previous: Some(parent), bytes: vec![0; bytes], origin };
    Hashed { block, sha256: Hash([0; 32]) }
}

/// A block of a chain whose hashes are its heights.
fn block(height: u32) -> Hashed {
    sized(height, hash(height), hash(height.wrapping_sub(1)), 100)
}

/// A queue at height 0 whose blocks up to `to` are planned.
fn planned(to: u32, fetch_ahead: usize) -> BlockQueue {
    let queue = BlockQueue::new(Some((0, hash(0))), 0, 10, fetch_ahead);
    queue.set_target(to, Some(hash(to)));
    queue.plan(&(1..=to).map(hash).collect::<Vec<_>>());
    queue
}

fn take(queue: &BlockQueue) -> Option<FeedEvent> {
    queue.take(Duration::ZERO).unwrap()
}

fn taken_height(queue: &BlockQueue) -> Option<u32> {
    match take(queue) {
        Some(FeedEvent::Block(block)) => Some(block.block.height),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn claimed(queue: &BlockQueue) -> u32 {
    queue.claim().unwrap().height
}

#[test]
fn blocks_are_given_in_order_whatever_order_they_are_delivered_in() {
    let queue = planned(3, 8);
    assert_eq!([claimed(&queue), claimed(&queue), claimed(&queue)], [1, 2, 3]);
    for height in [3, 2] {
        queue.deliver(block(height));
        assert_eq!(taken_height(&queue), None);
    }
    queue.deliver(block(1));
    assert_eq!(
        [taken_height(&queue), taken_height(&queue), taken_height(&queue)],
        [Some(1), Some(2), Some(3)]
    );
    assert!(matches!(take(&queue), Some(FeedEvent::AtTip { height: 3, .. })));
    assert!(take(&queue).is_none(), "said once");
    queue.set_target(4, Some(hash(4)));
    assert!(take(&queue).is_none());
    queue.plan(&[hash(4)]);
    queue.deliver(block(4));
    assert_eq!(taken_height(&queue), Some(4));
    assert!(matches!(take(&queue), Some(FeedEvent::AtTip { height: 4, .. })));
}

#[test]
fn fetching_ahead_is_bounded_in_blocks_and_in_bytes() {
    let half = usize::try_from(FETCH_AHEAD_BYTES / 2).unwrap();
    let queue = planned(9, 4);
    assert_eq!([claimed(&queue), claimed(&queue), claimed(&queue), claimed(&queue)], [1, 2, 3, 4]);
    assert!(queue.lock().claimable(4).is_none(), "four are ahead");
    for height in [2, 3] {
        queue.deliver(sized(height, hash(height), hash(height - 1), half));
    }
    queue.deliver(block(1));
    assert_eq!(taken_height(&queue), Some(1));
    assert!(queue.lock().claimable(4).is_none(), "the bytes are used up");
    assert_eq!(taken_height(&queue), Some(2));
    assert_eq!([claimed(&queue), claimed(&queue)], [5, 6]);
    queue.drop_above(0);
    assert_eq!(queue.lock().ready_bytes, 0);
}

#[test]
fn the_foremost_block_is_fetched_however_full_the_rest_is() {
    let queue = planned(3, 3);
    let first = queue.claim().unwrap();
    assert_eq!(claimed(&queue), 2);
    queue.deliver(sized(2, hash(2), hash(1), usize::try_from(FETCH_AHEAD_BYTES).unwrap()));
    queue.give_back(first);
    assert_eq!(queue.claim(), Some(first));
}

#[test]
fn a_rollback_concerns_given_blocks_and_drops_the_others() {
    let queue = planned(6, 8);
    for height in 1..=4 {
        queue.deliver(block(height));
        assert_eq!(taken_height(&queue), Some(height));
    }
    queue.deliver(block(5));
    let block_6 = BlockRef { height: 6, hash: hash(6) };
    assert_eq!(queue.roll_back(Fork { at: Some((4, hash(4))), left: 5 }), None, "no given block was left");
    queue.deliver(block(6));
    assert_eq!(queue.reject(block_6), 0, "the block is no longer planned");
    assert!(take(&queue).is_none());

    // Two rollbacks before the first one is told are told as one.
    assert_eq!(queue.roll_back(Fork { at: Some((3, hash(3))), left: 4 }), Some((1, (4, hash(4)))));
    queue.plan(&[hash(40), hash(50)]);
    assert_eq!(queue.roll_back(Fork { at: Some((1, hash(1))), left: 2 }), Some((2, (3, hash(3)))));
    queue.plan(&[hash(20)]);
    queue.deliver(sized(2, hash(20), hash(1), 10));
    assert!(matches!(take(&queue), Some(FeedEvent::Rollback { fork: Some(1), depth: 3 })));
    assert_eq!(taken_height(&queue), Some(2));
    assert_eq!((queue.hash_at(2), queue.hash_at(1), queue.hash_at(3)), (Some(hash(20)), Some(hash(1)), None));

    assert!(queue.roll_back(Fork { at: None, left: 2 }).is_some());
    assert!(matches!(take(&queue), Some(FeedEvent::Rollback { fork: None, depth: 1 })));
    assert_eq!(queue.end(), None);
}

#[test]
fn a_mismatch_of_two_neighbours_drops_both_before_either_is_given() {
    let queue = planned(3, 8);
    queue.deliver(sized(2, hash(2), hash(99), 10));
    let mismatch = queue.take_mismatch().unwrap();
    assert_eq!((mismatch.block.height, mismatch.parent), (2, hash(99)));
    assert_eq!(queue.end(), Some((0, hash(0))));
    assert_eq!(queue.take_mismatch(), None);
    queue.deliver(block(1));
    assert!(take(&queue).is_none(), "the plan is gone");
}

#[test]
fn a_lost_block_ends_the_queue_when_its_turn_comes() {
    let queue = planned(3, 8);
    let jobs = [queue.claim().unwrap(), queue.claim().unwrap()];
    queue.lose(jobs[1], DaemonError::Panicked);
    assert!(take(&queue).is_none());
    queue.deliver(block(1));
    assert_eq!(taken_height(&queue), Some(1));
    assert!(matches!(queue.take(Duration::ZERO), Err(DaemonError::Panicked)));
    assert!(matches!(queue.take(Duration::ZERO), Err(DaemonError::Ended)));
    assert_eq!(queue.claim(), None);
    assert!(!queue.pause(Duration::from_mins(5)));
}

#[test]
fn a_failure_is_told_before_blocks_of_a_chain_in_doubt_are_given() {
    let queue = planned(3, 8);
    queue.deliver(block(1));
    queue.fail(DaemonError::Panicked);
    queue.fail(DaemonError::Ended);
    assert!(matches!(queue.take(Duration::ZERO), Err(DaemonError::Panicked)));
}

/// What may happen to a queue, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// The node's chain loses this many blocks, and gains this many.
    Reorganise(usize, usize),
    /// The chain tracker polls the node.
    Poll,
    Claim,
    /// A fetcher delivers one of the claimed blocks.
    Deliver(usize),
    GiveBack(usize),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6usize, 1..8usize).prop_map(|(lost, gained)| Step::Reorganise(lost, gained)),
        2 => Just(Step::Poll),
        4 => Just(Step::Claim),
        4 => any::<usize>().prop_map(Step::Deliver),
        1 => any::<usize>().prop_map(Step::GiveBack),
        3 => Just(Step::Take),
    ]
}

/// A node, a chain tracker, fetchers and a caller that take turns instead of running in threads.
struct World {
    queue: BlockQueue,
    /// The node's chain from height 0 on.
    chain: Vec<BlockHash>,
    /// The parent of every block that ever existed.
    parents: std::collections::HashMap<BlockHash, BlockHash>,
    claimed: Vec<BlockRef>,
    /// The blocks that the caller has.
    given: Vec<BlockHash>,
}

impl World {
    fn new() -> Self {
        let chain = vec![hash(0)];
        let queue = BlockQueue::new(Some((0, hash(0))), 0, 1000, 4);
        Self {
            queue,
            given: chain.clone(),
            chain,
            parents: std::collections::HashMap::new(),
            claimed: Vec::new(),
        }
    }

    fn reorganise(&mut self, lost: usize, gained: usize) {
        self.chain.truncate(self.chain.len().saturating_sub(lost).max(1));
        for _ in 0..gained {
            let parent = *self.chain.last().unwrap();
            let new = hash(u32::try_from(self.parents.len()).unwrap() + 1);
            self.parents.insert(new, parent);
            self.chain.push(new);
        }
    }

    fn poll(&mut self) {
        let tip = u32::try_from(self.chain.len()).unwrap() - 1;
        self.queue.drop_above(tip);
        let end = self.queue.end().unwrap().0;
        let common =
            (0..=end.min(tip)).rev().find(|height| self.queue.hash_at(*height) == Some(self.at(*height)));
        let common = common.unwrap();
        if common < end.min(tip) {
            self.queue.roll_back(Fork { at: Some((common, self.at(common))), left: common + 1 });
        }
        self.queue.set_target(tip, Some(self.at(tip)));
        let planned = self.queue.end().unwrap().0;
        self.queue.plan(self.chain.get(planned as usize + 1..).unwrap_or_default());
    }

    fn at(&self, height: u32) -> BlockHash {
        self.chain[height as usize]
    }

    fn claim(&mut self) {
        let mut state = self.queue.lock();
        if let Some(slot) = state.claimable(4) {
            slot.content = Content::Claimed;
            self.claimed.push(slot.block);
        }
    }

    fn one_claimed(&mut self, which: usize) -> Option<BlockRef> {
        let count = self.claimed.len();
        (count > 0).then(|| self.claimed.swap_remove(which % count))
    }

    /// Whether the caller has everything.
    fn take(&mut self) -> bool {
        match take(&self.queue) {
            Some(FeedEvent::Block(block)) => {
                let block = block.block;
                assert_eq!(block.height as usize, self.given.len());
                assert_eq!(block.previous.as_ref(), self.given.last());
                self.given.push(block.hash);
            }
            Some(FeedEvent::Rollback { fork, depth }) => {
                let left = fork.unwrap() as usize + 1;
                assert_eq!(left + depth as usize, self.given.len());
                self.given.truncate(left);
            }
            Some(FeedEvent::AtTip { height, hash }) => {
                assert_eq!((height as usize + 1, Some(&hash)), (self.given.len(), self.given.last()));
                return true;
            }
            None => {}
        }
        false
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Reorganise(lost, gained) => self.reorganise(*lost, *gained),
            Step::Poll => self.poll(),
            Step::Claim => self.claim(),
            Step::Deliver(which) => {
                if let Some(BlockRef { height, hash }) = self.one_claimed(*which) {
                    self.queue.deliver(sized(height, hash, self.parents[&hash], 1));
                }
            }
            Step::GiveBack(which) => {
                if let Some(block) = self.one_claimed(*which) {
                    self.queue.give_back(block);
                }
            }
            Step::Take => {
                self.take();
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_given_blocks_form_one_chain_that_ends_as_the_nodes(
        steps in proptest::collection::vec(step(), 0..200)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            prop_assert_eq!(world.queue.take_mismatch(), None);
        }
        // One more block, so that there is a tip that the caller was not told yet.
        world.reorganise(0, 1);
        world.poll();
        while !world.take() {
            world.step(&Step::Claim);
            world.step(&Step::Deliver(0));
        }
        prop_assert_eq!(&world.given, &world.chain);
    }
}
