//! Makes `guests/operations.wat`: a guest that runs every numeric and vector operation on every class of value.
//!
//! Two hosts agree on a chain only if each operation gives the same bits on both. So each operation is run on all
//! combinations of 28 values for each operand: NaNs with payloads and of both signs, denormals, infinities, zeros of both
//! signs, ties, and the ends of every range. Operations on floats are also run on constants, which the compiler may
//! compute itself.
//!
//! The guest runs the operation whose number is the height that it is given, and flushes a hash of all results. One block
//! for each operation: so a difference names the operation. The guest is checked in, so that scripts need no compiler.

mod list;
mod values;

use std::fmt::Write;

use list::List;
pub use list::Operation;
use values::{BYTES, F32, F32_AT, F64, F64_AT, I32, I32_AT, I64, I64_AT, OPERANDS_AT, V128_AT, VALUES};

/// The message that is flushed, behind its length.
const MESSAGE_AT: u32 = 3200;
/// Where the input is put.
const INPUT_AT: u32 = 65536;

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
