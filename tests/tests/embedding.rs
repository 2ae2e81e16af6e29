//! A program of somebody else's that embeds the pool: with `init`, without it, and with it too late.

use std::fs;
use std::process::{Command, Output};

use cofferdam::exit::WorkerExit;

/// Runs the embedding program under this name.
fn embed(name: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let program = directory.path().join(name);
    let built = env!("CARGO_BIN_EXE_embedder");
    fs::hard_link(built, &program)
        .or_else(|_| fs::copy(built, &program).map(drop))
        .expect("it can be copied");
    Command::new(program).args(arguments).output().expect("it can be started")
}

fn words(output: &Output) -> String {
    assert!(!output.stderr.windows(9).any(|words| words == b"FORK BOMB"), "it starts itself for ever");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn with_init_first_there_is_a_pool() {
    let output = embed("with-init", &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready 1\n", "{}", words(&output));
}

#[test]
fn without_init_no_pool_is_built_and_no_process_started() {
    let output = embed("without-init", &[]);
    let words = words(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains("has not called `cofferdam::init()`") && words.contains("first line of `main`"),
        "{words}"
    );
    // Nor is one in a process that was started as a worker.
    let output = embed("without-init", &["__cofferdam_become_worker"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn init_within_a_runtime_is_too_late_and_says_what_to_do() {
    let output = embed("late-init", &[]);
    let words_of_program = words(&output);
    assert_eq!(output.status.code(), Some(1), "{words_of_program}");
    for part in ["when this program had 3 threads", "`#[tokio::main]`", "before any thread"] {
        assert!(words_of_program.contains(part), "{part:?}: {words_of_program}");
    }
    // The worker itself does no harm to the threads that it finds.
    let output = embed("late-init", &["__cofferdam_become_worker"]);
    let words = words(&output);
    assert_eq!(output.status.code(), Some(WorkerExit::Usage.code()), "{words}");
    assert!(words.contains("had 3 threads") && !words.contains("panicked"), "{words}");
}
