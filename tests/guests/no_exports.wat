;; Exports no function at all.
(module (memory (export "memory") 1))
