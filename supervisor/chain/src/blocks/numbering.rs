//! The heights of blocks that do not know their own: one after the other, and never down, since an indexer's
//! state is a function of the height.

use super::{BlockError, Options, Origin};

/// The height that comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbering {
    start: u32,
    last: Option<u32>,
    /// The newest height that whoever asks has already.
    tip: Option<u32>,
    /// Whether heights may be left out.
    gaps: bool,
}

impl Numbering {
    /// Begins with what the options say.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            start: options.start_height.unwrap_or(0),
            last: None,
            tip: options.known.as_ref().map(|known| known.tip),
            gaps: options.allow_gaps && !options.check_chain,
        }
    }

    /// Height of the next block: `own` if it has one, else one above the last.
    ///
    /// # Errors
    ///
    /// An own height that is not above the last, or leaves one out; no height left.
    pub(super) fn assign(&mut self, own: Option<u32>, origin: &Origin) -> Result<u32, BlockError> {
        let height = match own.or_else(|| self.following()) {
            Some(height) => height,
            None => return Err(BlockError::HeightOverflow { origin: origin.clone() }),
        };
        if let Some(last) = self.last.filter(|last| height <= *last) {
            return Err(BlockError::HeightOrder { origin: origin.clone(), height, last });
        }
        if let Some(last_height) = self.before(height).filter(|before| height - before > 1 && !self.gaps) {
            return Err(BlockError::Gap { origin: origin.clone(), height, last_height });
        }
        self.last = Some(height);
        Ok(height)
    }

    /// The height that a new block comes behind: the last one, or the newest that is known; none if it is the first. Between
    /// blocks that are known nothing is missing.
    fn before(&self, height: u32) -> Option<u32> {
        match self.tip {
            Some(tip) if height <= tip => None,
            tip => self.last.max(tip),
        }
    }

    /// The lowest height that must not be left out.
    pub(super) fn wanted(&self) -> u32 {
        self.last.max(self.tip).map_or(self.start, |last| last.saturating_add(1))
    }

    /// Whether heights may be left out.
    pub(super) fn allows_gaps(&self) -> bool {
        self.gaps
    }

    /// Whether nothing comes before the next block.
    pub(super) fn is_first(&self) -> bool {
        self.last.max(self.tip).is_none()
    }

    /// Takes it that heights were given out up to this one.
    pub(super) fn skip_to(&mut self, last: u32) {
        self.last = Some(last);
    }

    /// The height of a block without its own, if there is one left.
    pub(super) fn following(&self) -> Option<u32> {
        self.last.map_or(Some(self.start), |last| last.checked_add(1))
    }

    /// Whether no height was given out yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Known;
    use super::*;

    fn numbering(start: u32, tip: Option<u32>, allow_gaps: bool) -> Numbering {
        let known = tip.map(|tip| Known { first: 0, tip, again: 0 });
        Numbering::new(&Options { start_height: Some(start), known, allow_gaps, ..Options::default() })
    }

    fn origin() -> Origin {
        Origin { file: Path::new("f").into(), offset: 0 }
    }

    #[test]
    fn heights_count_on_and_never_fall() {
        let mut numbering = numbering(5, None, true);
        let heights = [None, None, Some(9), None].map(|own| numbering.assign(own, &origin()).unwrap());
        assert_eq!(heights, [5, 6, 9, 10]);
        let error = numbering.assign(Some(10), &origin()).unwrap_err().to_string();
        assert!(error.contains("height 10 follows height 10"), "{error}");
        numbering.assign(Some(u32::MAX), &origin()).unwrap();
        assert!(matches!(numbering.assign(None, &origin()), Err(BlockError::HeightOverflow { .. })));
    }

    #[test]
    fn a_height_that_is_left_out_is_missed() {
        let mut first = numbering(0, None, false);
        // Where to begin is anybody's choice.
        assert_eq!(first.assign(Some(7), &origin()).unwrap(), 7);
        let error = first.assign(Some(10), &origin()).unwrap_err().to_string();
        assert!(error.contains("blocks 8 to 9 are missing") && error.contains("--allow-gaps"), "{error}");
        assert_eq!(first.assign(Some(8), &origin()).unwrap(), 8);
        let mut next = numbering(0, Some(438), false);
        let gap = next.clone().assign(Some(440), &origin()).unwrap_err().to_string();
        assert!(gap.contains("block 439 is missing"), "{gap}");
        // What is known is not missing.
        for height in [3, 7, 400, 439, 440] {
            assert_eq!(next.assign(Some(height), &origin()).unwrap(), height);
        }
        assert!(next.assign(Some(442), &origin()).is_err());
        assert_eq!(numbering(0, Some(438), true).assign(Some(702_861), &origin()).unwrap(), 702_861);
    }
}
