;; Mixes its block with everything whose result could differ from host to host or from run to run: floats and the
;; payloads of NaNs, vectors, relaxed vectors, growth, untouched memory. Value: 64 bytes.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 4 200)
  (data (i32.const 12) "\47\00\00\00\0a\03mix\0a\40")
  (func (export "_start")
    (local $at i32) (local $end i32) (local $hash i64) (local $float f64) (local $vector v128) (local $pages i32)
    (call $load_input (i32.const 4096))
    (local.set $end (i32.add (i32.const 4096) (call $host_len)))
    ;; A hash of the block, with growth on the way, and a float that becomes infinite, and then no number at all.
    (local.set $hash (i64.const 0x9e3779b97f4a7c15))
    (local.set $float (f64.const 1))
    (local.set $at (i32.const 4096))
    (loop $next
      (local.set $hash (i64.mul
        (i64.xor (i64.rotl (local.get $hash) (i64.const 13)) (i64.load8_u (local.get $at)))
        (i64.const 0x100000001b3)))
      (local.set $float (f64.div
        (f64.sqrt (f64.mul (local.get $float) (f64.convert_i64_s (local.get $hash))))
        (f64.reinterpret_i64 (local.get $hash))))
      (local.set $vector (f32x4.relaxed_max
        (f32x4.mul (i64x2.splat (local.get $hash)) (local.get $vector)) (f64x2.splat (local.get $float))))
      (if (i64.eqz (i64.and (local.get $hash) (i64.const 63)))
        (then (local.set $pages (i32.add (local.get $pages) (memory.grow (i32.const 1))))))
      ;; Writes all over what there is.
      (i64.store offset=131072
        (i32.and (i32.wrap_i64 (i64.shr_u (local.get $hash) (i64.const 20))) (i32.const 0xfff8))
        (local.get $hash))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (i64.store (i32.const 23) (local.get $hash))
    (f64.store (i32.const 31) (local.get $float))
    (v128.store (i32.const 39) (local.get $vector))
    (i32.store (i32.const 55) (i32.add (memory.size) (i32.shl (local.get $pages) (i32.const 16))))
    ;; 0/0, and NaNs with payloads from the block through arithmetic: all must come out canonical.
    (f32.store (i32.const 59) (f32.div (f32.const 0) (f32.load (i32.const 0x30000))))
    (f64.store (i32.const 63) (f64.add
      (f64.reinterpret_i64 (i64.or (i64.const 0x7ff4000000000000) (i64.shr_u (local.get $hash) (i64.const 13))))
      (f64.const 1)))
    (f32.store (i32.const 71) (f32.mul
      (f32.reinterpret_i32 (i32.or (i32.const 0xffa00000)
        (i32.and (i32.wrap_i64 (local.get $hash)) (i32.const 0xfffff))))
      (f32.const 2)))
    (f32.store (i32.const 75) (f32.demote_f64 (f64.sub
      (f64.load (i32.const 63)) (f64.reinterpret_i64 (i64.const -1)))))
    ;; What nobody has written in this job must be zero.
    (i64.store (i32.const 79) (i64.load offset=8 (i32.mul (memory.size) (i32.const 65520))))
    (call $flush (i32.const 16))))
