//! Regions of a file or stream that hold no intact block.
//!
//! Crashes and full disks leave such regions in bitcoind's files: zeros, a part of a block, a magic alone. Bitcoind skips them
//! when it indexes its files again, and this program does the same.

use std::cmp::Ordering;

use super::block::Origin;
use super::framing::RecordDefect;

/// The unreadable regions of an input: logs them, and bounds the work that they cause.
///
/// Behind an unreadable region, each byte may be the start of the next record. In a file that somebody made for this purpose,
/// most of these starts may name a long block that is not intact. Then the same bytes would be read again and again. So this type
/// counts the bytes of blocks that were read and are not intact, and limits the count in proportion to the position in the input.
#[derive(Debug, Default)]
pub(super) struct UnreadableRegions {
    logged: u32,
    wasted_bytes: u64,
}

impl UnreadableRegions {
    /// How many regions are logged one by one.
    const MOST_LOGGED: u32 = 100;
    /// How many bytes may be wasted in each input, however short the input is.
    const FREE_BYTES: u64 = 64 << 20;

    /// Logs a region of `bytes` bytes at `origin`, unless too many were logged before.
    pub(super) fn log(&mut self, origin: &Origin, bytes: u64, defect: &RecordDefect) {
        self.logged = self.logged.saturating_add(1);
        match self.logged.cmp(&(Self::MOST_LOGGED + 1)) {
            Ordering::Less => {
                tracing::warn!("{origin}: skipped {bytes} bytes that hold no intact block ({defect})");
            }
            Ordering::Equal => {
                tracing::warn!(
                    "{origin}: skipped bytes that hold no intact block; this is region {} of this kind, and further ones are \
                     not logged",
                    self.logged
                );
            }
            Ordering::Greater => {}
        }
    }

    /// Starts a new count, for another file.
    pub(super) fn start_input(&mut self) {
        self.wasted_bytes = 0;
    }

    /// Counts a block of `bytes` bytes that was read and is not intact.
    pub(super) fn count_wasted(&mut self, bytes: u64) {
        self.wasted_bytes = self.wasted_bytes.saturating_add(bytes);
    }

    /// Whether another block may be read to see if it is intact, `position` bytes into the input. If not, the caller has to trust
    /// the head of the record.
    pub(super) fn within_budget(&self, position: u64) -> bool {
        self.wasted_bytes <= Self::FREE_BYTES.saturating_add(position.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wasted_bytes_stay_in_proportion_to_the_input() {
        let mut regions = UnreadableRegions::default();
        assert!(regions.within_budget(0));
        regions.count_wasted(UnreadableRegions::FREE_BYTES);
        assert!(regions.within_budget(0));
        regions.count_wasted(1);
        assert!(!regions.within_budget(0) && regions.within_budget(1));
        regions.count_wasted(u64::MAX);
        assert!(!regions.within_budget(1 << 40) && regions.within_budget(u64::MAX));
    }
}
