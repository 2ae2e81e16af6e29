//! A committed buffer for one large result.
//!
//! The supervisor copies the output of a worker before it checks it, and the copy can be as large as the output limit. If the
//! supervisor allocated the copy when the block is done, another process could have taken the memory, and the block would be lost
//! after all. So a pool keeps committed memory for one such copy, and lends it to one result at a time. A second large result at
//! the same time, the result of a view, and every small result are allocated when they are needed.
#![allow(unsafe_code, reason = "madvise(2)")]

use std::ptr::NonNull;
use std::sync::Mutex;

use cofferdam_protocol::writes::BufferPool;
use nix::sys::mman::{MmapAdvise, madvise};

use cofferdam_base::sync::lock;

/// Results of up to this size are allocated.
const SMALL_BYTES: usize = 1 << 20;

/// The smallest page size of any host.
const PAGE_BYTES: usize = 4096;

/// The buffer. Empty before it is committed, and while it is lent.
#[derive(Debug, Default)]
pub(super) struct ResultBuffer(Mutex<Vec<u8>>);

impl ResultBuffer {
    /// Allocates `bytes` of memory and touches all of it. Call this after the workers have committed their memory: if there is not
    /// enough for all, the kernel then kills a worker and not the supervisor.
    ///
    /// # Errors
    /// If there are no addresses for the memory.
    pub(super) fn commit(&self, bytes: u64) -> Result<(), std::collections::TryReserveError> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        ask_for_huge_pages(&mut memory);
        for page in memory.spare_capacity_mut().chunks_mut(PAGE_BYTES) {
            page[0].write(std::hint::black_box(1));
        }
        *lock(&self.0) = memory;
        Ok(())
    }

    /// Lends the buffer, empty, for a result of `bytes`. None if the result is small, and none if the buffer is lent or too small.
    pub(super) fn lend(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut memory = lock(&self.0);
        (bytes > SMALL_BYTES && bytes <= memory.capacity()).then(|| std::mem::take(&mut *memory))
    }
}

/// Asks for huge pages where they fit, because touching them takes a fraction of the time.
fn ask_for_huge_pages(memory: &mut Vec<u8>) {
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    let spare = memory.spare_capacity_mut();
    let padding = spare.as_ptr().align_offset(HUGE_PAGE_BYTES);
    let length = spare.len().saturating_sub(padding) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if let Some(start) = NonNull::new(spare.as_mut_ptr().wrapping_add(padding)).filter(|_| length > 0) {
        // SAFETY: the range lies within the vector's memory, and the advice does not change its content. If the kernel refuses
        // it, committing is only slower.
        let _ = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_HUGEPAGE) };
    }
}

impl BufferPool for ResultBuffer {
    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        *lock(&self.0) = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_lent_to_one_large_result_at_a_time_and_comes_back() {
        let buffer = ResultBuffer::default();
        assert!(buffer.lend(3 << 20).is_none(), "it is not committed yet");
        buffer.commit(4 << 20).unwrap();
        assert!(buffer.lend(1000).is_none(), "a small result");
        assert!(buffer.lend(5 << 20).is_none(), "a result that does not fit");
        let mut lent = buffer.lend(3 << 20).unwrap();
        let place = lent.as_ptr();
        assert!(buffer.lend(3 << 20).is_none(), "it is lent");
        lent.resize(3 << 20, 7);
        assert_eq!(lent.as_ptr(), place, "it did not move");
        buffer.give_back(lent);
        let again = buffer.lend(2 << 20).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
