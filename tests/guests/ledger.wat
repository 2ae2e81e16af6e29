;; Keeps a ledger that no block can be left out of, or entered twice, without a trace: the balance is a hash of the
;; balance before and of the block, and each block also writes it into one of 256 accounts.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 2)
  ;; The key "sum" as an ArrayBuffer at 12; its value comes to 16.
  (data (i32.const 8) "\03\00\00\00sum")
  ;; The message at 64, 29 bytes: ("sum", 8 bytes at 71), ("k" and a byte at 82, 8 bytes at 85).
  (data (i32.const 60) "\1d\00\00\00\0a\03sum\0a\08")
  (data (i32.const 79) "\0a\02k")
  (data (i32.const 83) "\0a\08")
  (func (export "_start")
    (local $at i32) (local $end i32) (local $hash i64) (local $turn i32)
    (call $get (i32.const 12) (i32.const 16))
    (local.set $hash (i64.load (i32.const 16)))
    (call $load_input (i32.const 4096))
    (local.set $end (i32.add (i32.const 4096) (call $host_len)))
    (loop $turns
      (local.set $at (i32.const 4096))
      (loop $bytes
        (local.set $hash (i64.mul
          (i64.xor (i64.rotl (local.get $hash) (i64.const 13)) (i64.load8_u (local.get $at)))
          (i64.const 0x9e3779b97f4a7c15)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $bytes (i32.lt_u (local.get $at) (local.get $end))))
      (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
      ;; Long enough for a signal to arrive in the middle.
      (br_if $turns (i32.lt_u (local.get $turn) (i32.const 4000))))
    (i64.store (i32.const 71) (local.get $hash))
    (i32.store8 (i32.const 82) (i32.wrap_i64 (i64.shr_u (local.get $hash) (i64.const 32))))
    (i64.store (i32.const 85) (local.get $hash))
    (call $flush (i32.const 64))))
