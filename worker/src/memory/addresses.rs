//! Addresses: what a process must be allowed to reserve, as RLIMIT_AS (`ulimit -v`) limits it.
//!
//! A worker reserves all that a 32-bit memory could address, whatever its limit is, because compiled code checks no bounds.
//! Reserving costs no memory. A limit on it is mostly left over from machines that had to be protected from their users.

use nix::sys::resource::{Resource, getrlimit, rlim_t};

use super::gc_heap::GC_HEAP_BYTES;
use super::reservation::{GUARD_BYTES, HUGE_PAGE_BYTES, RESERVATION_BYTES};

/// What a worker's program, its libraries, its stacks and its allocator reserve beside that: measured as 300 MiB on two
/// processors; each thread of a commit takes 66 MiB more for as long as it lasts.
const PROGRAM_BYTES: u64 = 1 << 30;

/// Bytes of addresses that a worker reserves beside its arenas.
pub const WORKER_ADDRESSES: u64 =
    (RESERVATION_BYTES + GC_HEAP_BYTES + 2 * (GUARD_BYTES + HUGE_PAGE_BYTES)) as u64 + PROGRAM_BYTES;

/// Bytes of addresses that this process, and each that it starts, may reserve; none if there is no limit, or it is not
/// known.
pub fn limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != rlim_t::MAX).then_some(soft)
}

/// What to say behind "cannot allocate memory" when addresses are limited: `; …`, or nothing.
pub fn hint() -> String {
    limit().map_or_else(String::new, |bytes| {
        format!(
            "; this process may reserve only {bytes} bytes of addresses (RLIMIT_AS): raise or lift that limit \
             (ulimit -v unlimited; LimitAS= of systemd)"
        )
    })
}
