;; Its start section calls no import, as that of every AssemblyScript module: it can run before the block is there.
;; Value: how often the start section ran, and the fuel-hungry sum that it made.
(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 12) "\11\00\00\00\0a\05start\0a\08")
  (global $runs (mut i32) (i32.const 0))
  (func $first
    (local $round i32)
    (global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (loop $again
      (i32.store (i32.const 29) (i32.add (i32.load (i32.const 29)) (local.get $round)))
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $round) (i32.const 1000))))
    (i32.store (i32.const 25) (global.get $runs)))
  (start $first)
  (func (export "_start") (call $flush (i32.const 16))))
