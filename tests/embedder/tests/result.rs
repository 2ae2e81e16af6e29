//! Runs the program as a user does, and looks at what it prints.

use std::process::Command;

#[test]
fn the_program_runs_blocks_in_a_worker_and_prints_what_they_write() {
    let program = env!("CARGO_BIN_EXE_cofferdam-example-embedder");
    let output = Command::new(program).args(["a block", ""]).output().expect("the program can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let expected = "block 0: completed\n  bytes = [7, 0, 0, 0]\nblock 1: completed\n  bytes = [0, 0, 0, 0]\n";
    assert_eq!(stdout, expected, "{stderr}");
}
