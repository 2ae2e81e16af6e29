//! The guests that are measured, as WebAssembly text.

/// Flushes an empty list.
pub(super) const EMPTY: &str = r#"(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $flush (i32.const 8))))"#;

/// Loads its block (up to 16 MiB), sums the words, and writes each word into another buffer. Every indexer does at least this.
pub(super) const READER: &str = r#"(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $at i32) (local $end i32) (local $length i32) (local $sum i64)
    (local.set $length (call $host_len))
    (if (i32.lt_s (memory.grow (i32.add (i32.shr_u (local.get $length) (i32.const 15)) (i32.const 2))) (i32.const 0))
      (then (unreachable)))
    (local.set $at (i32.const 65536))
    (local.set $end (i32.add (local.get $at) (i32.and (local.get $length) (i32.const -8))))
    (call $load_input (local.get $at))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
      (i64.store (i32.add (local.get $at) (i32.and (local.get $length) (i32.const -8))) (local.get $sum))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br $next)))
    (call $flush (i32.const 8))))"#;

/// Reads, changes and writes words of its memory in an order that a processor cannot predict. The block holds the number of
/// words. `PAGES` is a power of two.
pub(super) const SCATTERED: &str = r#"(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") PAGES)
  (func (export "_start") (local $state i64) (local $left i32) (local $at i32)
    (call $load_input (i32.const 16))
    (local.set $left (i32.load (i32.const 20)))
    (local.set $state (i64.const 88172645463325252))
    (loop $next
      (local.set $state (i64.xor (local.get $state) (i64.shl (local.get $state) (i64.const 13))))
      (local.set $state (i64.xor (local.get $state) (i64.shr_u (local.get $state) (i64.const 7))))
      (local.set $state (i64.xor (local.get $state) (i64.shl (local.get $state) (i64.const 17))))
      (local.set $at (i32.and (i32.wrap_i64 (local.get $state))
        (i32.and (i32.sub (i32.shl (i32.const PAGES) (i32.const 16)) (i32.const 1)) (i32.const -8))))
      (i64.store (local.get $at) (i64.add (i64.load (local.get $at)) (local.get $state)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))
    (i32.store (i32.const 4) (i32.const 0))
    (call $flush (i32.const 8))))"#;

/// Runs a loop. The block holds the number of iterations.
pub(super) const SPINNER: &str = r#"(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $left i64)
    (call $load_input (i32.const 16))
    (local.set $left (i64.load32_u (i32.const 20)))
    (loop $next
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br_if $next (i64.ne (local.get $left) (i64.const 0))))
    (call $flush (i32.const 8))))"#;

/// Fills runs of memory from its second page on. The block holds the number of runs, their distance, and their length.
pub(super) const WRITER: &str = r#"(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") PAGES)
  (func (export "_start") (local $at i32) (local $left i32)
    (call $load_input (i32.const 16))
    (local.set $at (i32.const 65536))
    (local.set $left (i32.load (i32.const 20)))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $left)))
      (memory.fill (local.get $at) (i32.const 7) (i32.load (i32.const 28)))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 24))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $next)))
    (call $flush (i32.const 8))))"#;

/// Reads values. For each value, it reads the length and then the bytes. The block holds the number of values, the number of
/// the first key, and the distance between keys.
pub(super) const READS: &str = r#"(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get_len" (func $get_len (param i32) (result i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  ;; The key, an ArrayBuffer at 104.
  (data (i32.const 100) "\20\00\00\00......../a path as indexers have")
  (func (export "_start") (local $left i32) (local $number i32)
    (call $load_input (i32.const 16))
    (local.set $left (i32.load (i32.const 20)))
    (local.set $number (i32.load (i32.const 24)))
    (loop $next
      (i64.store (i32.const 104) (i64.mul
        (i64.extend_i32_u (i32.rem_u (local.get $number) (i32.const 1000000)))
        (i64.const 0x9e3779b97f4a7c15)))
      (if (i32.ne (call $get_len (i32.const 104)) (i32.const 32)) (then (unreachable)))
      (call $get (i32.const 104) (i32.const 1024))
      (local.set $number (i32.add (local.get $number) (i32.load (i32.const 28))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))
    (i32.store (i32.const 4) (i32.const 0))
    (call $flush (i32.const 8))))"#;

/// The module `text` with `pages` pages of memory.
pub(super) fn with_pages(text: &str, pages: u64) -> String {
    text.replace("PAGES", &pages.to_string())
}
