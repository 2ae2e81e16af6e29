//! The `cofferdam` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: this executable is also the workers'.
    cofferdam::init();
    cofferdam::cli::main()
}
