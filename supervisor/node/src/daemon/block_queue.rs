//! The queue of blocks between the node and the caller: blocks that are planned, blocks that are being fetched, and blocks that
//! are ready to be taken. The threads of a follower share blocks only through this queue.
//!
//! The queue guarantees what a feed guarantees: the blocks that the caller takes form one chain. After a rollback of the queue,
//! the caller is told of the rollback first, and never takes a block of the branch that was left.
//!
//! Three users share the queue. The chain tracker plans blocks at the end of the queue, and rolls the queue back if the node has
//! left the queue's chain. The fetchers claim the first planned blocks, and deliver them. The caller takes ready blocks from the
//! front of the queue.
//!
//! Every wait is a wait on one condition variable, and ends at once when the queue is stopped.

mod block_ref;
mod queue_state;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::BlockHash;
use cofferdam_base::sync::lock;

use self::queue_state::{Content, QueueState, Rollback, Slot};
use super::error::DaemonError;
use crate::event::FeedEvent;
use cofferdam_chain::Hashed;

pub(super) use self::block_ref::{BlockRef, Fork, Mismatch, PLANNED_BLOCKS};

/// The queue, as the threads share it.
#[derive(Debug)]
pub(super) struct BlockQueue {
    state: Mutex<QueueState>,
    /// Notified whenever the state changes in a way that a thread may wait for.
    changed: Condvar,
    fetch_ahead: usize,
}

impl BlockQueue {
    /// A queue that goes on after `tip`, or that begins at the height `start`. It keeps the hashes of the last `remembered`
    /// given blocks, and lets `fetch_ahead` blocks be fetched ahead. Both are raised to at least 1.
    pub(super) fn new(
        tip: Option<(u32, BlockHash)>,
        start: u32,
        remembered: usize,
        fetch_ahead: usize,
    ) -> Self {
        let state = QueueState::new(tip, start, remembered.max(1));
        Self { state: Mutex::new(state), changed: Condvar::new(), fetch_ahead: fetch_ahead.max(1) }
    }

    /// Ends every wait, so that all threads can end.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether the queue was stopped, or ended with an error.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits for `pause`, or until the queue is stopped. Returns whether the queue goes on.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        !self.wait_while(pause, |state| !state.stopped).stopped
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    fn wait_while(
        &self,
        timeout: Duration,
        condition: impl Fn(&QueueState) -> bool,
    ) -> MutexGuard<'_, QueueState> {
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The methods that the chain tracker calls.
impl BlockQueue {
    /// The highest block that was given.
    pub(super) fn given(&self) -> Option<(u32, BlockHash)> {
        self.lock().given.tip()
    }

    /// The highest block that the caller holds. A block that is rolled back counts until the caller was told of the rollback.
    pub(super) fn held(&self) -> Option<u32> {
        let state = self.lock();
        let untold = state.rollback.as_ref().map_or(0, |rollback| rollback.depth);
        state.given.tip().map(|(height, _)| height.saturating_add(untold))
    }

    /// The highest planned block or, if no block is planned, the last given one.
    pub(super) fn end(&self) -> Option<(u32, BlockHash)> {
        self.lock().end()
    }

    /// The hash of the queue's chain at a height, if the queue still has it.
    pub(super) fn hash_at(&self, height: u32) -> Option<BlockHash> {
        let state = self.lock();
        state.slot(height).map(|slot| slot.block.hash).or_else(|| state.given.at(height))
    }

    /// Plans the blocks that follow the end.
    pub(super) fn plan(&self, hashes: &[BlockHash]) {
        let mut state = self.lock();
        for hash in hashes {
            let Some(height) = state.end().map_or(Some(state.start), |(height, _)| height.checked_add(1))
            else {
                break;
            };
            state.slots.push_back(Slot::planned(BlockRef { height, hash: *hash }));
        }
        self.changed.notify_all();
    }

    /// Whether more blocks should be planned to reach the target.
    pub(super) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Sets the target: the height of the last block to give, and the hash of that block if it is known.
    pub(super) fn set_target(&self, height: u32, hash: Option<BlockHash>) {
        self.lock().target = Some((height, hash));
        self.changed.notify_all();
    }

    /// Drops the planned blocks above a height, because the node no longer has them.
    pub(super) fn drop_above(&self, height: u32) {
        self.lock().drop_above(Some(height));
    }

    /// Drops all planned blocks. The caller is given no further block until more are planned.
    pub(super) fn drop_planned(&self) {
        self.lock().drop_above(None);
    }

    /// Rolls everything above the fork back. Returns how many given blocks were rolled back, and the highest of them. `None` if
    /// no given block was rolled back.
    pub(super) fn roll_back(&self, fork: Fork) -> Option<(u32, (u32, BlockHash))> {
        let mut state = self.lock();
        state.drop_above(fork.at.map(|(height, _)| height));
        let tip = state.given.tip().filter(|(tip, _)| *tip >= fork.left)?;
        let depth = tip.0 - fork.left + 1;
        let before = state.rollback.as_ref().map_or(0, |rollback| rollback.depth);
        state.rollback = Some(Rollback { fork: fork.at.map(|(height, _)| height), depth: before + depth });
        state.given.truncate(fork.at);
        state.at_tip_was_told = false;
        self.changed.notify_all();
        Some((depth, tip))
    }

    /// Takes the mismatch that a fetcher found, if one found any since the last call.
    pub(super) fn take_mismatch(&self) -> Option<Mismatch> {
        self.lock().mismatch.take()
    }

    /// Waits until more blocks should be planned, but at most for `pause`. Returns whether the queue goes on.
    pub(super) fn wait_for_room(&self, pause: Duration) -> bool {
        !self.wait_while(pause, |state| !state.stopped && !state.has_room()).stopped
    }

    /// Ends the queue with an error: drops all planned blocks, and tells the caller why. Only the first error is told.
    pub(super) fn fail(&self, error: DaemonError) {
        let mut state = self.lock();
        state.drop_above(None);
        state.stopped = true;
        state.failure.get_or_insert(error);
        self.changed.notify_all();
    }
}

/// The methods that the fetchers call.
impl BlockQueue {
    /// Claims the first block that should be fetched and that no thread is fetching. Waits until there is one. Returns `None`
    /// when the queue is stopped.
    pub(super) fn claim(&self) -> Option<BlockRef> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(slot) = state.claimable(self.fetch_ahead) {
                slot.content = Content::Claimed;
                return Some(slot.block);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Delivers a claimed block. The block is dropped if the queue was rolled back below it meanwhile.
    pub(super) fn deliver(&self, block: Hashed) {
        let mut state = self.lock();
        let claimed = BlockRef { height: block.block.height, hash: block.block.hash };
        let Some(below) = state.hash_below(claimed) else { return };
        if let (Some(parent), Some(below)) = (block.block.previous, below)
            && parent != below
        {
            state.mismatch = Some(Mismatch { block: claimed, parent });
            state.drop_above(None);
            return;
        }
        let bytes = block.block.bytes.len() as u64;
        let Some(slot) = state.slot_mut(claimed) else { return };
        if matches!(slot.content, Content::Ready(_)) {
            return;
        }
        slot.content = Content::Ready(Box::new(block));
        state.ready_bytes += bytes;
        self.changed.notify_all();
    }

    /// Gives a claimed block back, because this attempt to fetch it failed.
    pub(super) fn give_back(&self, block: BlockRef) {
        if let Some(slot) = self.lock().slot_mut(block)
            && matches!(slot.content, Content::Claimed)
        {
            slot.content = Content::Planned;
        }
        self.changed.notify_all();
    }

    /// Gives a claimed block back, because the node sent wrong bytes. Returns how many times the node has sent wrong bytes for
    /// this block.
    pub(super) fn reject(&self, block: BlockRef) -> u32 {
        let times = self.lock().slot_mut(block).map_or(0, |slot| {
            slot.rejected += 1;
            slot.rejected
        });
        self.give_back(block);
        times
    }

    /// Marks a claimed block as lost: it cannot be fetched at all. The caller is told when it would be given the block.
    pub(super) fn lose(&self, block: BlockRef, error: DaemonError) {
        if let Some(slot) = self.lock().slot_mut(block) {
            slot.content = Content::Lost(error);
        }
        self.changed.notify_all();
    }
}

/// The method that the caller calls.
impl BlockQueue {
    /// Returns the next event. Waits for it for at most `timeout`.
    pub(super) fn take(&self, timeout: Duration) -> Result<Option<FeedEvent>, DaemonError> {
        let began = Instant::now();
        let mut state = self.lock();
        loop {
            let taken = state.take();
            if !matches!(taken, Ok(None)) {
                self.changed.notify_all();
                return taken;
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests;
