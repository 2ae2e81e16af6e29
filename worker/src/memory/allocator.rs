//! Committing the allocator's memory, from which instances and their tables are allocated.
//!
//! A table lives outside the linear memory, in the allocator's memory. If the allocator had to ask the kernel for memory in the
//! middle of a block, another process could already have taken it. So the worker allocates as much as instances can use, touches
//! it, and frees it again. The allocator keeps it.
#![allow(unsafe_code, reason = "mallopt(3)")]

use crate::limits::TABLE_ELEMENTS;

/// Bytes that the allocator keeps. One third is for all tables ([`TABLE_ELEMENTS`] of eight bytes each), one third for the copy of
/// a table that grows, and one third for everything else of an instance and a job.
pub(crate) const HEAP_BYTES: usize = 3 * TABLE_ELEMENTS * size_of::<usize>();

/// Commits [`HEAP_BYTES`] of the allocator's memory for the rest of the process's life. Only glibc can be told to keep freed
/// memory. With another allocator this does nothing.
pub(crate) fn commit() {
    if keep_freed_memory() {
        let mut memory: Vec<u8> = Vec::with_capacity(HEAP_BYTES);
        for place in memory.spare_capacity_mut().chunks_mut(PAGE_BYTES) {
            place[0].write(std::hint::black_box(1));
        }
        std::hint::black_box(&mut memory);
    }
}

/// The smallest page of any supported host.
const PAGE_BYTES: usize = 4096;

/// Makes the allocator take large blocks from the heap too, and never return memory of the heap to the kernel.
#[cfg(target_env = "gnu")]
fn keep_freed_memory() -> bool {
    // SAFETY: mallopt only sets two parameters of the allocator, under its lock.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX) == 1 }
}

#[cfg(not(target_env = "gnu"))]
fn keep_freed_memory() -> bool {
    false
}
