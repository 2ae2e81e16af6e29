//! Makes `guests/operations.wat`: a guest that runs every numeric and vector operation on every class of value.
//!
//! Two hosts agree on a chain only if each operation gives the same bits on both. So each operation is run on all
//! combinations of 28 values for each operand: NaNs with payloads and of both signs, denormals, infinities, zeros of both
//! signs, ties, and the ends of every range. Operations on floats are also run on constants, which the compiler may
//! compute itself.
//!
//! The guest runs the operation whose number is the height that it is given, and flushes a hash of all results. One block
//! for each operation: so a difference names the operation. The guest is checked in, so that scripts need no compiler.

use std::fmt::Write;

/// Values of each type: 28, so that one index serves all of them.
const VALUES: u32 = 28;

/// Where the values lie in the guest's memory.
const V128_AT: u32 = 1024;
const F64_AT: u32 = V128_AT + VALUES * 16;
const I64_AT: u32 = F64_AT + VALUES * 8;
const F32_AT: u32 = I64_AT + VALUES * 8;
const I32_AT: u32 = F32_AT + VALUES * 4;
/// A byte for each operation: how many operands it has.
const OPERANDS_AT: u32 = 2400;
/// Bytes that stores write to.
const SCRATCH_AT: u32 = 3072;
/// The message that is flushed, behind its length.
const MESSAGE_AT: u32 = 3200;
/// Where the input is put.
const INPUT_AT: u32 = 65536;

const F32: [u32; VALUES as usize] = [
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

const F64: [u64; VALUES as usize] = [
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

const I32: [u32; VALUES as usize] = [
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

const I64: [u64; VALUES as usize] = [
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
const BYTES: [[u8; 16]; 7] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [0xff; 16],
    [0x80; 16],
    [0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0x80],
    [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f],
    [0, 0, 0, 0x80, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0x80],
    [0, 15, 16, 17, 31, 32, 127, 128, 129, 143, 144, 200, 254, 255, 8, 7],
];

/// One operation: its name, and the statements that mix its results into the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name in WebAssembly's text format.
    pub name: String,
    operands: u8,
    body: String,
}

/// Every operation, by number.
pub fn all() -> Vec<Operation> {
    let mut list = List::default();
    list.integers();
    list.floats();
    list.conversions();
    list.scalar_memory();
    list.vector_memory();
    list.lanes();
    list.vectors_of_integers();
    list.vectors_of_floats();
    list.relaxed();
    list.others();
    list.0
}

/// The text of the guest.
pub fn text() -> String {
    let operations = all();
    let mut text = String::from(HEAD);
    let _ = writeln!(text, "  (memory (export \"memory\") 64)");
    for (at, bytes) in
        [(V128_AT, vectors()), (OPERANDS_AT, operations.iter().map(|op| op.operands).collect())]
    {
        let _ = writeln!(text, "  (data (i32.const {at}) \"{}\")", escaped(&bytes));
    }
    let message = b"\x12\0\0\0\x0a\x06result\x0a\x08........";
    let _ = writeln!(text, "  (data (i32.const {}) \"{}\")", MESSAGE_AT - 4, escaped(message));
    let _ = writeln!(text, "  (data $passive \"{}\")", escaped(&BYTES[6]));
    text.push_str(&helpers(operations.len()));
    for Operation { name, body, .. } in &operations {
        let _ = writeln!(text, "  (func (;{name};) (type $operation) {body})");
    }
    let first = 14 + IMPORTS;
    let numbers: Vec<_> = (0..operations.len()).map(|number| (first + number).to_string()).collect();
    let _ = writeln!(text, "  (table {} funcref)", operations.len());
    let _ = writeln!(text, "  (elem (i32.const 0) func {}))", numbers.join(" "));
    text
}

const IMPORTS: usize = 2;

const HEAD: &str = "\
;; Made by tests/src/support/operations.rs, which says what it is for: every numeric and vector operation, by height.
(module
  (import \"env\" \"__load_input\" (func $load_input (param i32)))
  (import \"env\" \"__flush\" (func $flush (param i32)))
  (type $operation (func (param i32)))
  (global $hash (mut i64) (i64.const 0))
  (global $f32 (mut f32) (f32.const 0))
  (global $f64 (mut f64) (f64.const 0))
  (global $v128 (mut v128) (v128.const i64x2 0 0))
";

/// The functions that operations use: fourteen, in front of the operations.
fn helpers(operations: usize) -> String {
    let value = |ty: &str, at: u32, bytes: u32| {
        format!(
            "  (func ${ty} (param i32) (result {ty}) ({ty}.load (i32.add (i32.const {at}) \
             (i32.mul (i32.rem_u (local.get 0) (i32.const {VALUES})) (i32.const {bytes})))))\n"
        )
    };
    let mut text = String::new();
    for (ty, at, bytes) in [
        ("i32", I32_AT, 4),
        ("i64", I64_AT, 8),
        ("f32", F32_AT, 4),
        ("f64", F64_AT, 8),
        ("v128", V128_AT, 16),
    ] {
        text.push_str(&value(ty, at, bytes));
    }
    let _ = write!(
        text,
        "  (func $at (param i32) (result i32) (i32.add (i32.const {V128_AT}) \
             (i32.mul (i32.rem_u (local.get 0) (i32.const {VALUES})) (i32.const 37))))
  (func $mix_i64 (param i64) (global.set $hash (i64.mul (i64.xor (i64.rotl (global.get $hash) (i64.const 5)) (local.get 0)) \
             (i64.const 0x9e3779b97f4a7c15))))
  (func $mix_i32 (param i32) (call $mix_i64 (i64.extend_i32_u (local.get 0))))
  (func $mix_f32 (param f32) (call $mix_i32 (i32.reinterpret_f32 (local.get 0))))
  (func $mix_f64 (param f64) (call $mix_i64 (i64.reinterpret_f64 (local.get 0))))
  (func $mix_v128 (param v128) (call $mix_i64 (i64x2.extract_lane 0 (local.get 0))) \
             (call $mix_i64 (i64x2.extract_lane 1 (local.get 0))))
  ;; What makes a division of integers trap is replaced.
  (func $divisor_i32 (param i32 i32) (result i32) (select (i32.const 5) (local.get 1) (i32.or (i32.eqz (local.get 1)) \
             (i32.and (i32.eq (local.get 0) (i32.const 0x80000000)) (i32.eq (local.get 1) (i32.const -1))))))
  (func $divisor_i64 (param i64 i64) (result i64) (select (i64.const 5) (local.get 1) (i32.or (i64.eqz (local.get 1)) \
             (i32.and (i64.eq (local.get 0) (i64.const 0x8000000000000000)) (i64.eq (local.get 1) (i64.const -1))))))
  (func (export \"_start\") (local $number i32) (local $turn i32) (local $turns i32)
    (call $load_input (i32.const {INPUT_AT}))
    (local.set $number (i32.load (i32.const {INPUT_AT})))
    (if (i32.lt_u (local.get $number) (i32.const {operations})) (then
      (local.set $turns (i32.load8_u offset={OPERANDS_AT} (local.get $number)))
      (local.set $turns (select (i32.const {one}) (select (i32.const {two}) (i32.const {three}) \
             (i32.eq (local.get $turns) (i32.const 2))) (i32.eq (local.get $turns) (i32.const 1))))
      (loop $next
        (call_indirect (type $operation) (local.get $turn) (local.get $number))
        (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $turn) (local.get $turns))))))
    (i64.store (i32.const {hash_at}) (global.get $hash))
    (call $flush (i32.const {MESSAGE_AT})))
",
        one = VALUES,
        two = VALUES * VALUES,
        three = VALUES * VALUES * VALUES,
        hash_at = MESSAGE_AT + 10,
    );
    text
}

/// All values, in the order of their places.
fn vectors() -> Vec<u8> {
    let f32s = || F32.iter().flat_map(|value| value.to_le_bytes());
    let f64s = || F64.iter().flat_map(|value| value.to_le_bytes());
    let mut bytes = BYTES.concat();
    bytes.extend(f32s());
    bytes.extend(f64s());
    bytes.extend(f64s().chain(I64.iter().flat_map(|value| value.to_le_bytes())));
    bytes.extend(f32s().chain(I32.iter().flat_map(|value| value.to_le_bytes())));
    assert_eq!(
        bytes.len(),
        (I32_AT + VALUES * 4 - V128_AT) as usize,
        "the places are where they are said to be"
    );
    bytes
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}

/// The operand at `place` (0, 1 or 2) of the type `ty`, for the turn that the function is given.
fn operand(ty: &str, place: usize) -> String {
    let divisor = VALUES.pow(u32::try_from(place).unwrap_or(0));
    match place {
        0 => format!("(call ${ty} (local.get 0))"),
        _ => format!("(call ${ty} (i32.div_u (local.get 0) (i32.const {divisor})))"),
    }
}

/// Constants that the compiler may compute with, one for each operand. Their results are mixed in as well.
fn constants(shape: &str) -> &'static [[&'static str; 2]] {
    match shape {
        "f32" | "f64" => &[["nan:0x12345", "1.5"], ["-1.5", "-nan:0x1"], ["inf", "-inf"], ["0", "-0"]],
        "f32x4" => &[["nan:0x12345 inf 0 -1.5", "1.5 -inf -0 -nan:0x1"]],
        "f64x2" => &[["nan:0x12345 inf", "1.5 -inf"], ["0 -1.5", "-0 -nan:0x1"]],
        _ => &[],
    }
}

#[derive(Default)]
struct List(Vec<Operation>);

impl List {
    fn add(&mut self, name: &str, operands: usize, body: String) {
        self.0.push(Operation { name: name.to_owned(), operands: u8::try_from(operands).unwrap_or(3), body });
    }

    /// An operation on `operands` with a result of the type `result`; on constants too, if it is one of a shape of floats.
    fn plain(&mut self, name: &str, operands: &[&str], result: &str) {
        self.with(name, name, operands, result);
    }

    /// As `plain`, with immediates behind the name.
    fn with(&mut self, name: &str, code: &str, operands: &[&str], result: &str) {
        let values: Vec<_> = operands.iter().enumerate().map(|(place, ty)| operand(ty, place)).collect();
        let mut body = format!("(call $mix_{result} ({code} {}))", values.join(" "));
        let shape = name.split('.').next().unwrap_or_default();
        let (constant, same) = match shape {
            "f32x4" => ("v128.const f32x4", "v128"),
            "f64x2" => ("v128.const f64x2", "v128"),
            "f32" => ("f32.const", "f32"),
            "f64" => ("f64.const", "f64"),
            _ => ("", ""),
        };
        if operands.iter().all(|operand| *operand == same) {
            for pair in constants(shape) {
                let values: Vec<_> =
                    pair.iter().take(operands.len()).map(|value| format!("({constant} {value})")).collect();
                let _ = write!(body, " (call $mix_{result} ({code} {}))", values.join(" "));
            }
        }
        self.add(name, operands.len(), body);
    }

    /// One operation with several immediates.
    fn each(&mut self, name: &str, immediates: &[&str], operands: &[&str], result: &str) {
        let values: Vec<_> = operands.iter().enumerate().map(|(place, ty)| operand(ty, place)).collect();
        let values = values.join(" ");
        let body: Vec<_> = immediates
            .iter()
            .map(|immediate| format!("(call $mix_{result} ({name} {immediate} {values}))"))
            .collect();
        self.add(name, operands.len(), body.join(" "));
    }

    fn unary(&mut self, shape: &str, names: &str, operand: &str, result: &str) {
        names.split(' ').for_each(|name| self.plain(&format!("{shape}.{name}"), &[operand], result));
    }

    fn binary(&mut self, shape: &str, names: &str, operand: &str, result: &str) {
        names.split(' ').for_each(|name| self.plain(&format!("{shape}.{name}"), &[operand, operand], result));
    }

    fn integers(&mut self) {
        for ty in ["i32", "i64"] {
            self.unary(ty, "eqz", ty, "i32");
            self.binary(ty, "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u", ty, "i32");
            self.unary(ty, "clz ctz popcnt extend8_s extend16_s", ty, ty);
            self.binary(ty, "add sub mul and or xor shl shr_s shr_u rotl rotr", ty, ty);
            for name in ["div_s", "div_u", "rem_s", "rem_u"] {
                let (left, right) = (operand(ty, 0), operand(ty, 1));
                let body =
                    format!("(call $mix_{ty} ({ty}.{name} {left} (call $divisor_{ty} {left} {right})))");
                self.add(&format!("{ty}.{name}"), 2, body);
            }
        }
        self.unary("i64", "extend32_s", "i64", "i64");
    }

    fn floats(&mut self) {
        for ty in ["f32", "f64"] {
            self.binary(ty, "eq ne lt gt le ge", ty, "i32");
            self.unary(ty, "abs neg ceil floor trunc nearest sqrt", ty, ty);
            self.binary(ty, "add sub mul div min max copysign", ty, ty);
        }
    }

    fn conversions(&mut self) {
        self.unary("i32", "wrap_i64", "i64", "i32");
        self.unary("i64", "extend_i32_s extend_i32_u", "i32", "i64");
        for (to, from, below, above, above_unsigned) in [
            ("i32", "f32", "-2147483904", "2147483648", "4294967296"),
            ("i32", "f64", "-2147483649", "2147483648", "4294967296"),
            ("i64", "f32", "-9223373136366403584", "9223372036854775808", "18446744073709551616"),
            ("i64", "f64", "-9223372036854777856", "9223372036854775808", "18446744073709551616"),
        ] {
            for (sign, below, above) in [("s", below, above), ("u", "-1", above_unsigned)] {
                let value = operand(from, 0);
                // What would trap is replaced by zero.
                let body = format!(
                    "(call $mix_{to} ({to}.trunc_{from}_{sign} (select {value} ({from}.const 0) (i32.and \
                     ({from}.lt ({from}.const {below}) {value}) ({from}.lt {value} ({from}.const {above}))))))"
                );
                self.add(&format!("{to}.trunc_{from}_{sign}"), 1, body);
                self.unary(to, &format!("trunc_sat_{from}_{sign}"), from, to);
                self.unary(from, &format!("convert_{to}_{sign}"), to, from);
            }
        }
        self.unary("f32", "demote_f64", "f64", "f32");
        self.unary("f64", "promote_f32", "f32", "f64");
        for (integer, float) in [("i32", "f32"), ("i64", "f64")] {
            self.unary(integer, &format!("reinterpret_{float}"), float, integer);
            self.unary(float, &format!("reinterpret_{integer}"), integer, float);
        }
    }

    fn load(&mut self, name: &str, result: &str) {
        let body = format!(
            "(call $mix_{result} ({name} (call $at (local.get 0)))) \
             (call $mix_{result} ({name} offset=3 align=1 (call $at (local.get 0))))"
        );
        self.add(name, 1, body);
    }

    fn store(&mut self, name: &str, lanes: &[&str], ty: &str) {
        let clear = format!("(v128.store (i32.const {SCRATCH_AT}) (v128.const i64x2 0x5a5a5a5a5a5a5a5a -1))");
        let value = operand(ty, 0);
        let body: Vec<_> = lanes
            .iter()
            .map(|lane| {
                format!(
                    "{clear} ({name} offset=0 align=1 {lane} (i32.const {SCRATCH_AT}) {value}) \
                     (call $mix_v128 (v128.load (i32.const {SCRATCH_AT})))"
                )
            })
            .collect();
        self.add(name, 1, body.join(" "));
    }

    fn scalar_memory(&mut self) {
        for (ty, loads, stores) in [
            ("i32", "load load8_s load8_u load16_s load16_u", "store store8 store16"),
            (
                "i64",
                "load load8_s load8_u load16_s load16_u load32_s load32_u",
                "store store8 store16 store32",
            ),
            ("f32", "load", "store"),
            ("f64", "load", "store"),
        ] {
            loads.split(' ').for_each(|name| self.load(&format!("{ty}.{name}"), ty));
            stores.split(' ').for_each(|name| self.store(&format!("{ty}.{name}"), &[""], ty));
        }
    }

    fn vector_memory(&mut self) {
        for name in [
            "load",
            "load8x8_s",
            "load8x8_u",
            "load16x4_s",
            "load16x4_u",
            "load32x2_s",
            "load32x2_u",
            "load8_splat",
            "load16_splat",
            "load32_splat",
            "load64_splat",
            "load32_zero",
            "load64_zero",
        ] {
            self.load(&format!("v128.{name}"), "v128");
        }
        self.store("v128.store", &[""], "v128");
        for (bits, lanes) in LANES {
            let name = format!("v128.load{bits}_lane");
            let body: Vec<_> = lanes
                .iter()
                .map(|lane| {
                    format!(
                        "(call $mix_v128 ({name} align=1 {lane} (call $at (local.get 0)) {}))",
                        operand("v128", 1)
                    )
                })
                .collect();
            self.add(&name, 2, body.join(" "));
            self.store(&format!("v128.store{bits}_lane"), lanes, "v128");
        }
    }

    fn lanes(&mut self) {
        let shuffles = [
            "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
            "31 30 29 28 27 26 25 24 15 14 13 12 11 10 9 8",
            "0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23",
            "5 5 5 5 21 21 21 21 0 31 0 31 7 7 16 16",
        ];
        self.each("i8x16.shuffle", &shuffles, &["v128", "v128"], "v128");
        self.binary("i8x16", "swizzle", "v128", "v128");
        for (shape, ty, extracts, lanes) in [
            ("i8x16", "i32", "extract_lane_s extract_lane_u", LANES[0].1),
            ("i16x8", "i32", "extract_lane_s extract_lane_u", LANES[1].1),
            ("i32x4", "i32", "extract_lane", LANES[2].1),
            ("i64x2", "i64", "extract_lane", LANES[3].1),
            ("f32x4", "f32", "extract_lane", LANES[2].1),
            ("f64x2", "f64", "extract_lane", LANES[3].1),
        ] {
            self.unary(shape, "splat", ty, "v128");
            for name in extracts.split(' ') {
                self.each(&format!("{shape}.{name}"), lanes, &["v128"], ty);
            }
            self.each(&format!("{shape}.replace_lane"), lanes, &["v128", ty], "v128");
        }
    }

    fn vectors_of_integers(&mut self) {
        self.unary("v128", "not", "v128", "v128");
        self.binary("v128", "and andnot or xor", "v128", "v128");
        self.plain("v128.bitselect", &["v128", "v128", "v128"], "v128");
        self.unary("v128", "any_true", "v128", "i32");
        for shape in ["i8x16", "i16x8", "i32x4", "i64x2"] {
            self.binary(shape, "eq ne lt_s gt_s le_s ge_s add sub", "v128", "v128");
            self.unary(shape, "abs neg", "v128", "v128");
            self.unary(shape, "all_true bitmask", "v128", "i32");
            for name in ["shl", "shr_s", "shr_u"] {
                self.plain(&format!("{shape}.{name}"), &["v128", "i32"], "v128");
            }
            if shape != "i64x2" {
                self.binary(shape, "lt_u gt_u le_u ge_u min_s min_u max_s max_u", "v128", "v128");
            }
            if shape != "i8x16" {
                self.binary(shape, "mul", "v128", "v128");
            }
        }
        self.unary("i8x16", "popcnt", "v128", "v128");
        for (shape, half) in [("i8x16", "i16x8"), ("i16x8", "i32x4")] {
            self.binary(shape, "add_sat_s add_sat_u sub_sat_s sub_sat_u avgr_u", "v128", "v128");
            self.binary(shape, &format!("narrow_{half}_s narrow_{half}_u"), "v128", "v128");
        }
        for (shape, half) in [("i16x8", "i8x16"), ("i32x4", "i16x8"), ("i64x2", "i32x4")] {
            for sign in ["s", "u"] {
                for part in ["low", "high"] {
                    self.unary(shape, &format!("extend_{part}_{half}_{sign}"), "v128", "v128");
                    self.binary(shape, &format!("extmul_{part}_{half}_{sign}"), "v128", "v128");
                }
                if shape != "i64x2" {
                    self.unary(shape, &format!("extadd_pairwise_{half}_{sign}"), "v128", "v128");
                }
            }
        }
        self.binary("i16x8", "q15mulr_sat_s", "v128", "v128");
        self.binary("i32x4", "dot_i16x8_s", "v128", "v128");
    }

    fn vectors_of_floats(&mut self) {
        for shape in ["f32x4", "f64x2"] {
            self.binary(shape, "eq ne lt gt le ge add sub mul div min max pmin pmax", "v128", "v128");
            self.unary(shape, "ceil floor trunc nearest abs neg sqrt", "v128", "v128");
        }
        self.unary("i32x4", "trunc_sat_f32x4_s trunc_sat_f32x4_u", "v128", "v128");
        self.unary("i32x4", "trunc_sat_f64x2_s_zero trunc_sat_f64x2_u_zero", "v128", "v128");
        self.unary("f32x4", "convert_i32x4_s convert_i32x4_u demote_f64x2_zero", "v128", "v128");
        self.unary("f64x2", "convert_low_i32x4_s convert_low_i32x4_u promote_low_f32x4", "v128", "v128");
    }

    /// The relaxed operations, without the four that are refused.
    fn relaxed(&mut self) {
        self.binary("i8x16", "relaxed_swizzle", "v128", "v128");
        self.unary("i32x4", "relaxed_trunc_f32x4_s relaxed_trunc_f32x4_u", "v128", "v128");
        self.unary("i32x4", "relaxed_trunc_f64x2_s_zero relaxed_trunc_f64x2_u_zero", "v128", "v128");
        for shape in ["f32x4", "f64x2"] {
            self.binary(shape, "relaxed_min relaxed_max", "v128", "v128");
        }
        self.binary("i16x8", "relaxed_q15mulr_s relaxed_dot_i8x16_i7x16_s", "v128", "v128");
        for name in [
            "i8x16.relaxed_laneselect",
            "i16x8.relaxed_laneselect",
            "i32x4.relaxed_laneselect",
            "i64x2.relaxed_laneselect",
            "i32x4.relaxed_dot_i8x16_i7x16_add_s",
        ] {
            self.plain(name, &["v128", "v128", "v128"], "v128");
        }
    }

    /// What carries values without computing, and must not change a bit of a NaN; and memory as a whole.
    fn others(&mut self) {
        let types = ["i32", "i64", "f32", "f64", "v128"];
        let both = |code: &str| {
            let calls: Vec<_> = types
                .iter()
                .filter(|ty| code != "select" || **ty != "v128")
                .map(|ty| {
                    let code =
                        if code == "select" { code.to_owned() } else { format!("select (result {ty})") };
                    let (left, right) = (operand(ty, 0), operand(ty, 1));
                    format!("(call $mix_{ty} ({code} {left} {right} (i32.and (local.get 0) (i32.const 1))))")
                })
                .collect();
            calls.join(" ")
        };
        self.add("select", 2, both("select"));
        self.add("select (result)", 2, both("typed"));
        let through = |ty: &str| {
            let value = operand(ty, 0);
            format!("(global.set ${ty} {value}) (call $mix_{ty} (global.get ${ty}))")
        };
        let globals = ["f32", "f64", "v128"].map(through);
        self.add("global.set", 1, globals.join(" "));
        let bytes = |code: &str| {
            format!(
                "{code} (call $mix_v128 (v128.load (i32.const {SCRATCH_AT}))) \
                     (call $mix_v128 (v128.load offset=16 (i32.const {SCRATCH_AT})))"
            )
        };
        let length = "(i32.rem_u (local.get 0) (i32.const 14))";
        let target = format!("(i32.add (i32.const {SCRATCH_AT}) {length})");
        self.add("memory.fill", 1, bytes(&format!("(memory.fill {target} (local.get 0) {length})")));
        let overlapping = format!(
            "(v128.store (i32.const {SCRATCH_AT}) {}) (memory.copy {target} (i32.const {SCRATCH_AT}) {length})",
            operand("v128", 0)
        );
        self.add("memory.copy", 1, bytes(&overlapping));
        self.add("memory.init", 1, bytes(&format!("(memory.init $passive {target} (i32.const 1) {length})")));
        self.add(
            "memory.grow",
            1,
            "(call $mix_i32 (memory.grow (i32.const 1))) (call $mix_i32 (memory.size))".to_owned(),
        );
    }
}

/// The lanes that are tried for lanes of so many bits: the first, one or two in the middle, the last.
const LANES: [(u32, &[&str]); 4] = [
    (8, &["0", "7", "8", "15"]),
    (16, &["0", "3", "4", "7"]),
    (32, &["0", "1", "2", "3"]),
    (64, &["0", "1"]),
];
