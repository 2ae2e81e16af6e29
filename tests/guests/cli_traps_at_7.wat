;; Flushes the height under `last`, and traps at height 7: a failure that every host would see.
(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 60) "\0c\00\00\00\0a\04last\0a\04....")
  (func (export "_start")
    (call $load_input (i32.const 1024))
    (if (i32.eq (i32.load (i32.const 1024)) (i32.const 7)) (then unreachable))
    (i32.store (i32.const 72) (i32.load (i32.const 1024)))
    (call $flush (i32.const 64))))
