(module
  ;; Uses 3 GiB of its memory: a word of each page that the kernel may have to find, and flushes their sum under the key
  ;; "sum". Its block is one word, which goes into all of them.
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  ;; KeyValueFlush { list: ["sum", 8 bytes] }, as an ArrayBuffer.
  (data (i32.const 28) "\0f\00\00\00\0a\03sum\0a\08")
  (func (export "_start") (local $at i32) (local $sum i64)
    (call $load_input (i32.const 64))
    (if (i32.lt_s (memory.grow (i32.const 49151)) (i32.const 0)) (then (unreachable)))
    (local.set $at (i32.const 65536))
    (loop $write
      (i64.store (local.get $at)
        (i64.add (i64.load32_u (i32.const 68)) (i64.extend_i32_u (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $write (i32.lt_u (local.get $at) (i32.const 0xc0000000))))
    (local.set $at (i32.const 65536))
    (loop $read
      (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $read (i32.lt_u (local.get $at) (i32.const 0xc0000000))))
    (i64.store (i32.const 39) (local.get $sum))
    (call $flush (i32.const 32))))
