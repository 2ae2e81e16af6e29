//! What is said of a limit on addresses (RLIMIT_AS, `ulimit -v`) that is too low.

use crate::size::Bytes;

/// What is said of a limit that is too low for `what`, which reserves `bytes`.
pub fn too_low(what: &str, bytes: u64, limit: u64) -> String {
    format!(
        "{what} reserves {} of addresses, and this process may reserve only {} (RLIMIT_AS): raise or lift that limit \
         (ulimit -v unlimited; LimitAS= of systemd); addresses cost no memory",
        Bytes(bytes),
        Bytes(limit)
    )
}
