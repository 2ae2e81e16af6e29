//! `cofferdam bench` as a user starts it: each figure beside its alternative, in a form that scripts can read.

use cofferdam_tests::support::command::{Cofferdam, text};
use serde_json::Value;

#[test]
fn the_reset_is_measured_beside_zeroing() {
    let run = Cofferdam::new(["bench", "reset", "--memory", "2MiB", "--rounds", "1", "--json"]).output();
    let run = run.expect_code(0);
    let printed = run.stdout();
    let figures: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let cases: Vec<String> = figures.iter().map(|figure| text(figure, "case")).collect();
    // The other cases take more than 2 MiB.
    assert_eq!(cases, ["nothing of 2 MiB", "1 page of 2 MiB", "1 MiB of 1.06 MiB"]);
    for figure in &figures {
        assert_eq!(text(figure, "section"), "write and reset");
        assert_eq!(text(figure, "beside"), "zeroing memory.size");
        assert!(figure["ours_us"]["p50"].as_f64().is_some_and(|micros| micros > 0.0), "{figure}");
        assert!(figure["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{figure}");
    }
    assert!(run.stderr.contains("left out"), "what is not measured is said: {}", run.stderr);
}
