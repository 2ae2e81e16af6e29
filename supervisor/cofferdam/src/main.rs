//! The `cofferdam` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // This comes first, because workers are this same executable started again.
    cofferdam::init();
    cofferdam::cli::main()
}
