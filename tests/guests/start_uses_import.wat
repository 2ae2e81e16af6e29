;; Calls an import of the test's own in its start section, and flushes what that gave.
(module
  (import "env" "__flush" (func $flush (param i32)))
  (import "test" "fill" (func $fill (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 60) "\0d\00\00\00\0a\01k\0a\08")
  (func $start (call $fill (i32.const 69) (i32.const 8)))
  (start $start)
  (func (export "_start") (call $flush (i32.const 64))))
