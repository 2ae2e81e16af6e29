//! Address space: how much of it a worker reserves, and how much of it this process may reserve (RLIMIT_AS, `ulimit -v`).
//!
//! A worker reserves all addresses of a 32-bit memory, whatever the memory limit is, because compiled code checks no bounds.
//! Reserved addresses cost no memory. A limit on them is usually left over from multi-user machines.

use nix::sys::resource::{Resource, getrlimit, rlim_t};

use super::gc_heap::GC_HEAP_BYTES;
use super::reservation::{GUARD_BYTES, HUGE_PAGE_BYTES, RESERVATION_BYTES};

/// Bytes of addresses for a worker's program, libraries, stacks and allocator. They were measured as 300 MiB on two processors.
/// Each thread of a commit takes 66 MiB more until the commit ends.
const PROGRAM_BYTES: u64 = 1 << 30;

/// Bytes of addresses that a worker reserves, without its arenas.
pub const WORKER_ADDRESS_BYTES: u64 =
    (RESERVATION_BYTES + GC_HEAP_BYTES + 2 * (GUARD_BYTES + HUGE_PAGE_BYTES)) as u64 + PROGRAM_BYTES;

/// Bytes of addresses that this process, and each process that it starts, may reserve; none if there is no limit, or the limit
/// is unknown.
pub fn limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != rlim_t::MAX).then_some(soft)
}

/// The text to append to "cannot allocate memory" if addresses are limited. It begins with `; `. Empty if addresses are not
/// limited.
pub(super) fn hint() -> String {
    limit().map_or_else(String::new, |bytes| {
        format!(
            "; this process may reserve only {bytes} bytes of addresses (RLIMIT_AS): raise or lift that limit \
             (ulimit -v unlimited; LimitAS= of systemd)"
        )
    })
}
