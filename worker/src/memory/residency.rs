//! The proof: how much of the slab the kernel says is resident, and how much of that in huge pages.
#![allow(unsafe_code, reason = "mincore(2)")]

use std::fs;
use std::io;
use std::ops::Range;

use super::reservation::Reservation;

/// Bytes asked about at once: one byte of answer per page, so 16 KiB of buffer on 4 KiB pages.
const CHUNK_BYTES: usize = 64 << 20;

/// Bytes of `range` that are resident, by mincore(2), which for private memory reads the page tables of this process.
pub(super) fn resident_bytes(
    reservation: &Reservation,
    range: Range<usize>,
    page_bytes: usize,
) -> io::Result<u64> {
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
