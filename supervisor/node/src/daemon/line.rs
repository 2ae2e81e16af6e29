//! The line of blocks between the node and the caller: which were given, which wait to be taken, which are being fetched,
//! which are planned. It is all that the threads share, and it keeps the promise of a feed: what is taken from it is one
//! chain, and what the node has left is never taken.
//!
//! Three sides use it. The conductor plans hashes at its far end and cuts it where the node left it; fetchers claim the
//! foremost planned blocks and deliver them; the caller takes what is ready at its near end.

mod state;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::BlockHash;

use self::state::{Content, Rewind, Slot, State};
use super::error::DaemonError;
use crate::feed::FeedEvent;
use cofferdam_chain::Hashed;

/// How many planned blocks suffice for the conductor to rest.
pub(super) const PLANNED: usize = 100;

/// A line, between threads.
#[derive(Debug)]
pub(super) struct Line {
    state: Mutex<State>,
    /// Something changed that someone may wait for.
    changed: Condvar,
    pipeline: usize,
}

/// A block to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Its height.
    pub(super) height: u32,
    /// Its hash.
    pub(super) hash: BlockHash,
}

/// Where the node left the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fork {
    /// The highest block that both have, if there is one.
    pub(super) at: Option<(u32, BlockHash)>,
    /// The lowest height of the line that the node left.
    pub(super) left: u32,
}

/// Two planned neighbours that turned out to be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tear {
    /// The upper block.
    pub(super) block: Job,
    /// The parent that it names, which is not what was planned or given below it.
    pub(super) parent: BlockHash,
}

impl Line {
    /// A line that goes on after `tip`, or begins at height `start`. `remembered` hashes of those given are kept, and
    /// `pipeline` blocks are fetched ahead; both are at least one.
    pub(super) fn new(tip: Option<(u32, BlockHash)>, start: u32, remembered: usize, pipeline: usize) -> Self {
        let state = State::new(tip, start, remembered.max(1));
        Self { state: Mutex::new(state), changed: Condvar::new(), pipeline: pipeline.max(1) }
    }

    /// Lets every thread come to its end.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether it was stopped, or has ended.
    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits, unless the line is stopped meanwhile; whether it goes on.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        !self.wait_while(pause, |state| !state.stopped).stopped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, patience: Duration, idle: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |state| idle(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The conductor's side.
impl Line {
    /// The highest block that was given.
    pub(super) fn given(&self) -> Option<(u32, BlockHash)> {
        self.lock().given.tip()
    }

    /// The highest height that the caller holds: it was given, and the caller was not yet told that it is taken back.
    pub(super) fn held(&self) -> Option<u32> {
        let state = self.lock();
        let untold = state.rewind.as_ref().map_or(0, |rewind| rewind.depth);
        state.given.tip().map(|(height, _)| height.saturating_add(untold))
    }

    /// The highest block that is planned or, without one, given.
    pub(super) fn end(&self) -> Option<(u32, BlockHash)> {
        self.lock().end()
    }

    /// The hash of the line at a height, as far as it is remembered.
    pub(super) fn at(&self, height: u32) -> Option<BlockHash> {
        let state = self.lock();
        state.slot(height).map(|slot| slot.job.hash).or_else(|| state.given.at(height))
    }

    /// Plans the blocks that follow the end.
    pub(super) fn plan(&self, hashes: &[BlockHash]) {
        let mut state = self.lock();
        for hash in hashes {
            let Some(height) = state.end().map_or(Some(state.start), |(height, _)| height.checked_add(1))
            else {
                break;
            };
            let job = Job { height, hash: *hash };
            state.slots.push_back(Slot::planned(job));
        }
        self.changed.notify_all();
    }

    /// Whether more should be planned to reach the target.
    pub(super) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Where the caller will have everything.
    pub(super) fn aim(&self, height: u32, hash: Option<BlockHash>) {
        self.lock().target = Some((height, hash));
        self.changed.notify_all();
    }

    /// Drops what is planned above a height: the node no longer has it.
    pub(super) fn forget_above(&self, height: u32) {
        self.lock().forget_above(Some(height));
    }

    /// Drops everything that is planned: no further block is given before more is planned.
    pub(super) fn forget_planned(&self) {
        self.lock().forget_above(None);
    }

    /// Takes everything above the fork back. How many of the blocks given that are, and the highest of them.
    pub(super) fn cut(&self, fork: Fork) -> Option<(u32, (u32, BlockHash))> {
        let mut state = self.lock();
        state.forget_above(fork.at.map(|(height, _)| height));
        let tip = state.given.tip().filter(|(tip, _)| *tip >= fork.left)?;
        let depth = tip.0 - fork.left + 1;
        let before = state.rewind.as_ref().map_or(0, |rewind| rewind.depth);
        state.rewind = Some(Rewind { fork: fork.at.map(|(height, _)| height), depth: before + depth });
        state.given.cut(fork.at);
        state.at_tip_was_told = false;
        self.changed.notify_all();
        Some((depth, tip))
    }

    /// The tear that was found, once.
    pub(super) fn take_tear(&self) -> Option<Tear> {
        self.lock().tear.take()
    }

    /// Waits until there is room to plan, for a pause at most; whether the line goes on.
    pub(super) fn wait_for_room(&self, pause: Duration) -> bool {
        !self.wait_while(pause, |state| !state.stopped && !state.has_room()).stopped
    }

    /// Ends the line: what waits in it is dropped, and the caller told why. The first reason counts.
    pub(super) fn fail(&self, error: DaemonError) {
        let mut state = self.lock();
        state.forget_above(None);
        state.stopped = true;
        state.failure.get_or_insert(error);
        self.changed.notify_all();
    }
}

/// The fetchers' side.
impl Line {
    /// The foremost block that nobody fetches yet, once there is one; none when the line is stopped.
    pub(super) fn claim(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(slot) = state.claimable(self.pipeline) {
                slot.content = Content::Claimed;
                return Some(slot.job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The block that was claimed. It is dropped if the line was cut below it meanwhile.
    pub(super) fn deliver(&self, block: Hashed) {
        let mut state = self.lock();
        let job = Job { height: block.block.height, hash: block.block.hash };
        let Some(below) = state.below(job) else { return };
        if let (Some(parent), Some(below)) = (block.block.previous, below)
            && parent != below
        {
            state.tear = Some(Tear { block: job, parent });
            state.forget_above(None);
            return;
        }
        let bytes = block.block.bytes.len() as u64;
        let Some(slot) = state.slot_mut(job) else { return };
        if matches!(slot.content, Content::Ready(_)) {
            return;
        }
        slot.content = Content::Ready(Box::new(block));
        state.ready_bytes += bytes;
        self.changed.notify_all();
    }

    /// The claimed block could not be had this time.
    pub(super) fn give_back(&self, job: Job) {
        if let Some(slot) = self.lock().slot_mut(job)
            && matches!(slot.content, Content::Claimed)
        {
            slot.content = Content::Planned;
        }
        self.changed.notify_all();
    }

    /// What came was not the claimed block; how often that happened to it by now.
    pub(super) fn reject(&self, job: Job) -> u32 {
        let times = self.lock().slot_mut(job).map_or(0, |slot| {
            slot.rejected += 1;
            slot.rejected
        });
        self.give_back(job);
        times
    }

    /// The claimed block cannot be had at all: the caller is told when its turn comes.
    pub(super) fn lose(&self, job: Job, error: DaemonError) {
        if let Some(slot) = self.lock().slot_mut(job) {
            slot.content = Content::Lost(error);
        }
        self.changed.notify_all();
    }
}

/// The caller's side.
impl Line {
    /// The next event, waited for no longer than `patience`.
    pub(super) fn take(&self, patience: Duration) -> Result<Option<FeedEvent>, DaemonError> {
        let began = Instant::now();
        let mut state = self.lock();
        loop {
            let taken = state.take();
            if !matches!(taken, Ok(None)) {
                self.changed.notify_all();
                return taken;
            }
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests;
