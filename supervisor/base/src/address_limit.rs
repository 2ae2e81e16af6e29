//! The error text for a limit on addresses (RLIMIT_AS, `ulimit -v`) that is too low. The store and the workers reserve large
//! ranges of addresses, so they need the same explanation.

use crate::size::Bytes;

/// Explains that `what` needs to reserve `bytes` bytes of addresses and that this process may reserve only `limit` bytes.
/// The text says which limit it is and how to raise it.
pub fn too_low(what: &str, bytes: u64, limit: u64) -> String {
    format!(
        "{what} reserves {} of addresses, but this process may reserve only {} (RLIMIT_AS): raise or remove that limit \
         (`ulimit -v unlimited`, or LimitAS= in a systemd unit); reserved addresses use no memory",
        Bytes(bytes),
        Bytes(limit)
    )
}
