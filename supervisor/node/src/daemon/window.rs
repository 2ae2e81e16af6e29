//! The hashes of the blocks given last: enough of them that every reorganisation which is allowed can be measured.

use std::collections::VecDeque;

use bitcoin::BlockHash;

/// Hashes of consecutive heights, the newest of which is always there.
#[derive(Debug)]
pub(super) struct Window {
    /// The newest height; without a meaning while there are no hashes.
    top: u32,
    /// Oldest first.
    hashes: VecDeque<BlockHash>,
    capacity: usize,
}

impl Window {
    /// Of at most `capacity` hashes, which is at least one, and ending at `tip`.
    pub(super) fn new(capacity: usize, tip: Option<(u32, BlockHash)>) -> Self {
        let mut window = Self { top: 0, hashes: VecDeque::new(), capacity };
        window.restart(tip);
        window
    }

    /// The newest.
    pub(super) fn tip(&self) -> Option<(u32, BlockHash)> {
        self.hashes.back().map(|hash| (self.top, *hash))
    }

    /// The hash at a height, if it is remembered.
    pub(super) fn at(&self, height: u32) -> Option<BlockHash> {
        let below = usize::try_from(self.top.checked_sub(height)?).ok()?;
        let index = self.hashes.len().checked_sub(1)?.checked_sub(below)?;
        self.hashes.get(index).copied()
    }

    /// One more, which follows the newest.
    pub(super) fn push(&mut self, height: u32, hash: BlockHash) {
        if self.hashes.len() == self.capacity {
            self.hashes.pop_front();
        }
        self.top = height;
        self.hashes.push_back(hash);
    }

    /// Takes back everything above `fork`, which need not be remembered.
    pub(super) fn cut(&mut self, fork: Option<(u32, BlockHash)>) {
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
    fn it_remembers_the_newest_and_forgets_the_oldest() {
        let mut window = Window::new(3, Some((9, hash(9))));
        for height in 10..=12 {
            window.push(height, hash(u8::try_from(height).unwrap()));
        }
        assert_eq!(window.tip(), Some((12, hash(12))));
        assert_eq!(window.at(10), Some(hash(10)));
        assert_eq!((window.at(9), window.at(13)), (None, None));
    }

    #[test]
    fn a_cut_ends_at_the_fork_whether_it_is_remembered_or_not() {
        let mut window = Window::new(3, None);
        assert_eq!((window.tip(), window.at(0)), (None, None));
        for height in 0..=5 {
            window.push(height, hash(u8::try_from(height).unwrap()));
        }
        window.cut(Some((4, hash(4))));
        assert_eq!((window.tip(), window.at(3), window.at(5)), (Some((4, hash(4))), Some(hash(3)), None));
        window.cut(Some((1, hash(1))));
        assert_eq!((window.tip(), window.at(0)), (Some((1, hash(1))), None));
        window.cut(None);
        assert_eq!(window.tip(), None);
    }
}
