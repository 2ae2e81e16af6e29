//! Both sides of the arenas in one process.

#![allow(unsafe_code, reason = "reads what nobody writes meanwhile")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mapping::{Access, Mapping};
use crate::sealing::FixedSizeMemfd;

/// The bytes of `span` as the worker sees them.
fn read(view: &Arc<InputView>, span: Span) -> Result<Vec<u8>, ArenaError> {
    // SAFETY: these tests write to no arena while they read it.
    unsafe { view.stable_bytes(span) }.map(|bytes| bytes.to_vec())
}

fn write(sink: &mut OutputSink, span: Span, bytes: &[u8]) {
    assert!(sink.writer(span).unwrap().put(bytes));
}

fn share(arena: &impl AsFd) -> OwnedFd {
    arena.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn what_the_supervisor_writes_the_worker_reads() {
    let mut arena = InputArena::create(8192).unwrap();
    let view = Arc::new(InputView::open(share(&arena), 8192).unwrap());
    let span = arena.write(b"a block").unwrap();
    assert_eq!(read(&view, span).unwrap(), b"a block");
    let outside = Span { offset: 8192, length: 1 };
    assert!(matches!(read(&view, outside), Err(ArenaError::Outside { .. })));
    assert!(matches!(arena.write(&[0; 8193]), Err(ArenaError::Outside { .. })));
}

#[test]
fn a_worker_cannot_get_the_input_arena_writable() {
    let arena = InputArena::create(4096).unwrap();
    let file = FixedSizeMemfd::check(share(&arena), 4096).unwrap();
    assert!(Mapping::new(&file, Access::ReadWrite).is_err(), "a writable mapping");
    assert!(File::from(share(&arena)).write_all_at(b"x", 0).is_err(), "write(2)");
    assert!(File::from(share(&arena)).set_len(1 << 20).is_err(), "growing it");
}

#[test]
fn what_the_worker_writes_is_copied_out() {
    let arena = OutputArena::create(4096).unwrap();
    let mut sink = OutputSink::open(share(&arena), 4096).unwrap();
    let span = Span { offset: 100, length: 5 };
    write(&mut sink, span, b"pairs");
    let copy = arena.copy_out(span).unwrap();
    write(&mut sink, span, b"other");
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
fn a_writer_stays_inside_its_span() {
    let arena = OutputArena::create(4096).unwrap();
    let mut sink = OutputSink::open(share(&arena), 4096).unwrap();
    let mut writer = sink.writer(Span { offset: 10, length: 3 }).unwrap();
    assert!(writer.put(b"ab") && !writer.put(b"cd") && writer.put(b"c") && !writer.put(b"d"));
    assert_eq!(arena.copy_out(Span { offset: 9, length: 5 }).unwrap(), b"\0abc\0");
    assert!(matches!(sink.writer(Span { offset: 4095, length: 2 }), Err(ArenaError::Outside { .. })));
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
        fill(&mut view.arena.mapping);
        assert_eq!(held(&input), BYTES, "by reading alone");
        assert_eq!(read(&Arc::new(view), span).unwrap(), b"a block");

        let output = OutputArena::create(BYTES).unwrap();
        let mut sink = OutputSink::open(share(&output), BYTES).unwrap();
        write(&mut sink, span, b"written");
        fill(&mut sink.arena.mapping);
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
        let content = read(&Arc::new(view), span).unwrap();
        assert_eq!((held(&input), content.as_slice()), (BYTES, b"a block".as_slice()));
        let output = OutputArena::create(BYTES).unwrap();
        OutputSink::open(share(&output), BYTES).unwrap().commit(lock).unwrap();
        assert_eq!(held(&output), BYTES);
    }
}

#[test]
fn unsealed_or_wrongly_sized_files_are_refused() {
    let open = |fd| OutputSink::open(fd, 4096);
    assert!(matches!(open(unsealed_memfd("unsealed").unwrap()), Err(ArenaError::NotSealed { .. })));
    let other = OutputArena::create(8192).unwrap();
    assert!(matches!(open(share(&other)), Err(ArenaError::NotSealed { .. })));
}

#[test]
fn a_sealed_memfd_cannot_be_written() {
    let file = File::from(sealed_memfd("test", b"module").unwrap());
    assert!(file.write_all_at(b"x", 0).is_err());
    check_sealed("test", file.into()).unwrap();
    let filled = unsealed_memfd("test").unwrap();
    let writer = File::from(filled.try_clone().unwrap());
    writer.write_all_at(b"artifact", 0).unwrap();
    let unsealed = check_sealed("test", filled.try_clone().unwrap());
    assert!(matches!(unsealed, Err(ArenaError::NotSealed { .. })));
    seal_memfd("test", filled).unwrap();
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
