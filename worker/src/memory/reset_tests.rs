//! The reset against a slab and a shadow: after every block all of the slab is zero, whatever was written, in whatever
//! order, and whether or not the kernel helps; and what nobody wrote is not written either.

use std::fs::File;
use std::time::Instant;

use cofferdam_test_skips::skip;
use proptest::prelude::*;

use super::super::commit::page_bytes;
use super::*;

const LIMIT_CHUNKS: usize = 256;
const LIMIT: usize = LIMIT_CHUNKS * CHUNK_BYTES;

/// What one block does.
#[derive(Clone, Debug)]
struct Block {
    /// Chunks of memory that it has in the end.
    chunks: usize,
    /// Offsets and lengths of what it writes, taken modulo its memory.
    writes: Vec<(usize, usize)>,
    /// What it writes; zero too.
    value: u8,
}

struct Slab {
    reservation: Reservation,
    limit: usize,
}

impl Slab {
    /// Committed and open, as a worker's is at first.
    fn new(limit: usize) -> Self {
        let reservation = Reservation::new(limit).unwrap();
        reservation.open(0..limit).unwrap();
        reservation.advise(0..limit, nix::sys::mman::MmapAdvise::MADV_HUGEPAGE).unwrap();
        reservation.touch(0..limit, page_bytes());
        Self { reservation, limit }
    }

    #[allow(unsafe_code, reason = "writes as a guest does")]
    fn write(&self, range: Range<usize>, value: u8) {
        assert!(range.end <= self.limit);
        // SAFETY: inside the reservation; whoever calls this has opened it and uses it alone.
        unsafe { self.reservation.base().add(range.start).write_bytes(value, range.len()) }
    }

    /// Runs a block as an instance does: what it has is open while it runs and while it is reset, the rest closed.
    fn run(&self, resetter: &mut Resetter, block: &Block) -> u64 {
        let size = block.chunks * CHUNK_BYTES;
        self.reservation.close(0..self.limit).unwrap();
        self.reservation.open(0..size).unwrap();
        for (at, length) in &block.writes {
            let at = at % size;
            self.write(at..size.min(at + length), block.value);
        }
        resetter.reset(&self.reservation, size)
    }

    fn is_zero(&self) -> bool {
        self.reservation.open(0..self.limit).unwrap();
        self.reservation.is_zero(0..self.limit)
    }
}

/// A resetter that tracks, where the host lets it; says so loudly where not.
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
    // The same block several times in a row is what lets chunks settle.
    prop::collection::vec((block, 1..12usize), 1..8)
        .prop_map(|runs| runs.into_iter().flat_map(|(block, times)| vec![block; times]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_every_block_all_of_the_slab_is_zero(
        blocks in blocks(),
        help in prop_oneof![4 => Just(true), 1 => Just(false)],
        stream_from in prop_oneof![Just(0), Just(LIMIT / 2), Just(STREAM_FROM_BYTES)],
    ) {
        let slab = Slab::new(LIMIT);
        let without = Resetter::new(LIMIT, page_bytes(), None);
        let mut resetter = if help { adaptive(&slab).unwrap_or(without) } else { without };
        resetter.stream_from = stream_from;
        for block in &blocks {
            let bytes = slab.run(&mut resetter, block);
            // Pages of a chunk that has just become dense are written twice: fewer than DENSE_PAGES.
            let most = block.chunks * (CHUNK_BYTES + usize::from(DENSE_PAGES - 1) * page_bytes());
            prop_assert!(bytes <= most as u64, "{bytes}");
            prop_assert!(slab.is_zero(), "after {block:?}: {resetter:?}");
        }
    }

    #[test]
    fn help_that_fails_in_the_middle_is_done_without(blocks in blocks(), fails_at in 0..20usize) {
        let slab = Slab::new(LIMIT);
        let Some(mut resetter) = adaptive(&slab) else { return Ok(()) };
        for (index, block) in blocks.iter().enumerate() {
            if index == fails_at {
                let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
                resetter.tracker.as_mut().unwrap().break_off(null(), null());
            }
            slab.run(&mut resetter, block);
            prop_assert!(slab.is_zero(), "after {block:?}: {resetter:?}");
        }
    }
}

#[test]
fn what_is_not_written_is_not_zeroed_and_what_is_written_always_is() {
    let slab = Slab::new(LIMIT);
    let Some(mut resetter) = adaptive(&slab) else { return };
    // Half dense, one page far behind it, the rest untouched.
    let dense = LIMIT / 2;
    let writes = vec![(0, dense), (dense + 9 * CHUNK_BYTES + 5, 1)];
    let block = Block { chunks: LIMIT_CHUNKS, writes, value: 7 };
    for _ in 0..CHECK_EVERY {
        slab.run(&mut resetter, &block);
    }
    assert_eq!(slab.run(&mut resetter, &block), (dense + CHUNK_BYTES) as u64);
    assert_eq!(tracked(&resetter), LIMIT_CHUNKS / 2 - 1);
    assert!(slab.is_zero());
    // A page elsewhere is found, and nothing of its chunk is written but the page.
    let elsewhere = Block { writes: vec![(dense + 20 * CHUNK_BYTES + 5, 1)], ..block.clone() };
    assert_eq!(slab.run(&mut resetter, &elsewhere), (dense + CHUNK_BYTES + page_bytes()) as u64);
    assert!(slab.is_zero());
    // A chunk that grows dense is dense, and is tracked again once it is left alone.
    let all = Block { chunks: LIMIT_CHUNKS, writes: vec![(0, LIMIT)], value: 7 };
    slab.run(&mut resetter, &all);
    assert_eq!(tracked(&resetter), 0);
    for _ in 0..4 * CHECK_EVERY_AT_MOST {
        slab.run(&mut resetter, &block);
    }
    assert_eq!(tracked(&resetter), LIMIT_CHUNKS / 2 - 1);
    assert!(slab.is_zero());
}

/// For whoever works on this file: `cargo test --release -p cofferdam-worker -- --ignored --nocapture reset_figures`.
#[test]
#[ignore = "prints figures, and commits 4 GiB"]
fn reset_figures() {
    let page = page_bytes();
    let slab = Slab::new(4 << 30);
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
        let (plain, _) = figure(&slab, &mut Resetter::new(slab.limit, page, None), size, &writes);
        let Some(mut resetter) = adaptive(&slab) else { return };
        let (ours, bytes) = figure(&slab, &mut resetter, size, &writes);
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

/// The median of writes and reset together, in µs, and the bytes that the last reset wrote.
fn figure(slab: &Slab, resetter: &mut Resetter, size: usize, writes: &[Range<usize>]) -> (f64, u64) {
    let mut bytes = 0;
    let mut times: Vec<f64> = (0..24)
        .map(|_| {
            let started = Instant::now();
            for run in writes {
                slab.write(run.clone(), 7);
            }
            bytes = resetter.reset(&slab.reservation, size);
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], bytes)
}
