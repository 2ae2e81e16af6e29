;; Exports `_start` with a type that is not a block's; a view is all right.
(module
  (memory (export "memory") 1)
  (func (export "_start") (param i32))
  (func (export "view") (result i32) (i32.const 16)))
