;; A guest that does what its block says: the first byte names one of the functions in $acts, the rest is for that one.
;; Before it does anything it traps unless everything is as defined, and then it makes everything dirty, so that a good
;; block proves that the job before it left nothing behind.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get_len" (func $get_len (param i32) (result i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (import "env" "__log" (func $log (param i32)))
  (import "env" "abort" (func $abort (param i32 i32 i32 i32)))
  (import "elsewhere" "absent" (func $absent (param i64) (result f32)))

  (memory (export "memory") 2)
  (data (i32.const 16) "pristine")
  ;; An empty ArrayBuffer at 48, and two strings as AssemblyScript has them: length in bytes, then UTF-16.
  (data (i32.const 60) "\0c\00\00\00n\00o\00 \00f\00u\00n\00")
  (data (i32.const 92) "\08\00\00\00a\00.\00t\00s\00")
  (global $used (mut i32) (i32.const 0))
  (type $act (func))
  (table $acts 32 funcref)
  (elem (table $acts) (i32.const 0) func
    $act_flush $act_return $act_unreachable $act_divide $act_recurse $act_load_behind $act_store_behind
    $act_absent $act_abort $act_exhaust_trap $act_exhaust_abort $act_exhaust_flush $act_spin $act_flush_at
    $act_key_at $act_value_at $act_input_at $act_flush_length $act_flush_twice $act_log $other_type)

  ;; Input: height at 4096, the act at 4100, its arguments from 4101. The last word of the declared memory: 0x1fff8.
  (func $begin
    (local $missing i32)
    (if (global.get $used) (then unreachable))
    (if (i64.ne (i64.load (i32.const 16)) (i64.const 0x656e697473697270)) (then unreachable))
    (if (i64.ne (i64.load (i32.const 0x1fff8)) (i64.const 0)) (then unreachable))
    (if (i32.ne (memory.size) (i32.const 2)) (then unreachable))
    (if (i32.eqz (ref.is_null (table.get $acts (i32.const 31)))) (then unreachable))
    (global.set $used (i32.const 1))
    (i64.store (i32.const 16) (i64.const -1))
    (i64.store (i32.const 0x1fff8) (i64.const -1))
    (table.set $acts (i32.const 31) (ref.func $act_return))
    (local.set $missing
      (i32.sub (i32.add (i32.const 4096) (call $host_len)) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then
        (drop (memory.grow
          (i32.shr_u (i32.add (local.get $missing) (i32.const 65535)) (i32.const 16))))))
    (call $load_input (i32.const 4096)))

  (func $act
    (call $begin)
    (call_indirect $acts (type $act) (i32.load8_u (i32.const 4100))))

  (func (export "_start") (call $act))

  ;; The arguments as a message; as numbers.
  (func $message (result i32)
    (i32.store (i32.const 4097) (i32.sub (call $host_len) (i32.const 5)))
    (i32.const 4101))
  (func $first (result i32) (i32.load (i32.const 4101)))
  (func $second (result i32) (i32.load (i32.const 4105)))

  (func $act_flush (call $flush (call $message)))
  (func $act_return)
  (func $act_unreachable unreachable)
  (func $act_divide (drop (i32.div_u (i32.const 1) (call $first))))
  (func $act_recurse (call $act_recurse) (call $act_return))
  (func $act_load_behind
    (drop (i32.load8_u (i32.add (i32.mul (memory.size) (i32.const 65536)) (call $first)))))
  (func $act_store_behind
    (if (i32.eq (memory.grow (call $first)) (i32.const -1)) (then (return)))
    ;; The last byte that there is, then the first that there is not.
    (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1))
    (i32.store8 (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)))
  (func $act_absent (drop (call $absent (i64.const 1))))
  (func $act_abort (call $abort (i32.const 64) (i32.const 96) (i32.const 7) (i32.const 9)))
  (func $exhaust
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    ;; The last byte must be there.
    (i32.store8 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 1)) (i32.const 1)))
  (func $act_exhaust_trap (call $exhaust) unreachable)
  (func $act_exhaust_abort (call $exhaust) (call $act_abort))
  (func $act_exhaust_flush (call $exhaust) (call $act_flush))
  ;; So many rounds, and then a flush of nothing; for ever if 0.
  (func $act_spin
    (local $rounds i32)
    (local.set $rounds (call $first))
    (loop $again
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $again (i32.or (local.get $rounds) (i32.eqz (call $first)))))
    (call $flush (i32.const 48)))
  (func $act_flush_at (call $flush (call $first)))
  (func $act_key_at (drop (call $get_len (call $first))) (call $flush (i32.const 48)))
  ;; Reads the value of the key behind the first argument to where that argument points.
  (func $act_value_at
    (local $target i32)
    (local.set $target (call $first))
    (i32.store (i32.const 4101) (i32.sub (call $host_len) (i32.const 9)))
    (call $get (i32.const 4105) (local.get $target))
    (call $flush (i32.const 48)))
  (func $act_input_at (call $load_input (call $first)) (call $flush (i32.const 48)))
  ;; Flushes what is said to be `first` bytes long at `second`.
  (func $act_flush_length
    (i32.store (i32.sub (call $second) (i32.const 4)) (call $first))
    (call $flush (call $second)))
  (func $act_flush_twice (call $act_flush) (call $act_flush))
  (func $act_log (call $log (call $message)) (call $flush (i32.const 48)))
  (func $other_type (param i32))

  ;; Views. One that does what `_start` does and answers with nothing; the input; the pointer that the input says.
  (func (export "act") (result i32) (call $act) (i32.const 48))
  (func (export "echo") (result i32)
    (call $begin)
    (i32.store (i32.const 4096) (i32.sub (call $host_len) (i32.const 4)))
    (i32.const 4100))
  (func (export "point") (result i32) (call $begin) (i32.load (i32.const 4100)))
  (func (export "takes_one") (param i32) (result i32) (i32.const 48))
  (func (export "gives_none"))
  (func (export "gives_long") (result i64) (i64.const 48))
  (global (export "no_function") i32 (i32.const 48)))
