;; At height 0 it flushes next to nothing. At any other it uses all that it may: it grows its table to the limit, and flushes
;; 128 pairs of one MiB each, the default limit of the output.
(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 64)
  (table $table 1 funcref)
  ;; Four bytes of key and 1,048,564 of value: with their two lengths, one MiB.
  (data (i32.const 60) "\fe\ff\0f\00\0a\04key.\0a\f4\ff\3f")
  (data (i32.const 40) "\04\00\00\00\0a\00\0a\00")
  (func (export "_start") (local $pairs i32)
    (call $load_input (i32.const 0x200000))
    (if (i32.eqz (i32.load (i32.const 0x200000))) (then (call $flush (i32.const 44)) (return)))
    (if (i32.ne (table.grow $table (ref.null func) (i32.const 0xfffff)) (i32.const 1)) (then unreachable))
    (loop $next
      (i32.store8 (i32.const 69) (local.get $pairs))
      (call $flush (i32.const 64))
      (local.set $pairs (i32.add (local.get $pairs) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $pairs) (i32.const 128))))))
