//! Huge pages, which make commits fast, and KSM, which merges equal pages and so undoes a commit.

#![allow(unsafe_code, reason = "prctl(PR_GET_MEMORY_MERGE) has no wrapper in nix")]

use std::fs;

use super::probe::{Area, page_size, setting, wide};
use super::proc_file;
use super::report::{Finding, Level};
use cofferdam_base::size::Bytes;

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// How much memory is populated to look for huge pages, in bytes: two huge pages of the usual 2 MiB.
const SAMPLE: usize = 4 << 20;

/// Whether memory that asks for huge pages gets them.
pub(super) fn huge() -> Finding {
    let choice = |file: &str| setting(&format!("{THP}/{file}")).and_then(|text| chosen(&text));
    let enabled = choice("enabled").unwrap_or_else(|| "missing".into());
    let defrag = choice("defrag").unwrap_or_else(|| "missing".into());
    let huge = populate_huge().unwrap_or(0);
    let sample = wide(SAMPLE);
    let value = format!("enabled={enabled} defrag={defrag}: {} of {} were huge", Bytes(huge), Bytes(sample));
    let (level, meaning) = match huge {
        0 if enabled == "never" => (
            Level::Warning,
            "commits take two to three times as long and blocks run slower: echo madvise > \
             /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        0 => (
            Level::Warning,
            "the kernel gave none, so commits take two to three times as long: memory is fragmented (echo 1 > \
             /proc/sys/vm/compact_memory), or huge pages are forbidden to this process",
        ),
        _ if huge < sample => (
            Level::Warning,
            "memory is fragmented, so commits are slower: echo 1 > /proc/sys/vm/compact_memory",
        ),
        _ => (Level::Good, "workers commit their memory in huge pages"),
    };
    Finding::new("huge-pages", level, value, meaning)
}

/// The bracketed word of a setting such as `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_string()))
}

/// Populates the sample. Returns how many bytes of it are in huge pages.
fn populate_huge() -> Option<u64> {
    let area = Area::new(2 * SAMPLE).ok()?;
    let offset = area.offset_aligned_to(SAMPLE);
    area.advise(offset, SAMPLE, libc::MADV_HUGEPAGE).ok()?;
    if area.advise(offset, SAMPLE, libc::MADV_POPULATE_WRITE).is_err() {
        (offset..offset + SAMPLE).step_by(page_size()).try_for_each(|at| area.touch(at)).ok()?;
    }
    let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
    // A neighbouring mapping that asked for huge pages too is merged into the same entry, hence the minimum.
    anon_huge(&smaps, area.address() + offset).map(|bytes| bytes.min(wide(SAMPLE)))
}

/// `AnonHugePages` of the mapping that holds `address`, in bytes (proc_pid_smaps(5)).
fn anon_huge(smaps: &str, address: usize) -> Option<u64> {
    let holds = |line: &&str| range(line).is_some_and(|(start, end)| (start..end).contains(&address));
    let fields = smaps.lines().skip_while(|line| !holds(line)).skip(1);
    fields.take_while(|line| range(line).is_none()).find_map(|line| proc_file::bytes(line, "AnonHugePages"))
}

/// The addresses in the first line of an smaps entry, `7f…-7f… rw-p …`.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

/// Whether the kernel merges equal pages of this process.
///
/// ksmd looks only at memory that a process offers: by MADV_MERGEABLE, which nothing here uses, or for a whole process by
/// PR_SET_MEMORY_MERGE (Linux 6.4; systemd's `MemoryKSM=`), which children inherit.
pub(super) fn ksm() -> Finding {
    let running = setting("/sys/kernel/mm/ksm/run").is_some_and(|run| run == "1");
    let (level, value, meaning) = match (running, merges_this_process()) {
        (false, _) => (Level::Good, "off", "committed pages are not merged with others"),
        (true, false) => {
            (Level::Good, "on, not for this process", "committed pages are not merged with others")
        }
        (true, true) => (
            Level::Warning,
            "on, for this process",
            "equal pages are merged and need new memory when written, so committed memory can run out: turn off \
             MemoryKSM= or /sys/kernel/mm/ksm/run",
        ),
    };
    Finding::new("ksm", level, value, meaning)
}

fn merges_this_process() -> bool {
    // SAFETY: PR_GET_MEMORY_MERGE takes no pointer and only returns a flag. Older kernels return −1 (EINVAL).
    unsafe { libc::prctl(libc::PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_holds_the_address_is_read() {
        let smaps = "1000-2000 rw-p 00000000 00:00 0\nSize: 4 kB\nAnonHugePages:   2048 kB\n\
                     2000-3000 rw-p 00000000 00:00 0\nAnonHugePages:   4096 kB\nVmFlags: rd wr\n\
                     3000-4000 rw-p 00000000 00:00 0\nSize: 4 kB\n";
        assert_eq!(anon_huge(smaps, 0x1fff), Some(2 << 20));
        assert_eq!(anon_huge(smaps, 0x2000), Some(4 << 20));
        assert_eq!(anon_huge(smaps, 0x3000), None);
        assert_eq!(anon_huge(smaps, 0x4000), None);
    }

    #[test]
    fn the_bracketed_word_is_the_setting() {
        assert_eq!(chosen("always defer [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always never"), None);
    }
}
