//! A range of bytes in an arena, as messages name it.

use bincode::{Decode, Encode};

/// A range of an arena: `length` bytes from `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Span {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Span {
    /// Offset and length as indices into an arena of `capacity` bytes; none if the span is not all inside.
    pub(super) fn within(self, capacity: u64) -> Option<(usize, usize)> {
        let end = self.offset.checked_add(self.length)?;
        if end > capacity {
            return None;
        }
        Some((usize::try_from(self.offset).ok()?, usize::try_from(self.length).ok()?))
    }
}
