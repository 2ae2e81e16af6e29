//! Prints figures as lines of JSON, or as a table that is also Markdown.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};

use crate::figure::Figure;

/// Prints all figures.
pub(super) fn print(json: bool, figures: &[Figure]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        for figure in figures {
            serde_json::to_writer(&mut out, figure)?;
            writeln!(out)?;
        }
        return Ok(());
    }
    writeln!(out, "{}", table(figures))
}

/// One row for each alternative of each figure.
fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["section", "case", "ours p50", "p99", "beside", "its p50", "ratio"]);
    for figure in figures {
        let each =
            figure.each_us().map_or_else(String::new, |(what, micros)| format!(", {micros:.2} µs a {what}"));
        let mut first = Some([
            figure.section.to_owned(),
            figure.case.clone(),
            format!("{}{each}", time(figure.ours.p50)),
            time(figure.ours.p99),
        ]);
        for beside in &figure.beside {
            let ours = first.take().unwrap_or_default();
            let theirs = [beside.name.to_owned(), time(beside.spread.p50), ratio(figure.ratio(beside))];
            table.add_row(ours.into_iter().chain(theirs));
        }
        if let Some(ours) = first {
            table.add_row(ours);
        }
    }
    table
}

/// A ratio for people: a small ratio as a fraction.
fn ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("1/{:.0}", ratio.recip()) } else { format!("{ratio:.2}") }
}

/// A time for people.
pub(super) fn time(micros: f64) -> String {
    match micros {
        micros if micros >= 1e6 => format!("{:.2} s", micros / 1e6),
        micros if micros >= 1e3 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{micros:.1} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_takes_a_row_for_each_alternative() {
        let figure = Figure::new("s", "c", &[1_000]).beside("a", &[2_000]).beside("b", &[40_000_000]);
        let text = table(&[figure, Figure::new("s", "alone", &[5])]).to_string();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(rows[2], ["s", "c", "1.0 µs", "1.0 µs", "a", "2.0 µs", "0.50"]);
        assert_eq!(rows[3], ["", "", "", "", "b", "40.0 ms", "1/40000"]);
        assert_eq!(rows[4][..3], ["s", "alone", "0.0 µs"]);
    }
}
