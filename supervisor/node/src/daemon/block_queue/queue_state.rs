//! The state of the block queue. Only the thread that holds the queue's lock uses it.

use std::collections::VecDeque;

use bitcoin::BlockHash;

use super::super::error::DaemonError;
use super::super::hash_window::HashWindow;
use super::super::settings::FETCH_AHEAD_BYTES;
use super::block_ref::{BlockRef, Mismatch, PLANNED_BLOCKS};
use crate::event::FeedEvent;
use cofferdam_chain::Hashed;

#[derive(Debug)]
pub(super) struct QueueState {
    /// The hashes of the last given blocks.
    pub(super) given: HashWindow,
    /// A rollback of which the caller was not told yet. The caller is told before it is given any further block.
    pub(super) rollback: Option<Rollback>,
    /// Planned blocks of consecutive heights. The first one follows the last given block.
    pub(super) slots: VecDeque<Slot>,
    /// The bytes of all blocks that are ready.
    pub(super) ready_bytes: u64,
    /// The height of the last block to give, and the hash of that block if it is known.
    pub(super) target: Option<(u32, Option<BlockHash>)>,
    /// The first height to give, while no block was given.
    pub(super) start: u32,
    pub(super) at_tip_was_told: bool,
    pub(super) mismatch: Option<Mismatch>,
    pub(super) failure: Option<DaemonError>,
    pub(super) failure_was_told: bool,
    pub(super) stopped: bool,
}

/// A rollback to be told to the caller.
#[derive(Debug)]
pub(super) struct Rollback {
    pub(super) fork: Option<u32>,
    pub(super) depth: u32,
}

/// One planned block.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) block: BlockRef,
    /// How many times the node sent wrong bytes for the block.
    pub(super) rejected: u32,
    pub(super) content: Content,
}

/// The progress of a planned block.
#[derive(Debug)]
pub(super) enum Content {
    /// To be fetched.
    Planned,
    /// A fetcher is fetching it.
    Claimed,
    /// Fetched and verified.
    Ready(Box<Hashed>),
    /// It cannot be fetched.
    Lost(DaemonError),
}

impl QueueState {
    /// A state after `tip`, or before the height `start`. It keeps the hashes of the last `remembered` given blocks.
    pub(super) fn new(tip: Option<(u32, BlockHash)>, start: u32, remembered: usize) -> Self {
        Self {
            given: HashWindow::new(remembered, tip),
            rollback: None,
            slots: VecDeque::new(),
            ready_bytes: 0,
            target: None,
            start,
            at_tip_was_told: false,
            mismatch: None,
            failure: None,
            failure_was_told: false,
            stopped: false,
        }
    }

    /// The highest planned block or, if no block is planned, the last given one.
    pub(super) fn end(&self) -> Option<(u32, BlockHash)> {
        let planned = self.slots.back().map(|slot| (slot.block.height, slot.block.hash));
        planned.or_else(|| self.given.tip())
    }

    /// Whether more blocks should be planned: few blocks are planned, and the end of the queue is below the target.
    pub(super) fn has_room(&self) -> bool {
        let reached = |(target, _)| self.end().map_or(self.start > target, |(end, _)| end >= target);
        self.slots.len() <= PLANNED_BLOCKS / 2 && !self.target.is_none_or(reached)
    }

    fn index(&self, height: u32) -> Option<usize> {
        usize::try_from(height.checked_sub(self.slots.front()?.block.height)?).ok()
    }

    /// The slot of the block that is planned at a height.
    pub(super) fn slot(&self, height: u32) -> Option<&Slot> {
        self.slots.get(self.index(height)?)
    }

    /// The slot of this block, if the block is still planned.
    pub(super) fn slot_mut(&mut self, block: BlockRef) -> Option<&mut Slot> {
        let index = self.index(block.height)?;
        self.slots.get_mut(index).filter(|slot| slot.block == block)
    }

    /// The hash below a planned block. The outer `None` means that the block is no longer planned. The inner `None` means that
    /// no block was planned or given below it.
    pub(super) fn hash_below(&self, block: BlockRef) -> Option<Option<BlockHash>> {
        self.slot(block.height).filter(|slot| slot.block == block)?;
        let index = self.index(block.height)?;
        Some(match index.checked_sub(1) {
            Some(before) => self.slots.get(before).map(|slot| slot.block.hash),
            None => self.given.tip().map(|(_, hash)| hash),
        })
    }

    /// The first planned block that should be fetched now and that no fetcher is fetching.
    pub(super) fn claimable(&mut self, fetch_ahead: usize) -> Option<&mut Slot> {
        // The first block is always fetched. Otherwise the caller could never take anything.
        let ahead = if self.ready_bytes < FETCH_AHEAD_BYTES { fetch_ahead } else { 1 };
        self.slots.iter_mut().take(ahead).find(|slot| matches!(slot.content, Content::Planned))
    }

    /// Drops the planned blocks above a height, or all of them if there is no height.
    pub(super) fn drop_above(&mut self, height: Option<u32>) {
        while let Some(slot) =
            self.slots.pop_back_if(|slot| height.is_none_or(|height| slot.block.height > height))
        {
            if let Content::Ready(block) = slot.content {
                self.ready_bytes -= block.block.bytes.len() as u64;
            }
        }
    }

    /// The next event for the caller, if there is one.
    pub(super) fn take(&mut self) -> Result<Option<FeedEvent>, DaemonError> {
        if self.failure_was_told {
            return Err(DaemonError::Ended);
        }
        if let Some(Rollback { fork, depth }) = self.rollback.take() {
            return Ok(Some(FeedEvent::Rollback { fork, depth }));
        }
        if let Some(slot) = self.slots.pop_front_if(|slot| slot.content.is_settled()) {
            return self.give(slot.content);
        }
        match self.failure.take() {
            Some(error) => Err(self.end_with(error)),
            None => Ok(self.at_tip()),
        }
    }

    fn give(&mut self, content: Content) -> Result<Option<FeedEvent>, DaemonError> {
        match content {
            Content::Ready(block) => {
                self.ready_bytes -= block.block.bytes.len() as u64;
                self.given.push(block.block.height, block.block.hash);
                self.at_tip_was_told = false;
                Ok(Some(FeedEvent::Block(*block)))
            }
            Content::Lost(error) => Err(self.end_with(error)),
            Content::Planned | Content::Claimed => Ok(None),
        }
    }

    fn end_with(&mut self, error: DaemonError) -> DaemonError {
        self.drop_above(None);
        self.failure_was_told = true;
        self.stopped = true;
        error
    }

    /// Returns the event that the target is reached, once for each time that it is reached. A target below the first height
    /// counts as reached, because there is no block to give.
    fn at_tip(&mut self) -> Option<FeedEvent> {
        let (target, expected) = self.target.filter(|_| !self.at_tip_was_told)?;
        let (height, hash) = match self.given.tip() {
            Some((height, hash)) => (height == target && expected.is_none_or(|expected| expected == hash))
                .then_some((height, hash)),
            None => expected.filter(|_| target < self.start).map(|hash| (target, hash)),
        }?;
        self.at_tip_was_told = true;
        Some(FeedEvent::AtTip { height, hash })
    }
}

impl Slot {
    /// A slot whose block is to be fetched.
    pub(super) fn planned(block: BlockRef) -> Self {
        Self { block, rejected: 0, content: Content::Planned }
    }
}

impl Content {
    /// Whether no thread will change the content any more.
    fn is_settled(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Lost(_))
    }
}
