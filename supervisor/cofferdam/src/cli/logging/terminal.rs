//! What the terminal behind standard error can do.

use std::io::{self, IsTerminal};

/// Whether standard error is a terminal that can do more than print text.
pub(super) fn is_capable_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
