//! Assigns consecutive heights to blocks that have no height of their own, and checks that all heights strictly rise. Heights
//! must rise, because the state of an indexer is a function of the height.

use super::block::Origin;
use super::error::BlockError;
use super::options::Options;

/// Assigns the next height.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeightAssigner {
    start: u32,
    /// The last height that was assigned.
    last: Option<u32>,
    /// The highest height that the caller has already.
    indexed_tip: Option<u32>,
    /// Whether heights may be missing.
    allow_gaps: bool,
}

impl HeightAssigner {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            start: options.start_height.unwrap_or(0),
            last: None,
            indexed_tip: options.indexed.as_ref().map(|indexed| indexed.tip),
            allow_gaps: options.allow_gaps && !options.check_chain,
        }
    }

    /// Assigns a height to the next block: `own` if the block has one, and otherwise the height above the last.
    ///
    /// # Errors
    /// [`BlockError::HeightOrder`] if `own` is not above the last height, [`BlockError::HeightGap`] if heights would be missing,
    /// [`BlockError::HeightOverflow`] if no height is left.
    pub(super) fn assign(&mut self, own: Option<u32>, origin: &Origin) -> Result<u32, BlockError> {
        let height = match own.or_else(|| self.next_height()) {
            Some(height) => height,
            None => return Err(BlockError::HeightOverflow { origin: origin.clone() }),
        };
        if let Some(last) = self.last.filter(|last| height <= *last) {
            return Err(BlockError::HeightOrder { origin: origin.clone(), height, last });
        }
        let below = self.height_below(height).filter(|below| height - below > 1 && !self.allow_gaps);
        if let Some(last_height) = below {
            return Err(BlockError::HeightGap { origin: origin.clone(), height, last_height });
        }
        self.last = Some(height);
        Ok(height)
    }

    /// The highest height below a block at `height` that was assigned or is indexed. `None` if there is no such height. `None`
    /// also for a block at or below the indexed tip, because no height is missing between two indexed blocks.
    fn height_below(&self, height: u32) -> Option<u32> {
        match self.indexed_tip {
            Some(tip) if height <= tip => None,
            tip => self.last.max(tip),
        }
    }

    /// The lowest height that must not be missing.
    pub(super) fn next_required(&self) -> u32 {
        self.last.max(self.indexed_tip).map_or(self.start, |last| last.saturating_add(1))
    }

    /// Whether heights may be missing.
    pub(super) fn allows_gaps(&self) -> bool {
        self.allow_gaps
    }

    /// Whether the next block is the first one: no height was assigned, and no block is indexed.
    pub(super) fn is_first(&self) -> bool {
        self.last.max(self.indexed_tip).is_none()
    }

    /// Continues as if all heights up to `last` had been assigned.
    pub(super) fn advance_to(&mut self, last: u32) {
        self.last = Some(last);
    }

    /// The height of the next block that has no height of its own, if a height is left.
    pub(super) fn next_height(&self) -> Option<u32> {
        self.last.map_or(Some(self.start), |last| last.checked_add(1))
    }

    /// Whether no height was assigned yet.
    pub(super) fn is_unused(&self) -> bool {
        self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::blocks::options::IndexedRange;

    fn assigner(start: u32, tip: Option<u32>, allow_gaps: bool) -> HeightAssigner {
        let indexed = tip.map(|tip| IndexedRange { first: 0, tip, overlap: 0 });
        HeightAssigner::new(&Options { start_height: Some(start), indexed, allow_gaps, ..Options::default() })
    }

    fn origin() -> Origin {
        Origin { file: Path::new("f").into(), offset: 0 }
    }

    #[test]
    fn heights_count_up_and_never_fall() {
        let mut assigner = assigner(5, None, true);
        let heights = [None, None, Some(9), None].map(|own| assigner.assign(own, &origin()).unwrap());
        assert_eq!(heights, [5, 6, 9, 10]);
        let error = assigner.assign(Some(10), &origin()).unwrap_err().to_string();
        assert!(error.contains("height 10 follows height 10"), "{error}");
        assigner.assign(Some(u32::MAX), &origin()).unwrap();
        assert!(matches!(assigner.assign(None, &origin()), Err(BlockError::HeightOverflow { .. })));
    }

    #[test]
    fn a_missing_height_is_an_error() {
        let mut first = assigner(0, None, false);
        // The first height can be any.
        assert_eq!(first.assign(Some(7), &origin()).unwrap(), 7);
        let error = first.assign(Some(10), &origin()).unwrap_err().to_string();
        assert!(error.contains("blocks 8 to 9 are missing") && error.contains("--allow-gaps"), "{error}");
        assert_eq!(first.assign(Some(8), &origin()).unwrap(), 8);
        let mut next = assigner(0, Some(438), false);
        let gap = next.clone().assign(Some(440), &origin()).unwrap_err().to_string();
        assert!(gap.contains("block 439 is missing"), "{gap}");
        // Between indexed blocks nothing is missing.
        for height in [3, 7, 400, 439, 440] {
            assert_eq!(next.assign(Some(height), &origin()).unwrap(), height);
        }
        assert!(next.assign(Some(442), &origin()).is_err());
        assert_eq!(assigner(0, Some(438), true).assign(Some(702_861), &origin()).unwrap(), 702_861);
    }
}
