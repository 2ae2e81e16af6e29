//! The list of all operations, and the statements that run each of them.

use std::fmt::Write as _;

use super::values::{SCRATCH_AT, VALUES};

/// One operation: its name, and the statements that mix its results into the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name in WebAssembly's text format.
    pub name: String,
    pub(super) operands: u8,
    pub(super) body: String,
}

/// The operand at `place` (0, 1 or 2) of the type `ty`, for the turn that the function is given.
pub(super) fn operand(ty: &str, place: usize) -> String {
    let divisor = VALUES.pow(u32::try_from(place).unwrap_or(0));
    match place {
        0 => format!("(call ${ty} (local.get 0))"),
        _ => format!("(call ${ty} (i32.div_u (local.get 0) (i32.const {divisor})))"),
    }
}

/// Constants that the compiler may compute with, one for each operand. Their results are mixed in as well.
pub(super) fn constants(shape: &str) -> &'static [[&'static str; 2]] {
    match shape {
        "f32" | "f64" => &[["nan:0x12345", "1.5"], ["-1.5", "-nan:0x1"], ["inf", "-inf"], ["0", "-0"]],
        "f32x4" => &[["nan:0x12345 inf 0 -1.5", "1.5 -inf -0 -nan:0x1"]],
        "f64x2" => &[["nan:0x12345 inf", "1.5 -inf"], ["0 -1.5", "-0 -nan:0x1"]],
        _ => &[],
    }
}

#[derive(Default)]
pub(super) struct List(pub(super) Vec<Operation>);

impl List {
    pub(super) fn add(&mut self, name: &str, operands: usize, body: String) {
        self.0.push(Operation { name: name.to_owned(), operands: u8::try_from(operands).unwrap_or(3), body });
    }

    /// An operation on `operands` with a result of the type `result`; on constants too, if it is one of a shape of floats.
    pub(super) fn plain(&mut self, name: &str, operands: &[&str], result: &str) {
        self.with(name, name, operands, result);
    }

    /// As `plain`, with immediates behind the name.
    pub(super) fn with(&mut self, name: &str, code: &str, operands: &[&str], result: &str) {
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
    pub(super) fn each(&mut self, name: &str, immediates: &[&str], operands: &[&str], result: &str) {
        let values: Vec<_> = operands.iter().enumerate().map(|(place, ty)| operand(ty, place)).collect();
        let values = values.join(" ");
        let body: Vec<_> = immediates
            .iter()
            .map(|immediate| format!("(call $mix_{result} ({name} {immediate} {values}))"))
            .collect();
        self.add(name, operands.len(), body.join(" "));
    }

    pub(super) fn unary(&mut self, shape: &str, names: &str, operand: &str, result: &str) {
        names.split(' ').for_each(|name| self.plain(&format!("{shape}.{name}"), &[operand], result));
    }

    pub(super) fn binary(&mut self, shape: &str, names: &str, operand: &str, result: &str) {
        names.split(' ').for_each(|name| self.plain(&format!("{shape}.{name}"), &[operand, operand], result));
    }

    pub(super) fn integers(&mut self) {
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

    pub(super) fn floats(&mut self) {
        for ty in ["f32", "f64"] {
            self.binary(ty, "eq ne lt gt le ge", ty, "i32");
            self.unary(ty, "abs neg ceil floor trunc nearest sqrt", ty, ty);
            self.binary(ty, "add sub mul div min max copysign", ty, ty);
        }
    }

    pub(super) fn conversions(&mut self) {
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

    pub(super) fn load(&mut self, name: &str, result: &str) {
        let body = format!(
            "(call $mix_{result} ({name} (call $at (local.get 0)))) \
             (call $mix_{result} ({name} offset=3 align=1 (call $at (local.get 0))))"
        );
        self.add(name, 1, body);
    }

    pub(super) fn store(&mut self, name: &str, lanes: &[&str], ty: &str) {
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

    pub(super) fn scalar_memory(&mut self) {
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

    pub(super) fn vector_memory(&mut self) {
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

    pub(super) fn lanes(&mut self) {
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

    pub(super) fn vectors_of_integers(&mut self) {
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

    pub(super) fn vectors_of_floats(&mut self) {
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
    pub(super) fn relaxed(&mut self) {
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
    pub(super) fn others(&mut self) {
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
pub(super) const LANES: [(u32, &[&str]); 4] = [
    (8, &["0", "7", "8", "15"]),
    (16, &["0", "3", "4", "7"]),
    (32, &["0", "1", "2", "3"]),
    (64, &["0", "1"]),
];
