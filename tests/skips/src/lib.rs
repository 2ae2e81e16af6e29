//! Skips that are not lost: a test that cannot test something on this machine says so here.
//!
//! `cargo test` hides the output of tests that pass, and a test that skips passes. So each skip is also a line in the
//! file that the variable `COFFERDAM_SKIPS` names. `scripts/test` sets the variable and prints the lines at its end.
//!
//! The crate stands alone, because unit tests of every crate of the workspace use it.

use std::env;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

/// The variable that names the file of skips.
pub const VARIABLE: &str = "COFFERDAM_SKIPS";

/// Says on standard error that this test skips what follows, and why. Appends the same to the file of skips, if
/// [`VARIABLE`] names one.
///
/// The line has the name of the test program, the name of the test and the reason. The name of the test is the name of
/// this thread, as `libtest` gives it: call this function in the thread of the test.
///
/// # Panics
/// If the file of skips cannot be written: a skip that nobody hears of must not pass for a success.
pub fn skip(why: impl Display) {
    let line =
        line(&program(), thread::current().name().unwrap_or("a thread without a name"), &why.to_string());
    eprintln!("SKIPPED: {line}");
    if let Some(file) = env::var_os(VARIABLE) {
        let file = Path::new(&file);
        append(file, &line)
            .unwrap_or_else(|error| panic!("a skip cannot be noted in {}: {error}", file.display()));
    }
}

/// One line, whatever is in the reason.
fn line(program: &str, test: &str, why: &str) -> String {
    let words: Vec<_> = why.split_whitespace().collect();
    format!("{program}::{test}: {}", words.join(" "))
}

/// The name of the test program, without the hash that cargo adds.
fn program() -> String {
    let path = env::current_exe().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            name.to_owned()
        }
        _ => name.into_owned(),
    }
}

/// Appends a line by one write, so that lines of tests that run at the same time do not mix (write(2), `O_APPEND`).
fn append(file: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(file)?.write_all(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_with_the_program_and_the_test() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("skips");
        for why in ["no\n cgroup", "no disk"] {
            append(&file, &line(&program(), "a test", why)).expect("the file can be written");
        }
        let noted = std::fs::read_to_string(&file).expect("the file is there");
        assert_eq!(noted, "cofferdam_test_skips::a test: no cgroup\ncofferdam_test_skips::a test: no disk\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        assert!(append(Path::new("/dev/null/skips"), "line").is_err());
    }
}
