//! The line's state, as one thread at a time sees it.

use std::collections::VecDeque;

use bitcoin::BlockHash;

use super::super::error::DaemonError;
use super::super::settings::AHEAD_BYTES;
use super::super::window::Window;
use super::{Job, PLANNED, Tear};
use crate::feed::FeedEvent;
use cofferdam_chain::Hashed;

#[derive(Debug)]
pub(super) struct State {
    pub(super) given: Window,
    /// Taken back and not yet told: it is told before any further block.
    pub(super) rewind: Option<Rewind>,
    /// Planned blocks of consecutive heights, the first of which follows the last given.
    pub(super) slots: VecDeque<Slot>,
    /// Bytes of those that are ready.
    pub(super) ready_bytes: u64,
    /// The height at which the caller has everything, with the hash there if it is known.
    pub(super) target: Option<(u32, Option<BlockHash>)>,
    /// The first height, while nothing is given.
    pub(super) start: u32,
    pub(super) at_tip_was_told: bool,
    pub(super) tear: Option<Tear>,
    pub(super) failure: Option<DaemonError>,
    pub(super) failure_was_told: bool,
    pub(super) stopped: bool,
}

#[derive(Debug)]
pub(super) struct Rewind {
    pub(super) fork: Option<u32>,
    pub(super) depth: u32,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) job: Job,
    pub(super) rejected: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Planned,
    Claimed,
    Ready(Box<Hashed>),
    /// It cannot be had.
    Lost(DaemonError),
}

impl State {
    /// After `tip`, or before height `start`, with room for so many hashes of those given.
    pub(super) fn new(tip: Option<(u32, BlockHash)>, start: u32, remembered: usize) -> Self {
        Self {
            given: Window::new(remembered, tip),
            rewind: None,
            slots: VecDeque::new(),
            ready_bytes: 0,
            target: None,
            start,
            at_tip_was_told: false,
            tear: None,
            failure: None,
            failure_was_told: false,
            stopped: false,
        }
    }

    /// The highest block that is planned or, without one, given.
    pub(super) fn end(&self) -> Option<(u32, BlockHash)> {
        let planned = self.slots.back().map(|slot| (slot.job.height, slot.job.hash));
        planned.or_else(|| self.given.tip())
    }

    /// Whether so few are planned that more should be, and there are more up to the target.
    pub(super) fn has_room(&self) -> bool {
        let reached = |(target, _)| self.end().map_or(self.start > target, |(end, _)| end >= target);
        self.slots.len() <= PLANNED / 2 && !self.target.is_none_or(reached)
    }

    fn index(&self, height: u32) -> Option<usize> {
        usize::try_from(height.checked_sub(self.slots.front()?.job.height)?).ok()
    }

    /// What is planned at a height.
    pub(super) fn slot(&self, height: u32) -> Option<&Slot> {
        self.slots.get(self.index(height)?)
    }

    /// That block, if it is still planned.
    pub(super) fn slot_mut(&mut self, job: Job) -> Option<&mut Slot> {
        let index = self.index(job.height)?;
        self.slots.get_mut(index).filter(|slot| slot.job == job)
    }

    /// The hash below a planned block, if it is still planned: of the one planned before it or given last, if any.
    pub(super) fn below(&self, job: Job) -> Option<Option<BlockHash>> {
        self.slot(job.height).filter(|slot| slot.job == job)?;
        let index = self.index(job.height)?;
        Some(match index.checked_sub(1) {
            Some(before) => self.slots.get(before).map(|slot| slot.job.hash),
            None => self.given.tip().map(|(_, hash)| hash),
        })
    }

    /// The foremost that should be fetched now and is not.
    pub(super) fn claimable(&mut self, pipeline: usize) -> Option<&mut Slot> {
        // The foremost is always fetched, or nothing would ever be taken.
        let ahead = if self.ready_bytes < AHEAD_BYTES { pipeline } else { 1 };
        self.slots.iter_mut().take(ahead).find(|slot| matches!(slot.content, Content::Planned))
    }

    /// Drops the planned blocks above a height, or all of them.
    pub(super) fn forget_above(&mut self, height: Option<u32>) {
        while let Some(slot) =
            self.slots.pop_back_if(|slot| height.is_none_or(|height| slot.job.height > height))
        {
            if let Content::Ready(block) = slot.content {
                self.ready_bytes -= block.block.bytes.len() as u64;
            }
        }
    }

    /// The next event, if there is one.
    pub(super) fn take(&mut self) -> Result<Option<FeedEvent>, DaemonError> {
        if self.failure_was_told {
            return Err(DaemonError::Ended);
        }
        if let Some(Rewind { fork, depth }) = self.rewind.take() {
            return Ok(Some(FeedEvent::Rewind { fork, depth }));
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
        self.forget_above(None);
        self.failure_was_told = true;
        self.stopped = true;
        error
    }

    /// Says once that the target is reached, or that it is below the first height, so that there is nothing to give.
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
    /// To be fetched.
    pub(super) fn planned(job: Job) -> Self {
        Self { job, rejected: 0, content: Content::Planned }
    }
}

impl Content {
    /// Whether nobody will change it any more.
    fn is_settled(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Lost(_))
    }
}
