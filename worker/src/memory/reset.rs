//! The reset: making the slab zero again after an instance, at a cost that depends on what the instance wrote.
//!
//! There are two ways, and each chunk of 16 KiB is reset in one of them. A **dense** chunk is overwritten with zeros, whether or
//! not it was written. A **tracked** chunk is write-protected by the kernel ([`super::tracking`]): its written pages are found,
//! zeroed, and protected again. The pages are zeroed before they are protected, because zeroing a protected page would fault a
//! second time. Each written page of a tracked chunk costs a fault and a part of the search. Together they take 2 to 3 µs, which
//! is more than zeroing 16 KiB. So tracking pays only for chunks that are *not* written. A chunk that is written again and again
//! becomes dense.
//!
//! ```text
//!            three pages written since the last check (the number of clean checks that it needs then doubles)
//!  tracked ──────────────────────────────────────────────────────────────────────────────────────────────▶ dense
//!          ◀──────────────────────────────────────────────────────────────────────────────────────────────
//!            all zeros at the needed number of checks in a row (at first one)
//! ```
//!
//! All chunks begin dense. A check happens at the first reset. While chunks change, the next check follows eight resets later.
//! After each check that changes no chunk, this interval doubles, up to 64 resets. At a check, dense chunks are read before they
//! are zeroed. A chunk that is all zeros was not used. So no chunk that a module writes in every block is ever protected.
//! Protecting a part of a huge page splits the huge page. So if fewer than a quarter of the chunks of a huge page could be
//! tracked, all of them are made dense. Without tracking all chunks stay dense, and all of `[0, memory.size)` is zeroed. That is
//! correct on every host, and slow only for a module that has far more memory than it writes.

use std::ops::Range;

use super::open_memory::OpenMemory;
use super::streaming::STREAM_FROM_BYTES;
use super::tracking::{Tracker, TrackingError};
use crate::process::stderr::log_stderr;

/// Bytes in a chunk. Must divide a page of WebAssembly, and must not be smaller than a page of the host.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

/// A memory up to this size is always zeroed whole: that takes no longer than asking the kernel.
const ALWAYS_ZEROED_BYTES: usize = 256 << 10;

/// Number of pages written since the last check at which a tracked chunk becomes dense.
const DENSE_PAGES: u8 = 3;

/// Resets between two checks while chunks change.
const CHECK_EVERY: u32 = 8;
/// The most resets between two checks.
const CHECK_EVERY_AT_MOST: u32 = 64;

/// The most clean checks that a chunk needs to be tracked again, however often it has changed.
const MAX_CLEAN_CHECKS: u8 = 8;

/// Chunks in a huge page.
const GROUP_CHUNKS: usize = (2 << 20) / CHUNK_BYTES;

/// If some chunks of a huge page stay dense, the others are tracked only if there are at least this many of them. For fewer
/// chunks, splitting the huge page costs more than tracking saves.
const MIN_TRACKED: usize = GROUP_CHUNKS / 4;

/// Up to this many runs of written pages are protected again one by one, without looking for a cheaper way.
const FEW_RUNS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Chunk {
    tracked: bool,
    /// While tracked: pages of the chunk that were written since the last check.
    pages_written: u8,
    /// While dense: checks in a row at which the chunk was zero.
    clean_checks: u8,
    /// Checks in a row at which the chunk must be zero before it is tracked.
    clean_checks_needed: u8,
}

impl Chunk {
    fn record_check(&mut self, is_zero: impl FnOnce() -> bool) {
        self.pages_written = 0;
        self.clean_checks = if !self.tracked && is_zero() { self.clean_checks.saturating_add(1) } else { 0 };
    }
}

/// The state of each chunk, and the means to track writes.
#[derive(Debug)]
pub(super) struct Resetter {
    chunks: Vec<Chunk>,
    tracker: Option<Tracker>,
    /// Resets before the next check.
    until_check: u32,
    /// Resets from the next check to the one after.
    check_every: u32,
    page_bytes: usize,
    /// Number of bytes zeroed at once from which the caches are bypassed.
    stream_from: usize,
    /// Runs of pages to protect again. The vector is kept, so that a reset seldom allocates.
    to_protect: Vec<Range<usize>>,
}

impl Resetter {
    /// For a slab of `bytes` that is zero. Without a tracker every reset zeroes the whole memory.
    pub(super) fn new(bytes: usize, page_bytes: usize, tracker: Option<Tracker>) -> Self {
        let chunk = Chunk { tracked: false, pages_written: 0, clean_checks: 0, clean_checks_needed: 1 };
        let chunks = vec![chunk; bytes.div_ceil(CHUNK_BYTES)];
        Self {
            chunks,
            tracker,
            until_check: 0,
            check_every: CHECK_EVERY,
            page_bytes,
            stream_from: STREAM_FROM_BYTES,
            to_protect: Vec::new(),
        }
    }

    /// Makes `memory` zero. It must begin at byte 0 of the slab and consist of whole pages of WebAssembly. Returns the number of
    /// bytes that were zeroed.
    pub(super) fn reset(&mut self, memory: &mut OpenMemory<'_>) -> u64 {
        let all = 0..memory.len();
        let Some(mut tracker) = self.tracker.take() else { return self.zero_runs(memory, &[all]) };
        match self.reset_with(memory, &mut tracker) {
            Ok(bytes) => {
                self.tracker = Some(tracker);
                bytes
            }
            Err(error) => {
                // From here on no page is assumed to be clean. Zeroing everything needs no tracker.
                log_stderr!(
                    "cofferdam-worker: writes are no longer tracked, all memory is zeroed instead: {error}"
                );
                self.zero_runs(memory, &[all])
            }
        }
    }

    fn reset_with(
        &mut self,
        memory: &mut OpenMemory<'_>,
        tracker: &mut Tracker,
    ) -> Result<u64, TrackingError> {
        let mut bytes = self.reset_tracked(memory, tracker)?;
        let protect = match self.until_check.checked_sub(1) {
            Some(rest) => {
                self.until_check = rest;
                Vec::new()
            }
            None if memory.len() <= ALWAYS_ZEROED_BYTES => Vec::new(),
            None => self.check(memory, tracker)?,
        };
        bytes += self.zero_dense(memory);
        for run in protect {
            tracker.protect(run)?;
        }
        Ok(bytes)
    }

    /// Decides which chunks of `memory` are tracked from now on, and ends the tracking in huge pages that are nearly all dense.
    /// Returns the chunks to track: they are zero, and the caller must protect them.
    fn check(
        &mut self,
        memory: &OpenMemory<'_>,
        tracker: &Tracker,
    ) -> Result<Vec<Range<usize>>, TrackingError> {
        let (mut protect, mut unprotect) = (Vec::new(), Vec::new());
        let within = memory.len() / CHUNK_BYTES;
        for (group, chunks) in self.chunks[..within].chunks_mut(GROUP_CHUNKS).enumerate() {
            for (index, chunk) in chunks.iter_mut().enumerate() {
                chunk.record_check(|| memory.is_zero(chunk_range(group * GROUP_CHUNKS + index)));
            }
            let stays_dense =
                |chunk: &Chunk| !chunk.tracked && chunk.clean_checks < chunk.clean_checks_needed;
            let candidates = chunks.iter().filter(|chunk| !stays_dense(chunk)).count();
            let track = candidates == chunks.len() || candidates >= MIN_TRACKED;
            for (index, chunk) in chunks.iter_mut().enumerate() {
                let range = chunk_range(group * GROUP_CHUNKS + index);
                match (chunk.tracked, track) {
                    (true, false) => {
                        chunk.tracked = false;
                        push_merged(&mut unprotect, range);
                    }
                    (false, true) if chunk.clean_checks >= chunk.clean_checks_needed => {
                        *chunk = Chunk { tracked: true, pages_written: 0, clean_checks: 0, ..*chunk };
                        push_merged(&mut protect, range);
                    }
                    _ => {}
                }
            }
        }
        self.schedule_next_check(protect.is_empty() && unprotect.is_empty());
        unprotect.into_iter().try_for_each(|run| tracker.unprotect(run))?;
        Ok(protect)
    }

    /// The next check is later if the last one changed nothing.
    fn schedule_next_check(&mut self, unchanged: bool) {
        self.check_every =
            if unchanged { (self.check_every * 2).min(CHECK_EVERY_AT_MOST) } else { CHECK_EVERY };
        self.until_check = self.check_every - 1;
    }

    /// Zeroes the written pages of the tracked chunks of `memory`, and protects them again or makes their chunk dense.
    fn reset_tracked(
        &mut self,
        memory: &mut OpenMemory<'_>,
        tracker: &mut Tracker,
    ) -> Result<u64, TrackingError> {
        let Some(range) = self.hull_of_tracked(memory.len()) else { return Ok(0) };
        self.to_protect.clear();
        let mut pass = ScanPass { chunk: usize::MAX, ..ScanPass::default() };
        tracker.written(range, &mut |run| {
            for part in split_by_chunk(run) {
                let is_tracked = self.chunks[part.start / CHUNK_BYTES].tracked;
                if is_tracked && self.record_run(&mut pass, part.clone()) {
                    pass.zeroed += part.len() as u64;
                    memory.zero(part);
                }
            }
        })?;
        if !pass.dense.is_empty() {
            self.check_every = CHECK_EVERY;
            self.until_check = self.until_check.min(CHECK_EVERY - 1);
        }
        for run in &pass.dense {
            tracker.unprotect(run.clone())?;
        }
        self.protect_again(memory.len(), tracker)?;
        Ok(pass.zeroed)
    }

    /// Records a run of written pages of one tracked chunk; the runs of a pass come in order. Returns whether the chunk is still
    /// tracked. If it is not, it is zeroed with the other dense chunks.
    fn record_run(&mut self, pass: &mut ScanPass, run: Range<usize>) -> bool {
        let index = run.start / CHUNK_BYTES;
        if pass.chunk != index {
            (pass.chunk, pass.first_run) = (index, self.to_protect.len());
        }
        self.to_protect.push(run.clone());
        let chunk = &mut self.chunks[index];
        let pages = u8::try_from(run.len().div_ceil(self.page_bytes)).unwrap_or(u8::MAX);
        chunk.pages_written = chunk.pages_written.saturating_add(pages);
        if chunk.pages_written >= DENSE_PAGES {
            let clean_checks_needed = chunk.clean_checks_needed.saturating_mul(2).min(MAX_CLEAN_CHECKS);
            *chunk = Chunk { tracked: false, pages_written: 0, clean_checks: 0, clean_checks_needed };
            self.to_protect.truncate(pass.first_run);
            push_merged(&mut pass.dense, chunk_range(index));
        }
        self.chunks[index].tracked
    }

    /// Protects the written pages of the chunks that are still tracked: run by run, or by one walk over each stretch of tracked
    /// chunks, whichever takes fewer calls.
    fn protect_again(&self, size: usize, tracker: &Tracker) -> Result<(), TrackingError> {
        let mut stretches = Vec::new();
        let within = self.chunks.iter().take(size / CHUNK_BYTES).enumerate();
        if self.to_protect.len() > FEW_RUNS {
            for (index, _) in within.filter(|(_, chunk)| chunk.tracked) {
                push_merged(&mut stretches, chunk_range(index));
            }
        }
        if self.to_protect.len() <= FEW_RUNS.max(stretches.len()) {
            return self.to_protect.iter().try_for_each(|run| tracker.protect(run.clone()));
        }
        stretches.into_iter().try_for_each(|stretch| tracker.protect_written(stretch))
    }

    /// Zeroes the dense chunks of `memory`. Returns the number of bytes zeroed.
    fn zero_dense(&self, memory: &mut OpenMemory<'_>) -> u64 {
        let mut runs = Vec::new();
        let within = self.chunks[..memory.len() / CHUNK_BYTES].iter().enumerate();
        for (index, _) in within.filter(|(_, chunk)| !chunk.tracked) {
            // One long memset over neighbours is faster than many short ones.
            push_merged(&mut runs, chunk_range(index));
        }
        self.zero_runs(memory, &runs)
    }

    /// Zeroes `runs`. Returns the number of bytes zeroed.
    fn zero_runs(&self, memory: &mut OpenMemory<'_>, runs: &[Range<usize>]) -> u64 {
        let bytes: usize = runs.iter().map(ExactSizeIterator::len).sum();
        let stream = bytes >= self.stream_from;
        for run in runs {
            if stream { memory.stream_zeros(run.clone()) } else { memory.zero(run.clone()) }
        }
        bytes as u64
    }

    /// The range from the first to the last tracked chunk of `[0, size)`.
    fn hull_of_tracked(&self, size: usize) -> Option<Range<usize>> {
        let within = &self.chunks[..size / CHUNK_BYTES];
        let first = within.iter().position(|chunk| chunk.tracked)?;
        let last = within.iter().rposition(|chunk| chunk.tracked)?;
        Some(chunk_range(first).start..chunk_range(last).end)
    }
}

/// One pass over the written pages of tracked chunks.
#[derive(Default)]
struct ScanPass {
    /// The chunk of the last run.
    chunk: usize,
    /// Index in `to_protect` of the first run of that chunk.
    first_run: usize,
    zeroed: u64,
    /// Chunks that become dense.
    dense: Vec<Range<usize>>,
}

fn chunk_range(index: usize) -> Range<usize> {
    index * CHUNK_BYTES..(index + 1) * CHUNK_BYTES
}

/// Adds `range` to `runs`, which are in order. Merges it with the last run if it follows directly.
fn push_merged(runs: &mut Vec<Range<usize>>, range: Range<usize>) {
    match runs.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => runs.push(range),
    }
}

/// Splits `run` at the ends of chunks.
fn split_by_chunk(run: Range<usize>) -> impl Iterator<Item = Range<usize>> {
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
