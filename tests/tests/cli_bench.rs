//! `cofferdam bench` as a user starts it: each figure beside its alternatives, in a form that scripts can read.

use std::fs;

use cofferdam_tests::support::command::{Cofferdam, Output, text};
use serde_json::Value;

fn bench(arguments: &str) -> Output {
    Cofferdam::new(["bench", "--rounds", "1"]).with(arguments).output().expect_code(0)
}

/// The figures of a run, each checked to be one.
fn figures(arguments: &str) -> Vec<Value> {
    let printed = bench(arguments).stdout();
    let figures: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for figure in &figures {
        let ours = figure["ours_us"].as_f64().expect("a number");
        assert!(ours > 0.0, "{figure}");
        let beside = figure["beside"].as_object().expect("alternatives by name");
        assert!(
            !beside.is_empty() && beside.len() == figure["ratios"].as_object().map_or(0, |map| map.len())
        );
        for (name, theirs) in beside {
            let ratio = ours / theirs.as_f64().expect("a number");
            let said = figure["ratios"][name].as_f64().expect("a number");
            assert!((ratio - said).abs() <= ratio * 1e-9, "{name}: {figure}");
        }
        assert!(beside.keys().any(|name| figure["ratios"][name] == figure["ratio"]), "{figure}");
    }
    figures
}

fn cases(figures: &[Value], section: &str) -> Vec<String> {
    let of_section = figures.iter().filter(|figure| text(figure, "section") == section);
    of_section.map(|figure| text(figure, "case")).collect()
}

#[test]
fn the_reset_is_measured_beside_the_floor_and_zeroing() {
    let figures = figures("reset --memory 2MiB --json");
    // The other cases take more than 2 MiB.
    assert_eq!(
        cases(&figures, "reset"),
        ["nothing of 1.06 MiB", "nothing of 2 MiB", "1 page of 2 MiB", "1 MiB of 1.06 MiB"]
    );
    let names = |figure: &Value| -> Vec<String> {
        figure["beside"].as_object().expect("an object").keys().cloned().collect()
    };
    assert!(
        !names(&figures[0]).contains(&"memset of what was written".to_owned()),
        "of nothing there is no floor"
    );
    assert_eq!(
        names(&figures[3]),
        ["memset of what was written", "zeroing all memory", "zeroing memory.size"]
    );
    let run = bench("reset --memory 2MiB");
    assert!(run.stderr.contains("is not measured"), "what is not measured is said: {}", run.stderr);
}

#[test]
fn every_section_gives_figures_and_pictures() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pictures = directory.path().join("new/plots");
    let sections = "commit overhead guest throughput failover --memory 16MiB --json --plot";
    let figures = figures(&format!("{sections} {}", pictures.display()));
    assert_eq!(cases(&figures, "commit").len(), 4);
    assert_eq!(cases(&figures, "overhead").len(), 3);
    assert_eq!(cases(&figures, "guest"), cases(&figures, "whole block"));
    assert!(cases(&figures, "throughput")[0].ends_with("1 worker"), "{figures:?}");
    assert_eq!(cases(&figures, "failover"), ["kill -9 in a block, 16 MiB committed, a spare"]);
    for name in ["commit", "overhead", "guest", "whole-block", "throughput", "failover"] {
        let svg = fs::read_to_string(pictures.join(format!("{name}.svg"))).expect("a picture a section");
        assert!(svg.starts_with("<svg") && svg.contains("</svg>"), "{name}");
        for case in cases(&figures, &name.replace('-', " ")) {
            assert!(svg.contains(&case), "{name}: no {case:?}");
        }
    }
}

#[test]
fn a_table_is_for_people_and_a_bad_place_for_pictures_is_said() {
    let printed = bench("overhead --memory 16MiB").stdout();
    assert!(printed.contains("| overhead | 100 B block, 16 MiB committed |"), "{printed}");
    assert!(printed.contains("a committed process a block"), "{printed}");
    let plot = "bench reset --memory 2MiB --rounds 1 --plot /dev/null/x";
    let failed = Cofferdam::new(plot.split(' ')).output().expect_code(1);
    assert!(failed.reason().contains("/dev/null/x"), "{failed}");
}
