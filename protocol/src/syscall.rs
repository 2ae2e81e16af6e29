//! Errors that name the system call that failed. "Operation not permitted" alone does not say what to fix.

use std::io;

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// Returns a function that puts the name `call` in front of an error. If a sandbox may be the cause, the error also says
/// what to do.
///
/// Seccomp profiles of container runtimes answer calls that they do not know with EPERM or ENOSYS.
pub fn syscall_error<E: Into<io::Error>>(call: &'static str) -> impl Fn(E) -> io::Error {
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
    fn the_error_names_the_call_and_mentions_seccomp_only_where_it_may_be_the_cause() {
        let text = |code| syscall_error("pipe2")(io::Error::from_raw_os_error(code)).to_string();
        assert!(text(EPERM).starts_with("pipe2: Operation not permitted"), "{}", text(EPERM));
        assert!(text(ENOSYS).ends_with("allow it there"), "{}", text(ENOSYS));
        assert!(!text(24).contains("seccomp"), "too many files: {}", text(24));
    }
}
