//! The reset: making the slab zero again after an instance, at a cost that follows what the instance wrote.
//!
//! Two ways, chosen for each chunk of 16 KiB by what recent blocks did to it. A **dense** chunk is written over with
//! zeros, whatever was written of it. A **tracked** one is protected by the kernel ([`super::tracking`]): what was written
//! of it is found, zeroed, and protected again, in this order, for a zeroed page that is protected already would fault
//! a second time. A page that is tracked costs its writer a fault and the reset a search, 2 to 3 µs together, which is
//! more than a memset of 16 KiB: so tracking is for what is *not* written, and a chunk that keeps being written is dense.
//!
//! ```text
//!            three pages written since the last check (it must then be seen clean at twice as many checks)
//!  tracked ──────────────────────────────────────────────────────────────────────────────────────────────▶ dense
//!          ◀──────────────────────────────────────────────────────────────────────────────────────────────
//!            all zeros at so many checks in a row (at first one)
//! ```
//!
//! All chunks begin dense. At a check, which is the first reset and then every eighth, or every 64th once nothing
//! changes, dense chunks are read before they are written: one that is all zeros was not used. So nothing that a module
//! writes in each block is ever protected. Protecting a part of a huge page splits it: where a huge page's worth of
//! chunks is nearly all dense, all of it is dense. Without the kernel's help all chunks stay dense, and all of
//! `[0, memory.size)` is zeroed: correct everywhere, and slow only for a module that has far more memory than it writes.

use std::ops::Range;

use super::reservation::Reservation;
use super::streaming::STREAM_FROM_BYTES;
use super::tracking::{Tracker, TrackingError};
use crate::complaint::complain;

/// Bytes of the unit that is tracked or not. Must divide a page of WebAssembly, and hold a page of the host.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

/// A memory up to this size is always zeroed whole: that takes as long as asking the kernel.
const ALWAYS_ZEROED_BYTES: usize = 256 << 10;

/// Pages written since the last check from which on a tracked chunk becomes dense.
const DENSE_PAGES: u8 = 3;

/// Resets from one check to the next while chunks change their ways, and at most.
const CHECK_EVERY: u32 = 8;
const CHECK_EVERY_AT_MOST: u32 = 64;

/// The most checks that a chunk which keeps changing its ways must pass to be tracked again.
const MAX_PATIENCE: u8 = 8;

/// Chunks in a huge page.
const GROUP_CHUNKS: usize = (2 << 20) / CHUNK_BYTES;

/// Fewer chunks than this are not tracked where the rest of their huge page is dense: to split it costs more.
const MIN_TRACKED: usize = GROUP_CHUNKS / 4;

/// Up to this many runs of written pages are protected again one by one, without a thought.
const FEW_RUNS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Chunk {
    tracked: bool,
    /// Pages of it that were written since the last check, while it is tracked.
    pages: u8,
    /// Checks in a row that found it clean, while it is dense.
    clean: u8,
    /// Checks that must do so before it is tracked.
    patience: u8,
}

impl Chunk {
    /// Takes note of a check.
    fn look(&mut self, is_zero: impl FnOnce() -> bool) {
        self.pages = 0;
        self.clean = if !self.tracked && is_zero() { self.clean.saturating_add(1) } else { 0 };
    }
}

/// What is known of each chunk, and the means to ask the kernel.
#[derive(Debug)]
pub(super) struct Resetter {
    chunks: Vec<Chunk>,
    tracker: Option<Tracker>,
    /// Resets to the next check, and from that one to the one after.
    until_check: u32,
    check_every: u32,
    page_bytes: usize,
    /// Bytes zeroed at once from which on the caches are passed by.
    stream_from: usize,
    /// Runs of pages to protect again. Kept, so that a reset allocates nothing that an earlier one did not.
    again: Vec<Range<usize>>,
}

impl Resetter {
    /// For a slab of `bytes` that is zero; without a tracker everything is zeroed.
    pub(super) fn new(bytes: usize, page_bytes: usize, tracker: Option<Tracker>) -> Self {
        let chunk = Chunk { tracked: false, pages: 0, clean: 0, patience: 1 };
        let chunks = vec![chunk; bytes.div_ceil(CHUNK_BYTES)];
        Self {
            chunks,
            tracker,
            until_check: 0,
            check_every: CHECK_EVERY,
            page_bytes,
            stream_from: STREAM_FROM_BYTES,
            again: Vec::new(),
        }
    }

    /// Makes `[0, size)`, whole pages of WebAssembly, zero, which must be open and in nobody's use; how many bytes it wrote.
    pub(super) fn reset(&mut self, slab: &Reservation, size: usize) -> u64 {
        let Some(mut tracker) = self.tracker.take() else { return self.zero_runs(slab, &[all(size)]) };
        match self.reset_with(slab, size, &mut tracker) {
            Ok(bytes) => {
                self.tracker = Some(tracker);
                bytes
            }
            Err(error) => {
                // From here on nothing is believed to be clean: zeroing needs no help.
                complain!(
                    "cofferdam-worker: writes are no longer tracked, all memory is zeroed instead: {error}"
                );
                self.zero_runs(slab, &[all(size)])
            }
        }
    }

    fn reset_with(
        &mut self,
        slab: &Reservation,
        size: usize,
        tracker: &mut Tracker,
    ) -> Result<u64, TrackingError> {
        let mut bytes = self.reset_tracked(slab, size, tracker)?;
        let protect = match self.until_check.checked_sub(1) {
            Some(rest) => {
                self.until_check = rest;
                Vec::new()
            }
            None if size <= ALWAYS_ZEROED_BYTES => Vec::new(),
            None => self.check(slab, size, tracker)?,
        };
        bytes += self.zero_dense(slab, size);
        for run in protect {
            tracker.protect(slab, run)?;
        }
        Ok(bytes)
    }

    /// Finds out which chunks of `[0, size)` are to be tracked from now on, and ends the tracking of what is nearly all dense. Those to
    /// be tracked are zero, and are still to be protected.
    fn check(
        &mut self,
        slab: &Reservation,
        size: usize,
        tracker: &Tracker,
    ) -> Result<Vec<Range<usize>>, TrackingError> {
        let (mut protect, mut unprotect) = (Vec::new(), Vec::new());
        let within = size / CHUNK_BYTES;
        for (group, chunks) in self.chunks[..within].chunks_mut(GROUP_CHUNKS).enumerate() {
            for (index, chunk) in chunks.iter_mut().enumerate() {
                chunk.look(|| slab.is_zero(chunk_range(group * GROUP_CHUNKS + index)));
            }
            let stays_dense = |chunk: &Chunk| !chunk.tracked && chunk.clean < chunk.patience;
            let open = chunks.iter().filter(|chunk| !stays_dense(chunk)).count();
            let track = open == chunks.len() || open >= MIN_TRACKED;
            for (index, chunk) in chunks.iter_mut().enumerate() {
                let range = chunk_range(group * GROUP_CHUNKS + index);
                match (chunk.tracked, track) {
                    (true, false) => {
                        chunk.tracked = false;
                        extend(&mut unprotect, range);
                    }
                    (false, true) if chunk.clean >= chunk.patience => {
                        *chunk = Chunk { tracked: true, pages: 0, clean: 0, ..*chunk };
                        extend(&mut protect, range);
                    }
                    _ => {}
                }
            }
        }
        self.settle(protect.is_empty() && unprotect.is_empty());
        unprotect.into_iter().try_for_each(|run| tracker.unprotect(slab, run))?;
        Ok(protect)
    }

    /// Says when to check next: late if nothing has changed.
    fn settle(&mut self, unchanged: bool) {
        self.check_every =
            if unchanged { (self.check_every * 2).min(CHECK_EVERY_AT_MOST) } else { CHECK_EVERY };
        self.until_check = self.check_every - 1;
    }

    /// Zeroes what was written of the tracked chunks of `[0, size)`, and protects it again or makes its chunk dense.
    fn reset_tracked(
        &mut self,
        slab: &Reservation,
        size: usize,
        tracker: &mut Tracker,
    ) -> Result<u64, TrackingError> {
        let Some(range) = self.hull_of_tracked(size) else { return Ok(0) };
        self.again.clear();
        let mut pass = Pass { chunk: usize::MAX, ..Pass::default() };
        tracker.written(slab, range, &mut |run| {
            for part in by_chunk(run) {
                if self.chunks[part.start / CHUNK_BYTES].tracked && self.meet(&mut pass, part.clone()) {
                    pass.zeroed += zero(slab, part);
                }
            }
        })?;
        if !pass.dense.is_empty() {
            self.check_every = CHECK_EVERY;
            self.until_check = self.until_check.min(CHECK_EVERY - 1);
        }
        for run in &pass.dense {
            tracker.unprotect(slab, run.clone())?;
        }
        self.protect_again(slab, size, tracker)?;
        Ok(pass.zeroed)
    }

    /// Notes a run of written pages of one tracked chunk; the runs of a pass come in order. Whether the chunk stays
    /// tracked: a dense one is zeroed with its like.
    fn meet(&mut self, pass: &mut Pass, run: Range<usize>) -> bool {
        let index = run.start / CHUNK_BYTES;
        if pass.chunk != index {
            (pass.chunk, pass.first) = (index, self.again.len());
        }
        self.again.push(run.clone());
        let chunk = &mut self.chunks[index];
        let pages = u8::try_from(run.len().div_ceil(self.page_bytes)).unwrap_or(u8::MAX);
        chunk.pages = chunk.pages.saturating_add(pages);
        if chunk.pages >= DENSE_PAGES {
            let patience = chunk.patience.saturating_mul(2).min(MAX_PATIENCE);
            *chunk = Chunk { tracked: false, pages: 0, clean: 0, patience };
            self.again.truncate(pass.first);
            extend(&mut pass.dense, chunk_range(index));
        }
        self.chunks[index].tracked
    }

    /// Protects what was written of chunks that are tracked still: run by run, or by a walk over all of each stretch
    /// of tracked chunks, whichever takes fewer calls.
    fn protect_again(&self, slab: &Reservation, size: usize, tracker: &Tracker) -> Result<(), TrackingError> {
        let mut stretches = Vec::new();
        let within = self.chunks.iter().take(size / CHUNK_BYTES).enumerate();
        if self.again.len() > FEW_RUNS {
            for (index, _) in within.filter(|(_, chunk)| chunk.tracked) {
                extend(&mut stretches, chunk_range(index));
            }
        }
        if self.again.len() <= FEW_RUNS.max(stretches.len()) {
            return self.again.iter().try_for_each(|run| tracker.protect(slab, run.clone()));
        }
        stretches.into_iter().try_for_each(|stretch| tracker.protect_written(slab, stretch))
    }

    /// Zeroes the dense chunks of `[0, size)`; how many bytes that were.
    fn zero_dense(&self, slab: &Reservation, size: usize) -> u64 {
        let mut runs = Vec::new();
        let within = self.chunks[..size / CHUNK_BYTES].iter().enumerate();
        for (index, _) in within.filter(|(_, chunk)| !chunk.tracked) {
            // Neighbours together: one long memset is faster than many short ones.
            extend(&mut runs, chunk_range(index));
        }
        self.zero_runs(slab, &runs)
    }

    /// Zeroes long runs; how many bytes that were.
    fn zero_runs(&self, slab: &Reservation, runs: &[Range<usize>]) -> u64 {
        let bytes: usize = runs.iter().map(ExactSizeIterator::len).sum();
        let stream = bytes >= self.stream_from;
        for run in runs {
            if stream { slab.stream_zeros(run.clone()) } else { slab.zero(run.clone()) }
        }
        bytes as u64
    }

    /// From the first to the last tracked chunk of `[0, size)`.
    fn hull_of_tracked(&self, size: usize) -> Option<Range<usize>> {
        let within = &self.chunks[..size / CHUNK_BYTES];
        let first = within.iter().position(|chunk| chunk.tracked)?;
        let last = within.iter().rposition(|chunk| chunk.tracked)?;
        Some(chunk_range(first).start..chunk_range(last).end)
    }
}

/// One pass over the written pages of tracked chunks.
#[derive(Default)]
struct Pass {
    /// The chunk that the last run was of.
    chunk: usize,
    /// Where its runs begin among those that are to be protected again.
    first: usize,
    zeroed: u64,
    /// Chunks that become dense.
    dense: Vec<Range<usize>>,
}

fn zero(slab: &Reservation, range: Range<usize>) -> u64 {
    let bytes = range.len() as u64;
    slab.zero(range);
    bytes
}

/// A memory of so many bytes.
fn all(size: usize) -> Range<usize> {
    0..size
}

fn chunk_range(index: usize) -> Range<usize> {
    index * CHUNK_BYTES..(index + 1) * CHUNK_BYTES
}

/// Adds `range` to runs that are in order, as a part of the last one if it follows it.
fn extend(runs: &mut Vec<Range<usize>>, range: Range<usize>) {
    match runs.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => runs.push(range),
    }
}

/// `run`, cut where a chunk ends.
fn by_chunk(run: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = run.start;
    std::iter::from_fn(move || {
        let part = start..run.end.min((start / CHUNK_BYTES + 1) * CHUNK_BYTES);
        start = part.end;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
#[path = "reset_tests.rs"]
mod tests;
