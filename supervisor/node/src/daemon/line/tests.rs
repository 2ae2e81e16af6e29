//! What the line promises, without a node and without threads.

use std::path::Path;

use bitcoin::hashes::Hash as _;
use cofferdam_protocol::profile::Hash;
use proptest::prelude::*;

use super::*;
use crate::daemon::settings::AHEAD_BYTES;
use cofferdam_chain::blocks::{Origin, SourceBlock};

/// A hash that stands for a number.
fn hash(number: u32) -> BlockHash {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

fn sized(height: u32, own: BlockHash, parent: BlockHash, bytes: usize) -> Hashed {
    let origin = Origin { file: Path::new("a test").into(), offset: 0 };
    let block = SourceBlock { height, hash: own, previous: Some(parent), bytes: vec![0; bytes], origin };
    Hashed { block, sha256: Hash([0; 32]) }
}

/// A block of a chain whose hashes are its heights.
fn block(height: u32) -> Hashed {
    sized(height, hash(height), hash(height.wrapping_sub(1)), 100)
}

/// A line at height 0 with a plan up to `to`.
fn planned(to: u32, pipeline: usize) -> Line {
    let line = Line::new(Some((0, hash(0))), 0, 10, pipeline);
    line.aim(to, Some(hash(to)));
    line.plan(&(1..=to).map(hash).collect::<Vec<_>>());
    line
}

fn take(line: &Line) -> Option<FeedEvent> {
    line.take(Duration::ZERO).unwrap()
}

fn taken_height(line: &Line) -> Option<u32> {
    match take(line) {
        Some(FeedEvent::Block(block)) => Some(block.block.height),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn claimed(line: &Line) -> u32 {
    line.claim().unwrap().height
}

#[test]
fn blocks_are_given_in_order_whatever_the_order_of_their_coming() {
    let line = planned(3, 8);
    assert_eq!([claimed(&line), claimed(&line), claimed(&line)], [1, 2, 3]);
    for height in [3, 2] {
        line.deliver(block(height));
        assert_eq!(taken_height(&line), None);
    }
    line.deliver(block(1));
    assert_eq!([taken_height(&line), taken_height(&line), taken_height(&line)], [Some(1), Some(2), Some(3)]);
    assert!(matches!(take(&line), Some(FeedEvent::AtTip { height: 3, .. })));
    assert!(take(&line).is_none(), "said once");
    line.aim(4, Some(hash(4)));
    assert!(take(&line).is_none());
    line.plan(&[hash(4)]);
    line.deliver(block(4));
    assert_eq!(taken_height(&line), Some(4));
    assert!(matches!(take(&line), Some(FeedEvent::AtTip { height: 4, .. })));
}

#[test]
fn what_is_ahead_is_bounded_by_number_and_by_bytes() {
    let half = usize::try_from(AHEAD_BYTES / 2).unwrap();
    let line = planned(9, 4);
    assert_eq!([claimed(&line), claimed(&line), claimed(&line), claimed(&line)], [1, 2, 3, 4]);
    assert!(line.lock().claimable(4).is_none(), "four are ahead");
    for height in [2, 3] {
        line.deliver(sized(height, hash(height), hash(height - 1), half));
    }
    line.deliver(block(1));
    assert_eq!(taken_height(&line), Some(1));
    assert!(line.lock().claimable(4).is_none(), "the bytes are used up");
    assert_eq!(taken_height(&line), Some(2));
    assert_eq!([claimed(&line), claimed(&line)], [5, 6]);
    line.forget_above(0);
    assert_eq!(line.lock().ready_bytes, 0);
}

#[test]
fn the_foremost_block_is_fetched_however_full_the_rest_is() {
    let line = planned(3, 3);
    let first = line.claim().unwrap();
    assert_eq!(claimed(&line), 2);
    line.deliver(sized(2, hash(2), hash(1), usize::try_from(AHEAD_BYTES).unwrap()));
    line.give_back(first);
    assert_eq!(line.claim(), Some(first));
}

#[test]
fn a_cut_takes_back_what_was_given_and_drops_what_was_not() {
    let line = planned(6, 8);
    for height in 1..=4 {
        line.deliver(block(height));
        assert_eq!(taken_height(&line), Some(height));
    }
    line.deliver(block(5));
    let job = Job { height: 6, hash: hash(6) };
    assert_eq!(line.cut(Fork { at: Some((4, hash(4))), left: 5 }), None, "nothing given was left");
    line.deliver(block(6));
    assert_eq!(line.reject(job), 0, "it is no longer of the line");
    assert!(take(&line).is_none());

    // Two cuts before the first is told are one.
    assert_eq!(line.cut(Fork { at: Some((3, hash(3))), left: 4 }), Some((1, (4, hash(4)))));
    line.plan(&[hash(40), hash(50)]);
    assert_eq!(line.cut(Fork { at: Some((1, hash(1))), left: 2 }), Some((2, (3, hash(3)))));
    line.plan(&[hash(20)]);
    line.deliver(sized(2, hash(20), hash(1), 10));
    assert!(matches!(take(&line), Some(FeedEvent::Rewind { fork: Some(1), depth: 3 })));
    assert_eq!(taken_height(&line), Some(2));
    assert_eq!((line.at(2), line.at(1), line.at(3)), (Some(hash(20)), Some(hash(1)), None));

    assert!(line.cut(Fork { at: None, left: 2 }).is_some());
    assert!(matches!(take(&line), Some(FeedEvent::Rewind { fork: None, depth: 1 })));
    assert_eq!(line.end(), None);
}

#[test]
fn neighbours_that_are_none_are_torn_apart_before_either_is_given() {
    let line = planned(3, 8);
    line.deliver(sized(2, hash(2), hash(99), 10));
    let tear = line.take_tear().unwrap();
    assert_eq!((tear.block.height, tear.parent), (2, hash(99)));
    assert_eq!(line.end(), Some((0, hash(0))));
    assert_eq!(line.take_tear(), None);
    line.deliver(block(1));
    assert!(take(&line).is_none(), "the plan is gone");
}

#[test]
fn a_lost_block_is_the_end_when_its_turn_comes() {
    let line = planned(3, 8);
    let jobs = [line.claim().unwrap(), line.claim().unwrap()];
    line.lose(jobs[1], DaemonError::Died);
    assert!(take(&line).is_none());
    line.deliver(block(1));
    assert_eq!(taken_height(&line), Some(1));
    assert!(matches!(line.take(Duration::ZERO), Err(DaemonError::Died)));
    assert!(matches!(line.take(Duration::ZERO), Err(DaemonError::Ended)));
    assert_eq!(line.claim(), None);
    assert!(!line.pause(Duration::from_mins(5)));
}

#[test]
fn a_failure_is_told_before_what_was_fetched_of_a_chain_that_is_in_doubt() {
    let line = planned(3, 8);
    line.deliver(block(1));
    line.fail(DaemonError::Died);
    line.fail(DaemonError::Ended);
    assert!(matches!(line.take(Duration::ZERO), Err(DaemonError::Died)));
}

/// What may happen to a line, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// The node's chain loses and gains so many blocks.
    Reorganise(usize, usize),
    /// The conductor looks at the node.
    Look,
    Claim,
    /// One of those claimed comes.
    Deliver(usize),
    GiveBack(usize),
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6usize, 1..8usize).prop_map(|(lost, gained)| Step::Reorganise(lost, gained)),
        2 => Just(Step::Look),
        4 => Just(Step::Claim),
        4 => any::<usize>().prop_map(Step::Deliver),
        1 => any::<usize>().prop_map(Step::GiveBack),
        3 => Just(Step::Take),
    ]
}

/// A node, a conductor, fetchers and a caller, by turns instead of threads.
struct World {
    line: Line,
    /// The node's chain from height 0 on.
    chain: Vec<BlockHash>,
    /// The parent of every block that ever was.
    parents: std::collections::HashMap<BlockHash, BlockHash>,
    claimed: Vec<Job>,
    /// What the caller has.
    given: Vec<BlockHash>,
}

impl World {
    fn new() -> Self {
        let chain = vec![hash(0)];
        let line = Line::new(Some((0, hash(0))), 0, 1000, 4);
        Self {
            line,
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

    fn look(&mut self) {
        let tip = u32::try_from(self.chain.len()).unwrap() - 1;
        self.line.forget_above(tip);
        let end = self.line.end().unwrap().0;
        let common = (0..=end.min(tip)).rev().find(|height| self.line.at(*height) == Some(self.at(*height)));
        let common = common.unwrap();
        if common < end.min(tip) {
            self.line.cut(Fork { at: Some((common, self.at(common))), left: common + 1 });
        }
        self.line.aim(tip, Some(self.at(tip)));
        let planned = self.line.end().unwrap().0;
        self.line.plan(self.chain.get(planned as usize + 1..).unwrap_or_default());
    }

    fn at(&self, height: u32) -> BlockHash {
        self.chain[height as usize]
    }

    fn claim(&mut self) {
        let mut state = self.line.lock();
        if let Some(slot) = state.claimable(4) {
            slot.content = Content::Claimed;
            self.claimed.push(slot.job);
        }
    }

    fn one_claimed(&mut self, which: usize) -> Option<Job> {
        let count = self.claimed.len();
        (count > 0).then(|| self.claimed.swap_remove(which % count))
    }

    /// Whether the caller has everything.
    fn take(&mut self) -> bool {
        match take(&self.line) {
            Some(FeedEvent::Block(block)) => {
                let block = block.block;
                assert_eq!(block.height as usize, self.given.len());
                assert_eq!(block.previous.as_ref(), self.given.last());
                self.given.push(block.hash);
            }
            Some(FeedEvent::Rewind { fork, depth }) => {
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
            Step::Look => self.look(),
            Step::Claim => self.claim(),
            Step::Deliver(which) => {
                if let Some(Job { height, hash: own }) = self.one_claimed(*which) {
                    self.line.deliver(sized(height, own, self.parents[&own], 1));
                }
            }
            Step::GiveBack(which) => {
                if let Some(job) = self.one_claimed(*which) {
                    self.line.give_back(job);
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
    fn whatever_happens_what_is_given_is_one_chain_and_ends_as_the_nodes(
        steps in proptest::collection::vec(step(), 0..200)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            prop_assert_eq!(world.line.take_tear(), None);
        }
        // One block more than was ever given, so that there is a tip which was not told.
        world.reorganise(0, 1);
        world.look();
        while !world.take() {
            world.step(&Step::Claim);
            world.step(&Step::Deliver(0));
        }
        prop_assert_eq!(&world.given, &world.chain);
    }
}
