//! Bytes between records that are no whole block. Crashes and full disks leave them in bitcoind's files (zeros, a part of a
//! block, a magic alone); bitcoind reads over them when it indexes its files again, and so does this program.

use std::cmp::Ordering;

use super::Origin;
use super::framing::Tear;

/// The gaps of one input: they are told, and what they may cost is bounded.
///
/// The search for the next block looks at every byte, and so may look at bytes of a record that it could not take again and
/// again. An account of what was read in vain keeps that in proportion to the length of the input, whatever is in it.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    told: u32,
    read_in_vain: u64,
}

impl Gaps {
    /// How many gaps are told one by one.
    const TOLD: u32 = 100;
    /// How many bytes may be read in vain in any input.
    const FREE_BYTES: u64 = 64 << 20;

    /// Tells of a gap at `origin`, if there were not too many before.
    pub(super) fn tell(&mut self, origin: &Origin, bytes: u64, tear: &Tear) {
        self.told = self.told.saturating_add(1);
        match self.told.cmp(&(Self::TOLD + 1)) {
            Ordering::Less => {
                tracing::warn!("{origin}: {bytes} bytes hold no whole block ({tear}); they were read over");
            }
            Ordering::Equal => {
                tracing::warn!("{origin}: bytes without a whole block again; further ones are not told");
            }
            Ordering::Greater => {}
        }
    }

    /// Begins a new account: that of another file.
    pub(super) fn begin_input(&mut self) {
        self.read_in_vain = 0;
    }

    /// Notes that a block of so many bytes was read in vain.
    pub(super) fn read_in_vain(&mut self, bytes: u64) {
        self.read_in_vain = self.read_in_vain.saturating_add(bytes);
    }

    /// Whether more may be read in vain, `position` bytes into the input. If not, the frame of a record has to be trusted.
    pub(super) fn may_look(&self, position: u64) -> bool {
        self.read_in_vain <= Self::FREE_BYTES.saturating_add(position.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_vain_stays_in_proportion() {
        let mut gaps = Gaps::default();
        assert!(gaps.may_look(0));
        gaps.read_in_vain(Gaps::FREE_BYTES);
        assert!(gaps.may_look(0));
        gaps.read_in_vain(1);
        assert!(!gaps.may_look(0) && gaps.may_look(1));
        gaps.read_in_vain(u64::MAX);
        assert!(!gaps.may_look(1 << 40) && gaps.may_look(u64::MAX));
    }
}
