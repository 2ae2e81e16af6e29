//! Arenas: sealed memfds through which bulk bytes pass between supervisor and worker.
//!
//! ```text
//!              supervisor                      worker
//! input   InputArena  (maps it RW) ──────▶ InputView   (maps it R; F_SEAL_FUTURE_WRITE forbids more)
//! output  OutputArena (reads a copy) ◀──── OutputSink  (maps it RW)
//! ```
//!
//! A pipe message names the bytes by a [`Span`]. The supervisor never looks at bytes that a worker can still change:
//! it copies them out with `pread(2)` and checks the copy. Both files are sealed against growing and shrinking, so
//! that neither side can make the other touch a page that is not there.
//!
//! A new arena has no memory. The worker has the kernel allocate all of it at its start: so it is the worker that ends if
//! there is not enough, and not the supervisor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use bincode::{Decode, Encode};
use memfd::{FileSeal, Memfd, MemfdOptions};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use thiserror::Error;

use crate::mapping::{Access, Mapping};
use crate::refused;

/// A place in an arena: `length` bytes from `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Span {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Why an arena could not be made or used.
#[derive(Error)]
pub enum ArenaError {
    /// The kernel refused to make, size, seal or map the memfd.
    #[error("arena {name}: {source}")]
    Create {
        /// Which arena.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memfd handed over is not sealed, or not of the size that was announced.
    #[error("arena {name}: the descriptor is not the sealed memfd that was announced: {reason}")]
    NotSealed {
        /// Which arena.
        name: &'static str,
        /// What is missing.
        reason: String,
    },
    /// A span that is not inside the arena.
    #[error("a span of {} bytes at {} is outside the arena of {capacity} bytes", span.length, span.offset)]
    Outside {
        /// The span.
        span: Span,
        /// The arena's size in bytes.
        capacity: u64,
    },
    /// The bytes could not be copied out.
    #[error("arena: the bytes could not be copied out: {0}")]
    Copy(io::Error),
    /// The kernel refused the memory.
    #[error("the kernel refused to {what} the {name} arena of {bytes} bytes: {source}")]
    NotCommitted {
        /// `commit` or `lock`.
        what: &'static str,
        /// Which arena.
        name: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

crate::debug_as_display!(ArenaError);

/// The supervisor's side of the input arena: it writes, the worker can only read.
#[derive(Debug)]
pub struct InputArena {
    file: Memfd,
    mapping: Mapping,
}

impl InputArena {
    /// Makes an arena of `capacity` bytes, at least one. No memory is used before it is written.
    ///
    /// # Errors
    /// [`ArenaError::Create`].
    pub fn create(capacity: u64) -> Result<Self, ArenaError> {
        let create = |source| ArenaError::Create { name: "input", source };
        let file = sized("cofferdam-input", capacity).map_err(create)?;
        let length = usize::try_from(capacity).map_err(io::Error::other).map_err(create)?;
        let mapping = Mapping::shared(file.as_file(), length, Access::ReadWrite).map_err(create)?;
        // After this our own mapping still writes, but no later mapping and no write(2) does (kernel 5.1).
        let seals = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealFutureWrite, FileSeal::SealSeal];
        seal(&file, &seals).map_err(create)?;
        Ok(Self { file, mapping })
    }

    /// Writes `bytes` at the start of the arena and says where they are.
    ///
    /// # Errors
    /// [`ArenaError::Outside`] if they do not fit.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Span, ArenaError> {
        self.write_parts([bytes])
    }

    /// Writes `parts` one behind the other from the start of the arena, and says where they are.
    ///
    /// # Errors
    /// [`ArenaError::Outside`] if they do not fit.
    pub fn write_parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Span, ArenaError> {
        let capacity = self.mapping.len() as u64;
        let mut at = 0;
        for part in parts {
            let span = Span { offset: at as u64, length: part.len() as u64 };
            let target =
                self.mapping.get_mut(at, part.len()).ok_or(ArenaError::Outside { span, capacity })?;
            target.copy_from_slice(part);
            at += part.len();
        }
        Ok(Span { offset: 0, length: at as u64 })
    }

    /// The bytes of `span`, to be filled.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    pub fn slice_mut(&mut self, span: Span) -> Result<&mut [u8], ArenaError> {
        let (offset, length) = whole(span, &self.mapping)?;
        let outside = outside(span, &self.mapping);
        self.mapping.get_mut(offset, length).ok_or(outside)
    }

    /// The arena's size in bytes.
    pub fn capacity(&self) -> u64 {
        self.mapping.len() as u64
    }
}

impl AsFd for InputArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_file().as_fd()
    }
}

/// The worker's side of the input arena.
#[derive(Debug)]
pub struct InputView {
    mapping: Mapping,
    /// None once it is committed: then nothing needs it.
    file: Option<File>,
}

impl InputView {
    /// Maps the arena read-only after checking its seals and its size.
    ///
    /// # Errors
    /// [`ArenaError::NotSealed`] or [`ArenaError::Create`].
    pub fn open(file: OwnedFd, capacity: u64) -> Result<Self, ArenaError> {
        let (mapping, file) = open_sealed("input", file, capacity, Access::Read)?;
        Ok(Self { mapping, file: Some(file) })
    }

    /// Has the kernel hold every page, for the supervisor too, and locks it if `lock` says so.
    ///
    /// # Errors
    /// [`ArenaError::NotCommitted`].
    pub fn commit(&mut self, lock: bool) -> Result<(), ArenaError> {
        match self.file.take() {
            Some(file) => commit(&file, &mut self.mapping, "input", lock),
            None => Ok(()),
        }
    }

    /// The bytes of `span`. The supervisor leaves them as they are until it has had the answer to the job.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    pub fn read(&self, span: Span) -> Result<&[u8], ArenaError> {
        let (offset, length) = whole(span, &self.mapping)?;
        self.mapping.get(offset, length).ok_or_else(|| outside(span, &self.mapping))
    }
}

/// The supervisor's side of the output arena: it only ever copies out.
#[derive(Debug)]
pub struct OutputArena {
    file: File,
    capacity: u64,
}

impl OutputArena {
    /// Makes an arena of `capacity` bytes, at least one. No memory is used before it is written.
    ///
    /// # Errors
    /// [`ArenaError::Create`].
    pub fn create(capacity: u64) -> Result<Self, ArenaError> {
        let create = |source| ArenaError::Create { name: "output", source };
        let file = sized("cofferdam-output", capacity).map_err(create)?;
        seal(&file, &[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal]).map_err(create)?;
        Ok(Self { file: file.into_file(), capacity })
    }

    /// A copy of the bytes of `span`, which the worker can no longer change.
    ///
    /// # Errors
    /// As [`OutputArena::copy_out_to`].
    pub fn copy_out(&self, span: Span) -> Result<Vec<u8>, ArenaError> {
        self.copy_out_to(span, |_| None)
    }

    /// As [`OutputArena::copy_out`], to an empty vector that `memory` has for so many bytes; to a new one if it has none.
    ///
    /// # Errors
    /// [`ArenaError::Outside`], or [`ArenaError::Copy`] if the kernel refuses. The span is checked before anything
    /// is allocated, so a lying worker costs at most the arena's size.
    pub fn copy_out_to(
        &self,
        span: Span,
        memory: impl FnOnce(usize) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ArenaError> {
        let outside = ArenaError::Outside { span, capacity: self.capacity };
        let inside = span.offset.checked_add(span.length).is_some_and(|end| end <= self.capacity);
        let Some(length) = usize::try_from(span.length).ok().filter(|_| inside) else { return Err(outside) };
        let mut bytes = memory(length).unwrap_or_default();
        bytes.resize(length, 0);
        self.file.read_exact_at(&mut bytes, span.offset).map_err(ArenaError::Copy)?;
        Ok(bytes)
    }

    /// The arena's size in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

impl AsFd for OutputArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The worker's side of the output arena.
#[derive(Debug)]
pub struct OutputSink {
    mapping: Mapping,
    /// None once it is committed: then nothing needs it.
    file: Option<File>,
}

impl OutputSink {
    /// Maps the arena for writing after checking its seals and its size.
    ///
    /// # Errors
    /// [`ArenaError::NotSealed`] or [`ArenaError::Create`].
    pub fn open(file: OwnedFd, capacity: u64) -> Result<Self, ArenaError> {
        let (mapping, file) = open_sealed("output", file, capacity, Access::ReadWrite)?;
        Ok(Self { mapping, file: Some(file) })
    }

    /// Has the kernel hold every page, and locks it if `lock` says so.
    ///
    /// # Errors
    /// [`ArenaError::NotCommitted`].
    pub fn commit(&mut self, lock: bool) -> Result<(), ArenaError> {
        match self.file.take() {
            Some(file) => commit(&file, &mut self.mapping, "output", lock),
            None => Ok(()),
        }
    }

    /// The bytes of `span`, to be filled.
    ///
    /// # Errors
    /// [`ArenaError::Outside`].
    pub fn slice_mut(&mut self, span: Span) -> Result<&mut [u8], ArenaError> {
        let (offset, length) = whole(span, &self.mapping)?;
        let outside = outside(span, &self.mapping);
        self.mapping.get_mut(offset, length).ok_or(outside)
    }
}

/// A memfd with `bytes` in it that nobody can change any more, whoever holds it: a module or an artifact.
///
/// # Errors
/// [`ArenaError::Create`].
pub fn sealed_memfd(name: &'static str, bytes: &[u8]) -> Result<OwnedFd, ArenaError> {
    let create = |source| ArenaError::Create { name, source };
    let file = memfd(name).map_err(create)?;
    file.as_file().write_all_at(bytes, 0).map_err(create)?;
    seal_all(&file).map_err(create)?;
    Ok(file.into_file().into())
}

/// A memfd that another process is to fill; see [`seal_filled`].
///
/// # Errors
/// [`ArenaError::Create`].
pub fn fillable_memfd(name: &'static str) -> Result<OwnedFd, ArenaError> {
    Ok(memfd(name).map_err(|source| ArenaError::Create { name, source })?.into_file().into())
}

/// Seals what [`fillable_memfd`] made, once the process that filled it has ended.
///
/// # Errors
/// [`ArenaError::Create`], in particular while a writable mapping of it exists anywhere.
pub fn seal_filled(name: &'static str, file: OwnedFd) -> Result<OwnedFd, ArenaError> {
    let create = |source| ArenaError::Create { name, source };
    let file = Memfd::try_from_file(File::from(file))
        .map_err(|_| create(io::Error::new(io::ErrorKind::InvalidInput, "not a memfd")))?;
    seal_all(&file).map_err(create)?;
    Ok(file.into_file().into())
}

fn memfd(name: &str) -> io::Result<Memfd> {
    let options = MemfdOptions::new().allow_sealing(true).close_on_exec(true);
    options.create(name).map_err(into_io).map_err(refused("memfd_create"))
}

fn sized(name: &str, capacity: u64) -> io::Result<Memfd> {
    let file = memfd(name)?;
    file.as_file().set_len(capacity).map_err(refused("ftruncate"))?;
    Ok(file)
}

fn seal(file: &Memfd, seals: &[FileSeal]) -> io::Result<()> {
    file.add_seals(seals).map_err(into_io).map_err(refused("fcntl(F_ADD_SEALS)"))
}

fn seal_all(file: &Memfd) -> io::Result<()> {
    seal(file, &[FileSeal::SealWrite, FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])
}

pub(crate) fn into_io(error: memfd::Error) -> io::Error {
    match error {
        memfd::Error::Create(error) | memfd::Error::AddSeals(error) | memfd::Error::GetSeals(error) => error,
    }
}

fn open_sealed(
    name: &'static str,
    file: OwnedFd,
    capacity: u64,
    access: Access,
) -> Result<(Mapping, File), ArenaError> {
    let not_sealed = |reason: String| ArenaError::NotSealed { name, reason };
    let file = Memfd::try_from_file(File::from(file)).map_err(|_| not_sealed("no memfd".to_owned()))?;
    let seals = file.seals().map_err(|error| not_sealed(error.to_string()))?;
    if !(seals.contains(&FileSeal::SealShrink) && seals.contains(&FileSeal::SealGrow)) {
        return Err(not_sealed(format!("its seals are {seals:?}")));
    }
    let size = file.as_file().metadata().map_err(|source| ArenaError::Create { name, source })?.len();
    if size != capacity {
        return Err(not_sealed(format!("it has {size} bytes, not {capacity}")));
    }
    let length = usize::try_from(capacity).map_err(|error| not_sealed(error.to_string()))?;
    let mapping = Mapping::shared(file.as_file(), length, access);
    Ok((mapping.map_err(|source| ArenaError::Create { name, source })?, file.into_file()))
}

fn commit(file: &File, mapping: &mut Mapping, name: &'static str, lock: bool) -> Result<(), ArenaError> {
    let bytes = mapping.len() as u64;
    let refused = |what| move |source| ArenaError::NotCommitted { what, name, bytes, source };
    if !allocate(file, bytes).map_err(refused("commit"))? {
        mapping.populate().map_err(refused("commit"))?;
    }
    if lock { mapping.lock().map_err(refused("lock")) } else { Ok(()) }
}

/// Has the kernel find memory for all of a memfd of `bytes`, charged to this process; false where that cannot be asked for.
///
/// The pages are not mapped then, which costs their first users a minor fault each, and needs no memory but for page tables.
/// It takes a third of the time that MADV_POPULATE_WRITE takes (128 MiB: 50 ms instead of 150, Linux 6.18), which counts
/// where a worker is replaced. The seals allow it: only what changes bytes is sealed (memfd_create(2), fcntl(2)).
fn allocate(file: &File, bytes: u64) -> io::Result<bool> {
    let length = i64::try_from(bytes).map_err(io::Error::other)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Ok(()) => return Ok(true),
            Err(Errno::EINTR) => {}
            // A descriptor for reading only; a kernel or a seccomp profile without the call.
            Err(Errno::EBADF | Errno::EPERM | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL) => {
                return Ok(false);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn whole(span: Span, mapping: &Mapping) -> Result<(usize, usize), ArenaError> {
    match (usize::try_from(span.offset), usize::try_from(span.length)) {
        (Ok(offset), Ok(length)) => Ok((offset, length)),
        _ => Err(outside(span, mapping)),
    }
}

fn outside(span: Span, mapping: &Mapping) -> ArenaError {
    ArenaError::Outside { span, capacity: mapping.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(arena: &impl AsFd) -> OwnedFd {
        arena.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_the_supervisor_writes_the_worker_reads() {
        let mut arena = InputArena::create(8192).unwrap();
        let view = InputView::open(share(&arena), 8192).unwrap();
        let span = arena.write(b"a block").unwrap();
        assert_eq!(view.read(span).unwrap(), b"a block");
        assert!(matches!(arena.write(&[0; 8193]), Err(ArenaError::Outside { .. })));
    }

    #[test]
    fn a_worker_cannot_get_the_input_arena_writable() {
        let arena = InputArena::create(4096).unwrap();
        assert!(Mapping::shared(arena.as_fd(), 4096, Access::ReadWrite).is_err(), "a writable mapping");
        assert!(File::from(share(&arena)).write_all_at(b"x", 0).is_err(), "write(2)");
        assert!(File::from(share(&arena)).set_len(1 << 20).is_err(), "growing it");
    }

    #[test]
    fn what_the_worker_writes_is_copied_out() {
        let arena = OutputArena::create(4096).unwrap();
        let mut sink = OutputSink::open(share(&arena), 4096).unwrap();
        let span = Span { offset: 100, length: 5 };
        sink.slice_mut(span).unwrap().copy_from_slice(b"pairs");
        let copy = arena.copy_out(span).unwrap();
        sink.slice_mut(span).unwrap().copy_from_slice(b"other");
        assert_eq!(copy, b"pairs");
        let lent = arena.copy_out_to(span, |bytes| Some(Vec::with_capacity(bytes + 100))).unwrap();
        assert_eq!((lent.as_slice(), lent.capacity() >= 105), (b"other".as_slice(), true));
    }

    /// Bytes of memory that a memfd has, by what the kernel counts in blocks.
    fn held(arena: &impl AsFd) -> u64 {
        use std::os::unix::fs::MetadataExt;
        File::from(share(arena)).metadata().unwrap().blocks() * 512
    }

    #[test]
    fn a_committed_arena_has_all_its_memory_and_keeps_its_content() {
        const BYTES: u64 = 1 << 20;
        for touched in [false, true] {
            let fill =
                |mapping: &mut Mapping| if touched { mapping.touch() } else { mapping.populate().unwrap() };
            let mut input = InputArena::create(BYTES).unwrap();
            let span = input.write(b"a block").unwrap();
            let mut view = InputView::open(share(&input), BYTES).unwrap();
            assert!(held(&input) < BYTES, "no memory before");
            fill(&mut view.mapping);
            assert_eq!(held(&input), BYTES, "by reading alone");
            assert_eq!(view.read(span).unwrap(), b"a block");

            let output = OutputArena::create(BYTES).unwrap();
            let mut sink = OutputSink::open(share(&output), BYTES).unwrap();
            sink.slice_mut(span).unwrap().copy_from_slice(b"written");
            fill(&mut sink.mapping);
            assert_eq!(
                (held(&output), output.copy_out(span).unwrap().as_slice()),
                (BYTES, b"written".as_slice())
            );
        }
        for lock in [false, true] {
            let mut input = InputArena::create(BYTES).unwrap();
            let span = input.write(b"a block").unwrap();
            let mut view = InputView::open(share(&input), BYTES).unwrap();
            view.commit(lock).unwrap();
            assert_eq!((held(&input), view.read(span).unwrap()), (BYTES, b"a block".as_slice()));
            let output = OutputArena::create(BYTES).unwrap();
            OutputSink::open(share(&output), BYTES).unwrap().commit(lock).unwrap();
            assert_eq!(held(&output), BYTES);
        }
    }

    #[test]
    fn unsealed_or_wrongly_sized_files_are_refused() {
        let open = |fd| OutputSink::open(fd, 4096);
        assert!(matches!(open(fillable_memfd("unsealed").unwrap()), Err(ArenaError::NotSealed { .. })));
        let other = OutputArena::create(8192).unwrap();
        assert!(matches!(open(share(&other)), Err(ArenaError::NotSealed { .. })));
    }

    #[test]
    fn a_sealed_memfd_cannot_be_written() {
        let file = File::from(sealed_memfd("test", b"module").unwrap());
        assert!(file.write_all_at(b"x", 0).is_err());
        let filled = fillable_memfd("test").unwrap();
        let writer = File::from(filled.try_clone().unwrap());
        writer.write_all_at(b"artifact", 0).unwrap();
        seal_filled("test", filled).unwrap();
        assert!(writer.write_all_at(b"x", 0).is_err());
    }

    proptest! {
        #[test]
        fn no_span_reaches_outside(offset: u64, length: u64, near in 0u64..9000, small in 0u64..9000) {
            let arena = OutputArena::create(4096).unwrap();
            for span in [Span { offset, length }, Span { offset: near, length: small }] {
                let inside = span.offset.checked_add(span.length).is_some_and(|end| end <= 4096);
                prop_assert_eq!(arena.copy_out(span).is_ok(), inside);
            }
        }
    }
}
