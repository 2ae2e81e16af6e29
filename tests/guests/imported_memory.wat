;; Imports its memory, under a name of its own, and flushes its block as it came.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (import "somewhere" "a memory" (memory 1 8))
  ;; Proves that nothing of an earlier job is left.
  (data (i32.const 8) "data")
  (func (export "_start")
    (if (i32.ne (i32.load (i32.const 8)) (i32.const 0x61746164)) (then unreachable))
    (if (i32.load (i32.const 0xfffc)) (then unreachable))
    (i32.store (i32.const 8) (i32.const -1))
    (i32.store (i32.const 0xfffc) (i32.const -1))
    (call $load_input (i32.const 1024))
    (i32.store (i32.const 1024) (i32.sub (call $host_len) (i32.const 4)))
    (call $flush (i32.const 1028))))
