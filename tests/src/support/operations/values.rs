//! The values that every operation is run on.

/// Values of each type: 28, so that one index serves all of them.
pub(super) const VALUES: u32 = 28;

/// Where the values lie in the guest's memory.
pub(super) const V128_AT: u32 = 1024;
pub(super) const F64_AT: u32 = V128_AT + VALUES * 16;
pub(super) const I64_AT: u32 = F64_AT + VALUES * 8;
pub(super) const F32_AT: u32 = I64_AT + VALUES * 8;
pub(super) const I32_AT: u32 = F32_AT + VALUES * 4;
/// A byte for each operation: how many operands it has.
pub(super) const OPERANDS_AT: u32 = 2400;
/// Bytes that stores write to.
pub(super) const SCRATCH_AT: u32 = 3072;

pub(super) const F32: [u32; VALUES as usize] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbfc0_0000,
    0x7f80_0000,
    0xff80_0000, // ±0, 1, −1.5, ±∞
    0x7fc0_0000,
    0x7fa0_0000,
    0xffc1_2345,
    0xff80_0001,
    0x7fff_ffff, // NaNs: canonical, signalling, payloads
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000, // denormals, and the smallest that is none
    0x4eff_ffff,
    0x4f00_0000,
    0xcf00_0000,
    0x4f80_0000,
    0x5f00_0000,
    0xdf00_0000, // ends of the integers' ranges
    0x3eff_ffff,
    0x3f00_0000,
    0x3fc0_0000,
    0xc020_0000, // below a tie; ties
    0x4b00_0001,
    0x3380_0000,
    0x7f7f_ffff, // 2^23 + 1, 2^-24, the largest
];

pub(super) const F64: [u64; VALUES as usize] = [
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff4_0000_0000_0000,
    0xfff8_0000_0001_2345,
    0xfff0_0000_0000_0001,
    u64::MAX >> 1,
    1,
    0x8000_0000_0000_0001,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x41df_ffff_ffc0_0000,
    0x41e0_0000_0000_0000,
    0xc1e0_0000_0020_0000,
    0x43e0_0000_0000_0000,
    0xc3e0_0000_0000_0000,
    0x43f0_0000_0000_0000,
    0x47ef_ffff_e000_0000,
    0x47ef_ffff_f000_0000,
    0x36a0_0000_0000_0000,
    0x3690_0000_0000_0000, // ends of f32, ties there
    0x3fe0_0000_0000_0000,
    0xc004_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
];

pub(super) const I32: [u32; VALUES as usize] = [
    0,
    1,
    u32::MAX,
    1 << 31,
    (1 << 31) - 1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    0x1234_5678,
    0xdead_beef,
    0xff,
    0x100,
    0x80,
    0x7f,
    0xffff,
    0x8000,
    0x7fff,
    0x1_0000,
    0xaaaa_aaaa,
    0x5555_5555,
    0x00ff_00ff,
    u32::MAX - 1,
    100,
];

pub(super) const I64: [u64; VALUES as usize] = [
    0,
    1,
    u64::MAX,
    1 << 63,
    (1 << 63) - 1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    65,
    0x1234_5678_9abc_def0,
    0xdead_beef_cafe_babe,
    0xff,
    0x80,
    0x7f,
    0xffff,
    0x8000,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff,
    1 << 32,
    0xaaaa_aaaa_aaaa_aaaa,
    0x5555_5555_5555_5555,
    (1 << 53) + 1,
];

/// Vectors of integers; the floats above fill the others.
pub(super) const BYTES: [[u8; 16]; 7] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [0xff; 16],
    [0x80; 16],
    [0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80],
    [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f],
    [0, 0, 0, 0x80, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0x80],
    [0, 15, 16, 17, 31, 32, 127, 128, 129, 143, 144, 200, 254, 255, 8, 7],
];
