;; Takes all the memory that it can get, page by page, and flushes how many pages that made.
(module
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 12) "\0d\00\00\00\0a\05pages\0a\04")
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (i32.store (i32.const 25) (memory.size))
    (call $flush (i32.const 16))))
