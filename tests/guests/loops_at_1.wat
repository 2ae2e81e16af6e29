;; Flushes nothing and is done, but at height 1 it loops for ever.
(module
  (import "env" "__load_input" (func $load (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (call $load (i32.const 1024))
    (if (i32.eq (i32.load (i32.const 1024)) (i32.const 1))
      (then (loop $again (br $again))))
    (call $flush (i32.const 8))))
