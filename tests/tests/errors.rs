//! `unwrap` and a `main` that returns a `Result` print an error by its `Debug`: it has the same words as `Display`, for every
//! public error of the workspace. What came of a job prints no more than a screen of text.

use std::fmt::{Debug, Display};
use std::fs;
use std::path::{Path, PathBuf};

use cofferdam::harness::Harness;
use cofferdam_tests::support::command::{guest, repository};

cofferdam::enable_test_support!();

/// Every file of Rust below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The public types of a file that derive `Error`, each with the line of its derives.
fn errors(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(derives) = line.strip_prefix("#[derive(").filter(|rest| rest.contains("Error")) else {
            continue;
        };
        let declared = lines[number..].iter().find(|line| line.contains("enum ") || line.contains("struct "));
        let declared = declared.expect("a derive is on a type");
        if let Some(rest) =
            declared.strip_prefix("pub enum ").or_else(|| declared.strip_prefix("pub struct "))
        {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            found.push((name, derives.to_owned()));
        }
    }
    found
}

#[test]
fn no_public_error_is_forgotten() {
    let mut files = Vec::new();
    for part in ["protocol/src", "worker/src", "supervisor"] {
        sources(&repository().join(part), &mut files);
    }
    let mut count = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("it is text");
        for (name, derives) in errors(&text) {
            let place = format!("{}: {name}", file.display());
            assert!(!derives.contains("Debug"), "{place} derives Debug, which does not print its sentence");
            let by_hand = format!("Debug for {name} ");
            let by_macro = format!("debug_as_display!({name});");
            assert!(text.contains(&by_hand) || text.contains(&by_macro), "{place} has no Debug");
            count += 1;
        }
    }
    assert!(count >= 40, "only {count} errors were found");
}

fn assert_same<E: Debug + Display>(error: &E) {
    assert_eq!(format!("{error:?}"), error.to_string());
    assert_eq!(format!("{error:#?}"), error.to_string());
    assert!(error.to_string().contains(' '), "a sentence: {error}");
}

#[test]
fn an_error_that_is_unwrapped_prints_its_sentence() {
    let missing = Path::new("/nowhere/at/all");
    assert_same(&Harness::load(missing).expect_err("there is no such file"));
    assert_same(&cofferdam::pool::Pool::builder("no module").build().expect_err("it is no module"));
    assert_same(&cofferdam::store::ReadAccess::check(missing).expect_err("there is no such store"));
    assert_same(&"x".parse::<cofferdam::Bytes>().expect_err("it is no size"));
    let inputs = [cofferdam::blocks::BlockInput::Path { path: missing.to_owned(), height: None }];
    let opened = cofferdam::blocks::open(&inputs, &cofferdam::blocks::Options::default(), &mut |_, _| {});
    assert_same(&opened.map(drop).expect_err("there is no such file"));
    let panic = std::panic::catch_unwind(|| Harness::load(missing).unwrap()).expect_err("it panics");
    let words = panic.downcast_ref::<String>().expect("a panic with words");
    assert!(words.contains("/nowhere/at/all") && !words.contains('{'), "{words}");
}

#[test]
fn an_outcome_prints_no_more_than_a_screen_of_text() {
    let harness = Harness::load(guest("full_output.wat")).expect("it is there").memory(16 << 20);
    let mut session = harness.start().expect("a pool");
    // The first block writes next to nothing, and the second 128 MiB.
    session.block("");
    let outcome = session.block("");
    assert!(outcome.result.writes().as_bytes().len() > 1 << 20, "{outcome}");
    for text in [format!("{outcome:?}"), format!("{:?}", outcome.result)] {
        assert!(text.len() < 4096, "{} bytes: {text}", text.len());
    }
}
