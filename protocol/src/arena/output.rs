//! The output arena: the worker writes it, and the supervisor copies from it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::commit::WorkerMapping;
use super::error::ArenaError;
use super::span::Span;
use crate::mapping::Access;
use crate::sealing::FixedSizeMemfd;

/// The supervisor's side of an output arena. It only copies bytes out.
#[derive(Debug)]
pub struct OutputArena {
    file: FixedSizeMemfd,
}

impl OutputArena {
    /// Makes an arena of `capacity` bytes, at least one. The arena uses no memory until it is written.
    ///
    /// # Errors
    /// [`ArenaError::Create`].
    pub fn create(capacity: u64) -> Result<Self, ArenaError> {
        let create = |source| ArenaError::Create { name: "output", source };
        let file = FixedSizeMemfd::create("cofferdam-output", capacity).map_err(create)?;
        file.seal_seals().map_err(create)?;
        Ok(Self { file })
    }

    /// A copy of the bytes of `span`. The worker can no longer change the copy.
    ///
    /// # Errors
    /// As [`OutputArena::copy_out_to`].
    pub fn copy_out(&self, span: Span) -> Result<Vec<u8>, ArenaError> {
        self.copy_out_to(span, |_| None)
    }

    /// Copies the bytes of `span` into the empty vector that `memory` returns for that many bytes, or into a new one if
    /// `memory` returns none.
    ///
    /// # Errors
    /// [`ArenaError::Outside`], or [`ArenaError::Copy`] if the kernel refuses. The span is checked before anything is
    /// allocated, so a worker that lies about its output makes the supervisor allocate at most the arena's size.
    pub fn copy_out_to(
        &self,
        span: Span,
        memory: impl FnOnce(usize) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ArenaError> {
        let capacity = self.capacity();
        let (_, length) = span.within(capacity).ok_or(ArenaError::Outside { span, capacity })?;
        let mut bytes = memory(length).unwrap_or_default();
        bytes.resize(length, 0);
        self.file.file().read_exact_at(&mut bytes, span.offset).map_err(ArenaError::Copy)?;
        Ok(bytes)
    }

    /// The arena's size in bytes.
    pub fn capacity(&self) -> u64 {
        self.file.len() as u64
    }
}

impl AsFd for OutputArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The worker's side of an output arena. It only writes.
///
/// It gives no slices of the arena: nothing prevents another process, or another sink of this process, from writing to the
/// same bytes.
#[derive(Debug)]
pub struct OutputSink {
    pub(super) arena: WorkerMapping,
}

impl OutputSink {
    /// Maps the arena for writing after checking its seals and its size.
    ///
    /// # Errors
    /// [`ArenaError::NotSealed`] or [`ArenaError::Create`].
    pub fn open(file: OwnedFd, capacity: u64) -> Result<Self, ArenaError> {
        Ok(Self { arena: WorkerMapping::open("output", file, capacity, Access::ReadWrite)? })
    }

    /// Has the kernel allocate every page, and lock every page if `lock` is set.
    ///
    /// # Errors
    /// [`ArenaError::NotCommitted`].
    pub fn commit(&mut self, lock: bool) -> Result<(), ArenaError> {
        self.arena.commit(lock)
    }

    /// A writer that fills `span` from its start.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    pub fn writer(&mut self, span: Span) -> Result<SpanWriter<'_>, ArenaError> {
        let capacity = self.arena.capacity();
        let (at, length) = span.within(capacity).ok_or(ArenaError::Outside { span, capacity })?;
        Ok(SpanWriter { sink: self, at, end: at + length })
    }
}

/// Fills one span of an output arena.
#[derive(Debug)]
pub struct SpanWriter<'a> {
    sink: &'a mut OutputSink,
    at: usize,
    end: usize,
}

impl SpanWriter<'_> {
    /// Appends `bytes`. Returns false, and writes nothing, if the rest of the span is too short for them.
    #[must_use]
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.end - self.at;
        let written = fits && self.sink.arena.mapping.write(self.at, bytes).is_some();
        if written {
            self.at += bytes.len();
        }
        written
    }
}
