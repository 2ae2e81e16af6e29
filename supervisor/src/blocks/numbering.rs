//! The heights of blocks that do not know their own: one after the other, and never down, since an indexer's
//! state is a function of the height.

use super::{BlockError, Origin};

/// The height that comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbering {
    start: u32,
    last: Option<u32>,
}

impl Numbering {
    /// Begins with `start`.
    pub(super) fn new(start: u32) -> Self {
        Self { start, last: None }
    }

    /// Height of the next block: `own` if it has one, else one above the last.
    ///
    /// # Errors
    ///
    /// An own height that is not above the last; no height left.
    pub(super) fn assign(&mut self, own: Option<u32>, origin: &Origin) -> Result<u32, BlockError> {
        let height = match own.or_else(|| self.following()) {
            Some(height) => height,
            None => return Err(BlockError::HeightOverflow { origin: origin.clone() }),
        };
        if let Some(last) = self.last.filter(|last| height <= *last) {
            return Err(BlockError::HeightOrder { origin: origin.clone(), height, last });
        }
        self.last = Some(height);
        Ok(height)
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

    use super::*;

    #[test]
    fn heights_count_on_and_never_fall() {
        let origin = Origin { file: Path::new("f").into(), offset: 0 };
        let mut numbering = Numbering::new(5);
        let heights = [None, None, Some(9), None].map(|own| numbering.assign(own, &origin).unwrap());
        assert_eq!(heights, [5, 6, 9, 10]);
        let error = numbering.assign(Some(10), &origin).unwrap_err().to_string();
        assert!(error.contains("height 10 follows height 10"), "{error}");
        numbering.assign(Some(u32::MAX), &origin).unwrap();
        assert!(matches!(numbering.assign(None, &origin), Err(BlockError::HeightOverflow { .. })));
    }
}
