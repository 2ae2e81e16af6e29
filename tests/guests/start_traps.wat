;; Its start section traps; `_start` would be fine.
(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (func $first unreachable)
  (start $first)
  (func (export "_start") (call $flush (i32.const 16))))
