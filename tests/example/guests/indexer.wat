;; Counts blocks. The state holds the number under the key "blocks", as a little-endian u32.
;;
;; The first byte of a block can make the module do something else first: `g` grows the memory by so many pages as the next
;; byte says, `s` spins for ever, `t` traps.
(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (import "env" "__log" (func $log (param i32)))
  (memory (export "memory") 1)
  ;; A pointer names bytes whose length stands in the four bytes before them. The key is at 12. Its value is read to 32.
  (data (i32.const 8) "\06\00\00\00blocks")
  ;; The flush message is at 64: the key, and four bytes at 74 for the value.
  (data (i32.const 60) "\0e\00\00\00\0a\06blocks\0a\04")
  ;; A line for the log is at 100.
  (data (i32.const 96) "\17\00\00\00no memory for the block")

  (func $count (result i32)
    (call $get (i32.const 12) (i32.const 32))
    (i32.load (i32.const 32)))

  (func $grow (param $pages i32)
    (if (i32.lt_s (memory.grow (local.get $pages)) (i32.const 0))
      (then (call $log (i32.const 100)) (unreachable))))

  (func (export "_start") (local $act i32)
    ;; The input is four bytes of height, then the block.
    (call $load_input (i32.const 1024))
    (local.set $act (i32.load8_u (i32.const 1028)))
    (if (i32.eq (local.get $act) (i32.const 103))
      (then (call $grow (i32.load8_u (i32.const 1029)))))
    (if (i32.eq (local.get $act) (i32.const 115))
      (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $act) (i32.const 116))
      (then (unreachable)))
    (i32.store (i32.const 74) (i32.add (call $count) (i32.const 1)))
    (call $flush (i32.const 64)))

  ;; A view: the number of blocks, in four bytes at 48.
  (func (export "blocks") (result i32)
    (i32.store (i32.const 44) (i32.const 4))
    (i32.store (i32.const 48) (call $count))
    (i32.const 48)))
