//! Standard output of commands that print one result.

use std::io::{self, Write};

use super::error::CliError;

/// Prints a result and a line break. If the reader has closed the output (`| head`), this is no error: the exit code still tells
/// the result.
pub(super) fn print(text: io::Result<String>) -> Result<(), CliError> {
    let printed = text.and_then(|text| writeln!(io::stdout(), "{text}"));
    match printed.map_err(CliError::io("standard output")) {
        Err(CliError::StdoutClosed) => Ok(()),
        printed => printed,
    }
}
