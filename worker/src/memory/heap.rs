//! The allocator's own memory, committed: what an instance and its tables are made of.
//!
//! A table lives outside the linear memory, in the allocator's. If the allocator had to ask the kernel for it in the middle
//! of a block, a neighbour could have been there first. So the worker allocates as much as instances can take, touches it,
//! and frees it again: the allocator keeps it.
#![allow(unsafe_code, reason = "mallopt(3)")]

use crate::engine::TABLE_ELEMENTS;

/// Bytes that are kept: all tables ([`TABLE_ELEMENTS`] of eight bytes each, and as much again while one is moved to where it
/// can grow), and as much for everything else of an instance and a job.
pub(crate) const HEAP_BYTES: usize = 3 * TABLE_ELEMENTS * size_of::<usize>();

/// Commits [`HEAP_BYTES`] of the allocator's memory, for as long as the process lives. Nothing but glibc can be told to keep
/// what is freed; with another allocator this does nothing.
pub(crate) fn commit() {
    if keep_what_is_freed() {
        let mut memory: Vec<u8> = Vec::with_capacity(HEAP_BYTES);
        for place in memory.spare_capacity_mut().chunks_mut(PAGE_BYTES) {
            place[0].write(std::hint::black_box(1));
        }
        std::hint::black_box(&mut memory);
    }
}

/// The smallest page of any host.
const PAGE_BYTES: usize = 4096;

/// Has large blocks taken from the heap, too, and the heap never given back.
#[cfg(target_env = "gnu")]
fn keep_what_is_freed() -> bool {
    // SAFETY: mallopt only sets numbers; nothing else of this process changes them.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX) == 1 }
}

#[cfg(not(target_env = "gnu"))]
fn keep_what_is_freed() -> bool {
    false
}
