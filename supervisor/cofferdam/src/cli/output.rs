//! Standard output, for commands that print one result.

use std::io::{self, Write};

use super::error::CliError;

/// Prints a result, and the end of its line. Whoever reads no further (`| head`) still gets the exit code of the command.
pub(super) fn print(text: io::Result<String>) -> Result<(), CliError> {
    let printed = text.and_then(|text| writeln!(io::stdout(), "{text}"));
    match printed.map_err(CliError::io("standard output")) {
        Err(CliError::StdoutClosed) => Ok(()),
        printed => printed,
    }
}
