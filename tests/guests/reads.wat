;; Asks the state for the key that its input is, and gives the value: a block as the flushed pair (key, value), with
;; the length that `__get_len` said after the key; a view as its result.
(module
  (import "env" "__host_len" (func $host_len (result i32)))
  (import "env" "__load_input" (func $load_input (param i32)))
  (import "env" "__get_len" (func $get_len (param i32) (result i32)))
  (import "env" "__get" (func $get (param i32 i32)))
  (import "env" "__flush" (func $flush (param i32)))
  (memory (export "memory") 1)
  (global $at (mut i32) (i32.const 0))

  (func $ensure (param $end i32)
    (local $missing i32)
    (local.set $missing (i32.sub (local.get $end) (i32.mul (memory.size) (i32.const 65536))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then (if (i32.eq (i32.const -1)
          (memory.grow (i32.shr_u (i32.add (local.get $missing) (i32.const 65535)) (i32.const 16))))
        (then unreachable)))))

  ;; The key as an ArrayBuffer at 1028: the height in front of it gives way to its length.
  (func $key (result i32)
    (call $ensure (i32.add (i32.const 1024) (call $host_len)))
    (call $load_input (i32.const 1024))
    (i32.store (i32.const 1024) (i32.sub (call $host_len) (i32.const 4)))
    (i32.const 1028))

  ;; The value as an ArrayBuffer behind the key.
  (func $value (result i32)
    (local $target i32) (local $length i32)
    (local.set $length (call $get_len (call $key)))
    (local.set $target (i32.add (i32.const 1032) (call $host_len)))
    (call $ensure (i32.add (local.get $target) (local.get $length)))
    (i32.store (i32.sub (local.get $target) (i32.const 4)) (local.get $length))
    (call $get (i32.const 1028) (local.get $target))
    (local.get $target))

  (func $put_byte (param $byte i32)
    (i32.store8 (global.get $at) (local.get $byte))
    (global.set $at (i32.add (global.get $at) (i32.const 1))))

  ;; One field of a KeyValueFlush: the tag, the length as a varint, the bytes.
  (func $put_field (param $from i32) (param $length i32)
    (local $rest i32)
    (call $put_byte (i32.const 0x0a))
    (local.set $rest (local.get $length))
    (loop $more
      (if (i32.gt_u (local.get $rest) (i32.const 127))
        (then
          (call $put_byte (i32.or (i32.and (local.get $rest) (i32.const 127)) (i32.const 128)))
          (local.set $rest (i32.shr_u (local.get $rest) (i32.const 7)))
          (br $more))))
    (call $put_byte (local.get $rest))
    (memory.copy (global.get $at) (local.get $from) (local.get $length))
    (global.set $at (i32.add (global.get $at) (local.get $length))))

  (func (export "value") (result i32) (call $value))

  (func (export "_start")
    (local $value i32) (local $length i32) (local $message i32)
    (local.set $value (call $value))
    (local.set $length (i32.load (i32.sub (local.get $value) (i32.const 4))))
    (local.set $message (i32.add (i32.add (local.get $value) (local.get $length)) (i32.const 16)))
    ;; Both fields once more, their tags and lengths, the message's own length.
    (call $ensure (i32.add (local.get $message)
      (i32.add (i32.add (call $host_len) (local.get $length)) (i32.const 64))))
    (global.set $at (local.get $message))
    (call $put_field (i32.const 1028) (i32.load (i32.const 1024)))
    (call $put_field (local.get $value) (local.get $length))
    (i32.store (i32.sub (local.get $message) (i32.const 4)) (i32.sub (global.get $at) (local.get $message)))
    (call $flush (local.get $message))))
