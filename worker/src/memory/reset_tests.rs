//! The reset of a slab: after every block all of the slab is zero, for any writes in any order, with and without tracking. And
//! memory that no guest wrote is not zeroed either.

use std::fs::File;
use std::time::Instant;

use cofferdam_test_skips::skip;
use proptest::prelude::*;

use super::super::page::page_bytes;
use super::super::reservation::{Advice, Reservation};
use super::*;

const LIMIT_CHUNKS: usize = 256;
const LIMIT: usize = LIMIT_CHUNKS * CHUNK_BYTES;

/// The memory accesses of one block.
#[derive(Clone, Debug)]
struct Block {
    /// Chunks of memory at the end of the block.
    chunks: usize,
    /// Offsets and lengths of the writes, modulo the memory's size.
    writes: Vec<(usize, usize)>,
    /// The byte that is written. It may be zero.
    value: u8,
}

struct Slab {
    reservation: Reservation,
    limit: usize,
}

impl Slab {
    /// Committed and open, as in a new worker.
    fn new(limit: usize) -> Self {
        let mut reservation = Reservation::new(limit).unwrap();
        let mut memory = OpenMemory::open(&mut reservation, 0..limit).unwrap();
        memory.advise(Advice::HugePages).unwrap();
        memory.touch();
        Self { reservation, limit }
    }

    fn open(&mut self, bytes: usize) -> OpenMemory<'_> {
        OpenMemory::open(&mut self.reservation, 0..bytes).unwrap()
    }

    #[allow(unsafe_code, reason = "writes as a guest does")]
    fn write(&mut self, range: Range<usize>, value: u8) {
        assert!(range.end <= self.limit);
        // SAFETY: inside the reservation. Each caller has opened the range, and nobody else uses it.
        unsafe { self.reservation.base().add(range.start).write_bytes(value, range.len()) }
    }

    /// Runs a block as an instance does: its memory is open while it runs and while it is reset, and the rest is closed.
    fn run(&mut self, resetter: &mut Resetter, block: &Block) -> u64 {
        let size = block.chunks * CHUNK_BYTES;
        self.reservation.close(0..self.limit).unwrap();
        self.reservation.open(0..size).unwrap();
        for (at, length) in &block.writes {
            let at = at % size;
            self.write(at..size.min(at + length), block.value);
        }
        resetter.reset(&mut self.open(size))
    }

    fn is_zero(&mut self) -> bool {
        let limit = self.limit;
        self.open(limit).is_zero(0..limit)
    }
}

/// A resetter that tracks writes. Where the host does not allow that, the test counts as skipped.
fn adaptive(slab: &Slab) -> Option<Resetter> {
    match Tracker::new(&slab.reservation, slab.limit) {
        Ok(tracker) => Some(Resetter::new(slab.limit, page_bytes(), Some(tracker))),
        Err(error) => {
            skip(format_args!("writes cannot be tracked here: {error}"));
            None
        }
    }
}

fn tracked(resetter: &Resetter) -> usize {
    resetter.chunks.iter().filter(|chunk| chunk.tracked).count()
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let length = prop_oneof![4 => 1..9usize, 2 => 4000..9000usize, 1 => 1..LIMIT];
    let writes = prop::collection::vec((0..LIMIT, length), 0..24);
    let block = (
        (1..=LIMIT_CHUNKS / 4).prop_map(|pages| pages * 4),
        writes,
        prop_oneof![6 => 1..=255u8, 1 => Just(0)],
    );
    let block = block.prop_map(|(chunks, writes, value)| Block { chunks, writes, value });
    // Chunks settle only if the same block runs several times in a row.
    prop::collection::vec((block, 1..12usize), 1..8)
        .prop_map(|runs| runs.into_iter().flat_map(|(block, times)| vec![block; times]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_every_block_all_of_the_slab_is_zero(
        blocks in blocks(),
        track in prop_oneof![4 => Just(true), 1 => Just(false)],
        stream_from in prop_oneof![Just(0), Just(LIMIT / 2), Just(STREAM_FROM_BYTES)],
    ) {
        let mut slab = Slab::new(LIMIT);
        let without = Resetter::new(LIMIT, page_bytes(), None);
        let mut resetter = if track { adaptive(&slab).unwrap_or(without) } else { without };
        resetter.stream_from = stream_from;
        for block in &blocks {
            let bytes = slab.run(&mut resetter, block);
            // Pages of a chunk that has just become dense are zeroed twice; they are fewer than DENSE_PAGES.
            let most = block.chunks * (CHUNK_BYTES + usize::from(DENSE_PAGES - 1) * page_bytes());
            prop_assert!(bytes <= most as u64, "{bytes}");
            prop_assert!(slab.is_zero(), "after {block:?}: {resetter:?}");
        }
    }

    #[test]
    fn a_tracker_that_fails_in_the_middle_is_replaced_by_zeroing(blocks in blocks(), fails_at in 0..20usize) {
        let mut slab = Slab::new(LIMIT);
        let Some(mut resetter) = adaptive(&slab) else { return Ok(()) };
        for (index, block) in blocks.iter().enumerate() {
            if index == fails_at {
                let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
                resetter.tracker.as_mut().unwrap().disable(null(), null());
            }
            slab.run(&mut resetter, block);
            prop_assert!(slab.is_zero(), "after {block:?}: {resetter:?}");
        }
    }
}

#[test]
fn only_written_memory_is_zeroed_and_all_of_it_is() {
    let mut slab = Slab::new(LIMIT);
    let Some(mut resetter) = adaptive(&slab) else { return };
    // Half of the slab is dense, one page far behind it is written, and the rest is not touched.
    let dense = LIMIT / 2;
    let writes = vec![(0, dense), (dense + 9 * CHUNK_BYTES + 5, 1)];
    let block = Block { chunks: LIMIT_CHUNKS, writes, value: 7 };
    for _ in 0..CHECK_EVERY {
        slab.run(&mut resetter, &block);
    }
    assert_eq!(slab.run(&mut resetter, &block), (dense + CHUNK_BYTES) as u64);
    assert_eq!(tracked(&resetter), LIMIT_CHUNKS / 2 - 1);
    assert!(slab.is_zero());
    // A written page elsewhere is found, and only this page of its chunk is zeroed.
    let elsewhere = Block { writes: vec![(dense + 20 * CHUNK_BYTES + 5, 1)], ..block.clone() };
    assert_eq!(slab.run(&mut resetter, &elsewhere), (dense + CHUNK_BYTES + page_bytes()) as u64);
    assert!(slab.is_zero());
    // A chunk that is written densely becomes dense, and is tracked again once it is not written any more.
    let all = Block { chunks: LIMIT_CHUNKS, writes: vec![(0, LIMIT)], value: 7 };
    slab.run(&mut resetter, &all);
    assert_eq!(tracked(&resetter), 0);
    for _ in 0..4 * CHECK_EVERY_AT_MOST {
        slab.run(&mut resetter, &block);
    }
    assert_eq!(tracked(&resetter), LIMIT_CHUNKS / 2 - 1);
    assert!(slab.is_zero());
}

/// Figures for work on this file: `cargo test --release -p cofferdam-worker -- --ignored --nocapture reset_figures`.
#[test]
#[ignore = "prints figures, and commits 4 GiB"]
fn reset_figures() {
    let page = page_bytes();
    let mut slab = Slab::new(4 << 30);
    let patterns: Vec<(String, usize, Vec<Range<usize>>)> = vec![
        ("nothing, 64 KiB".into(), 64 << 10, vec![]),
        ("nothing, 1 MiB".into(), 1 << 20, vec![]),
        ("nothing, 64 MiB".into(), 64 << 20, vec![]),
        ("nothing, 4 GiB".into(), 4 << 30, vec![]),
        ("1 page of 4 GiB".into(), 4 << 30, runs(page..2 * page)),
        ("1 MiB dense".into(), 1 << 20, runs(0..1 << 20)),
        ("1 MiB dense of 64 MiB".into(), 64 << 20, runs(0..1 << 20)),
        ("64 MiB dense".into(), 64 << 20, runs(0..64 << 20)),
        ("1 GiB dense".into(), 1 << 30, runs(0..1 << 30)),
        ("1 GiB dense of 4 GiB".into(), 4 << 30, runs(0..1 << 30)),
        ("1000 pages of 4 GiB".into(), 4 << 30, scattered(1000, page)),
        ("100000 pages of 4 GiB".into(), 4 << 30, scattered(100_000, page)),
    ];
    for (name, size, writes) in patterns {
        let mut zeroing = Resetter::new(slab.limit, page, None);
        let (plain, _) = figure(&mut slab, &mut zeroing, size, &writes);
        let Some(mut resetter) = adaptive(&slab) else { return };
        let (ours, bytes) = figure(&mut slab, &mut resetter, size, &writes);
        println!(
            "{name:>24}: {ours:10.1} µs, zeroing all {plain:10.1} µs, {:.3} × ({bytes} bytes)",
            ours / plain
        );
    }
}

fn runs(run: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(run).collect()
}

fn scattered(pages: usize, page: usize) -> Vec<Range<usize>> {
    let stride = (4usize << 30) / pages / page * page;
    (0..pages).map(|index| index * stride..index * stride + page).collect()
}

/// The median of writes and reset together, in µs, and the bytes that the last reset zeroed.
fn figure(slab: &mut Slab, resetter: &mut Resetter, size: usize, writes: &[Range<usize>]) -> (f64, u64) {
    let mut bytes = 0;
    let mut times: Vec<f64> = (0..24)
        .map(|_| {
            let started = Instant::now();
            for run in writes {
                slab.write(run.clone(), 7);
            }
            bytes = resetter.reset(&mut slab.open(size));
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], bytes)
}
