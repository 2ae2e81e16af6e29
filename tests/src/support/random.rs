//! Random choices that a failed test can be repeated with.

use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that follow from a seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `COFFERDAM_TEST_SEED`, or else from a seed that is different in each run; it is printed.
    pub fn seeded() -> Self {
        let seed = seed();
        eprintln!("seed {seed}: COFFERDAM_TEST_SEED={seed} repeats the choices");
        Self(seed)
    }

    /// A number below `end`: splitmix64.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_nanos();
    let given = std::env::var("COFFERDAM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or(u64::try_from(now & u128::from(u64::MAX)).expect("64 bits"))
}
