;; Carries a sum from block to block, so that a block lost, repeated or run on another state shows in every later one.
;; A block is u32 rounds of work that nothing shortens, then bytes that count. Flushes the sum under `sum`, and under
;; `h` and the height.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get_len" (func $get_len (param i32) (result i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  ;; ArrayBuffers: the key at 20, its value at 36, the KeyValueFlush at 64 with the gaps that $flush_sum fills.
  (data (i32.const 16) "\03\00\00\00sum")
  (data (i32.const 60) "\20\00\00\00\0a\03sum\0a\08........\0a\05h....\0a\08........")

  (func $mix (param $sum i64) (param $more i64) (result i64)
    (i64.rotl
      (i64.mul (i64.xor (local.get $sum) (local.get $more)) (i64.const 0x9e3779b97f4a7c15))
      (i64.const 29)))

  (func $flush_sum (param $sum i64)
    (i64.store (i32.const 71) (local.get $sum))
    (i32.store (i32.const 82) (i32.load (i32.const 1024)))
    (i64.store (i32.const 88) (local.get $sum))
    (call $flush (i32.const 64)))

  (func (export "_start")
    (local $sum i64) (local $rounds i32) (local $at i32) (local $end i32)
    (local.set $end (i32.add (i32.const 1024) (call $host_len)))
    (call $load_input (i32.const 1024))
    ;; Nothing before the first block.
    (if (call $get_len (i32.const 20)) (then (call $get (i32.const 20) (i32.const 36))))
    (local.set $sum (call $mix (i64.load (i32.const 36)) (i64.load32_u (i32.const 1024))))
    (local.set $at (i32.const 1032))
    (block $done (loop $bytes
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $sum (call $mix (local.get $sum) (i64.load8_u (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $bytes)))
    (local.set $rounds (i32.load (i32.const 1028)))
    (block $rested (loop $work
      (br_if $rested (i32.eqz (local.get $rounds)))
      (local.set $sum (call $mix (local.get $sum) (i64.extend_i32_u (local.get $rounds))))
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br $work)))
    (call $flush_sum (local.get $sum))))
