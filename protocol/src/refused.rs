//! Naming the system call that was refused: "Operation not permitted" alone helps nobody.

use std::io;

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// Puts the name of `call` in front of an error, and behind it what to do if a sandbox was the cause.
///
/// Seccomp profiles of container runtimes answer calls that they do not know with EPERM or ENOSYS.
pub fn refused<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> io::Error {
    move |error| {
        let error = error.into();
        let advice = match error.raw_os_error() {
            Some(EPERM | ENOSYS) => "; if a seccomp profile refuses this call, allow it there",
            _ => "",
        };
        io::Error::new(error.kind(), format!("{call}: {error}{advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_named_and_a_sandbox_is_suspected_where_it_may_be_the_cause() {
        let text = |code| refused("pipe2")(io::Error::from_raw_os_error(code)).to_string();
        assert!(text(EPERM).starts_with("pipe2: Operation not permitted"), "{}", text(EPERM));
        assert!(text(ENOSYS).ends_with("allow it there"), "{}", text(ENOSYS));
        assert!(!text(24).contains("seccomp"), "too many files: {}", text(24));
    }
}
