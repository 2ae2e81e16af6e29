//! Room for one large result, held from the start.
//!
//! What a worker wrote is copied out before it is checked, and the copy can be as large as the output limit. If the memory
//! for the copy were looked for when the block is done, a neighbour could have taken it, and the block would be lost after
//! all. So a pool holds memory for one such copy. It lends the memory to one result at a time; a second large result at the
//! same time, or a view's, is copied to memory that is found then. Small results always are.
#![allow(unsafe_code, reason = "madvise(2)")]

use std::ptr::NonNull;
use std::sync::Mutex;

use cofferdam_protocol::writes::Home;
use nix::sys::mman::{MmapAdvise, madvise};

use cofferdam_base::sync::lock;

/// Results of up to so many bytes are not worth the room.
const SMALL_BYTES: usize = 1 << 20;

/// The smallest page of any host.
const PAGE_BYTES: usize = 4096;

/// The room; empty before it is committed, and while it is lent.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Vec<u8>>);

impl Room {
    /// Takes `bytes` of memory and touches all of it. Once the workers have theirs: where there is not enough for all, the
    /// kernel then finds a worker to kill, and not the supervisor.
    ///
    /// # Errors
    /// If there are no addresses for it.
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

    /// Lends memory for `bytes`, empty; none if the result is small, or the room lent or too small.
    pub(super) fn lend(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut memory = lock(&self.0);
        (bytes > SMALL_BYTES && bytes <= memory.capacity()).then(|| std::mem::take(&mut *memory))
    }
}

/// Asks for huge pages where they fit: touching them takes a fraction of the time. Without them it is only slower.
fn ask_for_huge_pages(memory: &mut Vec<u8>) {
    const HUGE_PAGE_BYTES: usize = 2 << 20;
    let spare = memory.spare_capacity_mut();
    let padding = spare.as_ptr().align_offset(HUGE_PAGE_BYTES);
    let length = spare.len().saturating_sub(padding) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if let Some(start) = NonNull::new(spare.as_mut_ptr().wrapping_add(padding)).filter(|_| length > 0) {
        // SAFETY: the range lies within the vector's memory, and the advice keeps its content.
        let _ = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_HUGEPAGE) };
    }
}

impl Home for Room {
    fn take_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        *lock(&self.0) = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_lent_to_one_large_result_at_a_time_and_comes_back() {
        let room = Room::default();
        assert!(room.lend(3 << 20).is_none(), "there is none yet");
        room.commit(4 << 20).unwrap();
        assert!(room.lend(1000).is_none(), "a small result");
        assert!(room.lend(5 << 20).is_none(), "a result that does not fit");
        let mut lent = room.lend(3 << 20).unwrap();
        let place = lent.as_ptr();
        assert!(room.lend(3 << 20).is_none(), "it is lent");
        lent.resize(3 << 20, 7);
        assert_eq!(lent.as_ptr(), place, "it did not move");
        room.take_back(lent);
        let again = room.lend(2 << 20).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
