;; An active data segment that lies half outside the memory: instantiation itself traps.
(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 65534) "half")
  (func (export "_start") (call $flush (i32.const 16))))
