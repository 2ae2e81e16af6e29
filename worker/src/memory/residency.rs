//! The proof: how much of the slab the kernel says is resident, and how much of that in huge pages.
//!
//! mincore(2) is asked first. Where a seccomp profile refuses it, the page map of /proc says the same, more slowly.
#![allow(unsafe_code, reason = "mincore(2)")]

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::commit::CommitError;
use super::reservation::Reservation;

/// Bytes asked about at once: one byte of answer per page, so 16 KiB of buffer on 4 KiB pages.
const CHUNK_BYTES: usize = 64 << 20;

/// Bytes of `range` that are resident.
///
/// # Errors
/// [`CommitError::Unproven`] if the kernel does not tell in either way.
pub(super) fn resident_bytes(
    reservation: &Reservation,
    range: Range<usize>,
    page_bytes: usize,
) -> Result<u64, CommitError> {
    let mincore = match by_mincore(reservation, range.clone(), page_bytes) {
        Ok(bytes) => return Ok(bytes),
        Err(mincore) => mincore,
    };
    let base = reservation.base().as_ptr().addr();
    by_pagemap(base + range.start..base + range.end, page_bytes)
        .map_err(|pagemap| CommitError::Unproven { mincore, pagemap })
}

/// By the map of this process's pages, which needs no privilege for the one bit that is looked at.
fn by_pagemap(addresses: Range<usize>, page_bytes: usize) -> io::Result<u64> {
    const ENTRY_BYTES: usize = 8;
    // Present in memory: bit 63 of an entry (kernel documentation, admin-guide/mm/pagemap.rst).
    const PRESENT: u64 = 1 << 63;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut resident = 0u64;
    let mut answer = vec![0u8; CHUNK_BYTES / page_bytes * ENTRY_BYTES];
    for start in addresses.clone().step_by(CHUNK_BYTES) {
        let pages = CHUNK_BYTES.min(addresses.end - start).div_ceil(page_bytes);
        let entries = &mut answer[..pages * ENTRY_BYTES];
        pagemap.read_exact_at(entries, (start / page_bytes * ENTRY_BYTES) as u64)?;
        let present = |entry: &&[u8; ENTRY_BYTES]| u64::from_ne_bytes(**entry) & PRESENT != 0;
        resident += entries.as_chunks().0.iter().filter(present).count() as u64 * page_bytes as u64;
    }
    Ok(resident)
}

/// By mincore(2), which for private memory reads the page tables of this process.
fn by_mincore(reservation: &Reservation, range: Range<usize>, page_bytes: usize) -> io::Result<u64> {
    let mut resident = 0u64;
    let mut answer = vec![0u8; CHUNK_BYTES / page_bytes];
    for start in range.clone().step_by(CHUNK_BYTES) {
        let length = CHUNK_BYTES.min(range.end - start);
        let pages = &mut answer[..length.div_ceil(page_bytes)];
        // SAFETY: the range was handed in by the owner of the reservation and lies inside it; mincore only reads
        // page tables, and writes one byte for each page into `pages`, which has that length.
        let result = unsafe {
            let address = reservation.base().as_ptr().add(start);
            libc::mincore(address.cast(), length, pages.as_mut_ptr())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Only the lowest bit is defined (mincore(2)).
        resident += pages.iter().filter(|page| **page & 1 == 1).count() as u64 * page_bytes as u64;
    }
    Ok(resident)
}

/// Bytes of `range` in huge pages, by `/proc/self/smaps`.
pub(super) fn huge_bytes(reservation: &Reservation, range: &Range<usize>) -> io::Result<u64> {
    let base = reservation.base().as_ptr().addr();
    let (start, end) = (base + range.start, base + range.end);
    Ok(anon_huge_bytes(&fs::read_to_string("/proc/self/smaps")?, start..end))
}

/// Sums `AnonHugePages` of the areas of `smaps` that start inside `addresses` (proc_pid_smaps(5)).
fn anon_huge_bytes(smaps: &str, addresses: Range<usize>) -> u64 {
    let mut inside = false;
    let mut kilobytes = 0u64;
    for line in smaps.lines() {
        if let Some(start) = area_start(line) {
            inside = addresses.contains(&start);
        } else if inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            kilobytes += rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
    }
    kilobytes * 1024
}

/// The start of an area if `line` opens one: `7f…-7f… rw-p …`.
fn area_start(line: &str) -> Option<usize> {
    let (start, _) = line.split_once(' ')?.0.split_once('-')?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_count_the_same_pages() {
        let page = super::super::commit::page_bytes();
        let reservation = Reservation::new(64 * page).unwrap();
        reservation.open(0..64 * page).unwrap();
        // Small pages only, or touching one page would make others resident.
        reservation.advise(0..64 * page, nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE).unwrap();
        reservation.touch(3 * page..10 * page, page);
        let base = reservation.base().as_ptr().addr();
        for range in [0..64 * page, 2 * page..5 * page, 20 * page..30 * page] {
            let expected =
                range.clone().step_by(page).filter(|at| (3 * page..10 * page).contains(at)).count() * page;
            assert_eq!(by_mincore(&reservation, range.clone(), page).unwrap(), expected as u64, "{range:?}");
            let addresses = base + range.start..base + range.end;
            assert_eq!(by_pagemap(addresses, page).unwrap(), expected as u64, "{range:?}");
        }
    }

    #[test]
    fn huge_pages_are_summed_over_the_areas_inside_only() {
        let smaps = "\
            1000-2000 rw-p 00000000 00:00 0\nRss:  4 kB\nAnonHugePages:      2048 kB\nVmFlags: rd\n\
            2000-3000 ---p 00000000 00:00 0 [heap]\nAnonHugePages:      4096 kB\n\
            9000-a000 rw-p 00000000 00:00 0\nAnonHugePages:      8192 kB\n";
        assert_eq!(anon_huge_bytes(smaps, 0x1000..0x3000), (2048 + 4096) * 1024);
        assert_eq!(anon_huge_bytes(smaps, 0x2000..0x3000), 4096 * 1024);
        assert_eq!(anon_huge_bytes("garbage", 0..usize::MAX), 0);
    }
}
