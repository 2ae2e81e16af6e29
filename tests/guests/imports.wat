;; Calls imports that the test supplies, chosen by the block's first byte.
(module
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (import "test" "sum" (func $sum (param i32 i64 f32 f64) (result f64)))
  (import "test" "fill" (func $fill (param i32 i32)))
  (import "test" "fails" (func $fails))
  (import "test" "wrong" (func $wrong (result i64)))
  (import "test" "pid" (func $pid (result i32)))
  (import "test" "first" (func $first (result i32)))
  (import "test" "eat" (func $eat))
  (memory (export "memory") 1)
  ;; The message at 64: the key "k", and eight bytes at 69 for the value.
  (data (i32.const 60) "\0d\00\00\00\0a\01k\0a\08")
  (func $turns (param $turns i32)
    (loop $more
      (local.set $turns (i32.sub (local.get $turns) (i32.const 1)))
      (br_if $more (i32.gt_s (local.get $turns) (i32.const 0)))))
  (func (export "_start") (local $act i32)
    (call $load_input (i32.const 1024))
    (local.set $act (i32.load8_u (i32.const 1028)))
    ;; s: sums. m: has memory filled. f: fails. w: gets another type. p: spins as often as the number of its process.
    ;; o: traps unless it is the first to ask. e: has memory eaten.
    (if (i32.eq (local.get $act) (i32.const 115)) (then
      (f64.store (i32.const 69)
        (call $sum (i32.const -1) (i64.const 5) (f32.const 0.5) (f64.const 0.25)))))
    (if (i32.eq (local.get $act) (i32.const 109)) (then (call $fill (i32.const 69) (i32.const 8))))
    (if (i32.eq (local.get $act) (i32.const 102)) (then (call $fails)))
    (if (i32.eq (local.get $act) (i32.const 119)) (then (drop (call $wrong))))
    (if (i32.eq (local.get $act) (i32.const 112)) (then (call $turns (call $pid))))
    (if (i32.eq (local.get $act) (i32.const 111)) (then
      (if (i32.eqz (call $first)) (then (unreachable)))))
    (if (i32.eq (local.get $act) (i32.const 101)) (then (call $eat)))
    (call $flush (i32.const 64))))
