//! The hashes of the last given blocks. The follower keeps enough hashes to find the fork of every allowed reorganisation.

use std::collections::VecDeque;

use bitcoin::BlockHash;

/// The hashes of consecutive heights. The newest hash is always kept.
#[derive(Debug)]
pub(super) struct HashWindow {
    /// The newest height. It has no meaning while there are no hashes.
    top: u32,
    /// Oldest first.
    hashes: VecDeque<BlockHash>,
    capacity: usize,
}

impl HashWindow {
    /// A window of at most `capacity` hashes (at least 1) that ends at `tip`.
    pub(super) fn new(capacity: usize, tip: Option<(u32, BlockHash)>) -> Self {
        let mut window = Self { top: 0, hashes: VecDeque::new(), capacity };
        window.restart(tip);
        window
    }

    /// The newest height and its hash.
    pub(super) fn tip(&self) -> Option<(u32, BlockHash)> {
        self.hashes.back().map(|hash| (self.top, *hash))
    }

    /// The hash at a height, if the window still has it.
    pub(super) fn at(&self, height: u32) -> Option<BlockHash> {
        let below = usize::try_from(self.top.checked_sub(height)?).ok()?;
        let index = self.hashes.len().checked_sub(1)?.checked_sub(below)?;
        self.hashes.get(index).copied()
    }

    /// Adds the hash of the height after the newest one.
    pub(super) fn push(&mut self, height: u32, hash: BlockHash) {
        if self.hashes.len() == self.capacity {
            self.hashes.pop_front();
        }
        self.top = height;
        self.hashes.push_back(hash);
    }

    /// Removes everything above `fork`. The window need not have the hash of the fork.
    pub(super) fn truncate(&mut self, fork: Option<(u32, BlockHash)>) {
        match fork {
            Some((height, hash)) if self.at(height) == Some(hash) => {
                while self.top > height {
                    self.hashes.pop_back();
                    self.top -= 1;
                }
            }
            _ => self.restart(fork),
        }
    }

    fn restart(&mut self, tip: Option<(u32, BlockHash)>) {
        self.hashes.clear();
        if let Some((height, hash)) = tip {
            self.push(height, hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;

    fn hash(number: u8) -> BlockHash {
        BlockHash::from_byte_array([number; 32])
    }

    #[test]
    fn it_keeps_the_newest_and_drops_the_oldest() {
        let mut window = HashWindow::new(3, Some((9, hash(9))));
        for height in 10..=12 {
            window.push(height, hash(u8::try_from(height).unwrap()));
        }
        assert_eq!(window.tip(), Some((12, hash(12))));
        assert_eq!(window.at(10), Some(hash(10)));
        assert_eq!((window.at(9), window.at(13)), (None, None));
    }

    #[test]
    fn truncating_ends_at_the_fork_whether_the_window_has_it_or_not() {
        let mut window = HashWindow::new(3, None);
        assert_eq!((window.tip(), window.at(0)), (None, None));
        for height in 0..=5 {
            window.push(height, hash(u8::try_from(height).unwrap()));
        }
        window.truncate(Some((4, hash(4))));
        assert_eq!((window.tip(), window.at(3), window.at(5)), (Some((4, hash(4))), Some(hash(3)), None));
        window.truncate(Some((1, hash(1))));
        assert_eq!((window.tip(), window.at(0)), (Some((1, hash(1))), None));
        window.truncate(None);
        assert_eq!(window.tip(), None);
    }
}
