//! Counting how many bytes of the slab are resident according to the kernel, and how many of them are in huge pages.
//!
//! mincore(2) is asked first. Where a seccomp profile refuses it, the page map in /proc has the same answer, more slowly.
#![allow(unsafe_code, reason = "mincore(2)")]

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use super::page::page_bytes;
use super::reservation::Reservation;

/// Bytes per request. The answer has one byte for each page, so the buffer has 16 KiB for 4 KiB pages.
const CHUNK_BYTES: usize = 64 << 20;

/// Neither mincore(2) nor the page map reports what is resident.
#[derive(Error)]
#[error("the kernel does not report what is resident: mincore: {mincore}; /proc/self/pagemap: {pagemap}")]
pub struct ResidencyUnknown {
    /// The error of mincore(2).
    pub mincore: io::Error,
    /// The error of reading the page map.
    pub pagemap: io::Error,
}

cofferdam_protocol::debug_as_display!(ResidencyUnknown);

/// Number of bytes of `range` that are resident.
pub(super) fn resident_bytes(
    reservation: &Reservation,
    range: Range<usize>,
) -> Result<u64, ResidencyUnknown> {
    match by_mincore(reservation, range.clone()) {
        Ok(bytes) => Ok(bytes),
        Err(mincore) => {
            by_pagemap(reservation, range).map_err(|pagemap| ResidencyUnknown { mincore, pagemap })
        }
    }
}

/// Counts by the map of this process's pages. Reading the one bit that is used needs no privilege.
fn by_pagemap(reservation: &Reservation, range: Range<usize>) -> io::Result<u64> {
    const ENTRY_BYTES: usize = 8;
    // Bit 63 of an entry: the page is present in memory (kernel documentation, admin-guide/mm/pagemap.rst).
    const PRESENT: u64 = 1 << 63;
    let page_bytes = page_bytes();
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut resident = 0u64;
    let mut answer = vec![0u8; CHUNK_BYTES / page_bytes * ENTRY_BYTES];
    for start in range.clone().step_by(CHUNK_BYTES) {
        let (address, length) = reservation.locate(start..range.end.min(start + CHUNK_BYTES));
        let entries = &mut answer[..length.div_ceil(page_bytes) * ENTRY_BYTES];
        pagemap.read_exact_at(entries, (address.addr().get() / page_bytes * ENTRY_BYTES) as u64)?;
        let present = |entry: &&[u8; ENTRY_BYTES]| u64::from_ne_bytes(**entry) & PRESENT != 0;
        resident += entries.as_chunks().0.iter().filter(present).count() as u64 * page_bytes as u64;
    }
    Ok(resident)
}

/// Counts by mincore(2), which for private memory reads the page tables of this process.
fn by_mincore(reservation: &Reservation, range: Range<usize>) -> io::Result<u64> {
    let page_bytes = page_bytes();
    let mut resident = 0u64;
    let mut answer = vec![0u8; CHUNK_BYTES / page_bytes];
    for start in range.clone().step_by(CHUNK_BYTES) {
        let (address, length) = reservation.locate(start..range.end.min(start + CHUNK_BYTES));
        let pages = &mut answer[..length.div_ceil(page_bytes)];
        // SAFETY: mincore only reads page tables, and writes one byte for each page of the range into `pages`, which has
        // that length. No page of the host is smaller than `page_bytes`.
        let result = unsafe { libc::mincore(address.as_ptr().cast(), length, pages.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Only the lowest bit is defined (mincore(2)).
        resident += pages.iter().filter(|page| **page & 1 == 1).count() as u64 * page_bytes as u64;
    }
    Ok(resident)
}

/// Number of bytes of `range` in huge pages, according to `/proc/self/smaps`.
pub(super) fn huge_bytes(reservation: &Reservation, range: &Range<usize>) -> io::Result<u64> {
    let (address, length) = reservation.locate(range.clone());
    let start = address.addr().get();
    Ok(anon_huge_bytes(&fs::read_to_string("/proc/self/smaps")?, start..start + length))
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

/// The start of an area, if `line` is the first line of one: `7f…-7f… rw-p …`.
fn area_start(line: &str) -> Option<usize> {
    let (start, _) = line.split_once(' ')?.0.split_once('-')?;
    usize::from_str_radix(start, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::open_memory::OpenMemory;
    use super::super::reservation::Advice;
    use super::*;

    #[test]
    fn both_ways_count_the_same_pages() {
        let page = page_bytes();
        let mut reservation = Reservation::new(64 * page).unwrap();
        reservation.open(0..64 * page).unwrap();
        // Touching one page of a huge page would make the others resident too.
        reservation.advise(0..64 * page, Advice::SmallPages).unwrap();
        OpenMemory::open(&mut reservation, 3 * page..10 * page).unwrap().touch();
        for range in [0..64 * page, 2 * page..5 * page, 20 * page..30 * page] {
            let expected =
                range.clone().step_by(page).filter(|at| (3 * page..10 * page).contains(at)).count() * page;
            assert_eq!(by_mincore(&reservation, range.clone()).unwrap(), expected as u64, "{range:?}");
            assert_eq!(by_pagemap(&reservation, range.clone()).unwrap(), expected as u64, "{range:?}");
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
