//! The input arena: the supervisor writes it, the worker can only read it.
#![allow(unsafe_code, reason = "slices of memory that two processes share")]

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::commit::WorkerMapping;
use super::error::ArenaError;
use super::span::Span;
use crate::mapping::{Access, Mapping};
use crate::sealing::FixedSizeMemfd;

/// The supervisor's side of an input arena.
#[derive(Debug)]
pub struct InputArena {
    file: FixedSizeMemfd,
    mapping: Mapping,
}

impl InputArena {
    /// Makes an arena of `capacity` bytes, at least one. The arena uses no memory until it is written.
    ///
    /// # Errors
    /// [`ArenaError::Create`].
    pub fn create(capacity: u64) -> Result<Self, ArenaError> {
        let create = |source| ArenaError::Create { name: "input", source };
        let file = FixedSizeMemfd::create("cofferdam-input", capacity).map_err(create)?;
        let mapping = Mapping::new(&file, Access::ReadWrite).map_err(create)?;
        // After this seal, only the mapping above can write to the file. No later mapping can, and write(2) cannot.
        file.seal_future_writes().map_err(create)?;
        Ok(Self { file, mapping })
    }

    /// Writes `bytes` at the start of the arena and returns their span.
    ///
    /// # Errors
    /// [`ArenaError::Outside`] if they do not fit.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Span, ArenaError> {
        self.write_parts([bytes])
    }

    /// Writes `parts` one behind the other from the start of the arena, and returns the span of all of them.
    ///
    /// # Errors
    /// [`ArenaError::Outside`] if they do not fit.
    pub fn write_parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Span, ArenaError> {
        let capacity = self.capacity();
        let mut at = 0;
        for part in parts {
            let span = Span { offset: at as u64, length: part.len() as u64 };
            self.mapping.write(at, part).ok_or(ArenaError::Outside { span, capacity })?;
            at += part.len();
        }
        Ok(Span { offset: 0, length: at as u64 })
    }

    /// The bytes of `span`, to be filled.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    pub fn slice_mut(&mut self, span: Span) -> Result<&mut [u8], ArenaError> {
        let capacity = self.capacity();
        let outside = ArenaError::Outside { span, capacity };
        let Some((offset, length)) = span.within(capacity) else { return Err(outside) };
        // SAFETY: this mapping is the only writable one, by the seal of `create`, and `&mut self` excludes other slices of
        // it. Where this process also reads the file through an `InputView`, the caller of `InputView::stable_bytes` vouches
        // that nobody writes to those bytes.
        unsafe { self.mapping.bytes_mut(offset, length) }.ok_or(outside)
    }

    /// The arena's size in bytes.
    pub fn capacity(&self) -> u64 {
        self.mapping.len() as u64
    }
}

impl AsFd for InputArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The worker's side of an input arena.
#[derive(Debug)]
pub struct InputView {
    pub(super) arena: WorkerMapping,
}

impl InputView {
    /// Maps the arena read-only after checking its seals and its size.
    ///
    /// # Errors
    /// [`ArenaError::NotSealed`] or [`ArenaError::Create`].
    pub fn open(file: OwnedFd, capacity: u64) -> Result<Self, ArenaError> {
        Ok(Self { arena: WorkerMapping::open("input", file, capacity, Access::Read)? })
    }

    /// Has the kernel allocate every page, and lock every page if `lock` is set. The supervisor maps the same pages, so they are
    /// allocated for the supervisor too.
    ///
    /// # Errors
    /// [`ArenaError::NotCommitted`].
    pub fn commit(&mut self, lock: bool) -> Result<(), ArenaError> {
        self.arena.commit(lock)
    }

    /// The bytes of `span`, which stay as they are while the returned value and its clones live.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    ///
    /// # Safety
    /// Until the returned value and all its clones are dropped, no process may write to the bytes of `span`. The protocol
    /// gives this guarantee to a worker: from sending a job to receiving its reply, the supervisor writes to no span that the
    /// job names. So a worker may call this for the spans of the job that it runs, and must drop the value before it replies.
    pub unsafe fn stable_bytes(self: &Arc<Self>, span: Span) -> Result<StableBytes, ArenaError> {
        let capacity = self.arena.capacity();
        let (offset, length) = span.within(capacity).ok_or(ArenaError::Outside { span, capacity })?;
        Ok(StableBytes { view: Arc::clone(self), offset, length })
    }
}

/// Bytes of an input arena that nobody changes while this value lives. The caller of [`InputView::stable_bytes`] vouches for
/// that.
#[derive(Clone)]
pub struct StableBytes {
    view: Arc<InputView>,
    offset: usize,
    length: usize,
}

impl Deref for StableBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the caller of `stable_bytes` vouches that nobody writes to these bytes while `self` lives.
        let bytes = unsafe { self.view.arena.mapping.bytes(self.offset, self.length) };
        // `stable_bytes` has checked that they are inside.
        bytes.unwrap_or_default()
    }
}

impl fmt::Debug for StableBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableBytes").field("offset", &self.offset).field("length", &self.length).finish()
    }
}
