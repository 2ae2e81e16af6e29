//! Draws figures as SVG: one file for each section. Each figure and each alternative has a bar on a logarithmic scale.

use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::BenchError;
use crate::figure::{Beside, Figure};
use crate::output::time;

const WIDTH: u32 = 900;
const ROW: u32 = 22;
const MARGIN: u32 = 70;

const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const THEIRS: RGBColor = RGBColor(0xb0, 0xb7, 0xc0);

/// Draws every section into `directory`. Creates the directory if it does not exist.
pub(super) fn draw(directory: &Path, figures: &[Figure]) -> Result<(), BenchError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| BenchError::File { path, source }
    };
    fs::create_dir_all(directory).map_err(file(directory))?;
    for section in figures.chunk_by(|a, b| a.section == b.section) {
        let Some(first) = section.first() else { continue };
        let path = directory.join(format!("{}.svg", first.section.replace(' ', "-")));
        let mut svg = String::new();
        picture(&mut svg, first.section, section)
            .map_err(|error| file(&path)(std::io::Error::other(error.to_string())))?;
        fs::write(&path, svg).map_err(file(&path))?;
    }
    Ok(())
}

/// One bar of a picture.
enum Row<'a> {
    Case(&'a str),
    Bar { name: &'a str, micros: f64, ours: bool },
}

fn rows<'a>(figures: &'a [Figure]) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for figure in figures {
        rows.push(Row::Case(&figure.case));
        rows.push(Row::Bar { name: "Cofferdam", micros: figure.ours.p50, ours: true });
        let bar = |beside: &'a Beside| Row::Bar { name: beside.name, micros: beside.spread.p50, ours: false };
        rows.extend(figure.beside.iter().map(bar));
    }
    rows
}

type DrawingError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn picture<'a>(svg: &'a mut String, title: &str, figures: &[Figure]) -> Result<(), DrawingError<'a>> {
    let rows = rows(figures);
    let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let times =
        || rows.iter().filter_map(|row| if let Row::Bar { micros, .. } = row { Some(*micros) } else { None });
    let least = times().fold(f64::INFINITY, f64::min).max(0.01);
    let most = times().fold(0.0, f64::max).max(least);
    // Space for a short bar at one end, and for the label of a long bar at the other end.
    let range = (least / 3.0)..(most * 200.0);
    let area = SVGBackend::with_string(svg, (WIDTH, count.saturating_mul(ROW) + MARGIN)).into_drawing_area();
    area.fill(&WHITE)?;
    let end = f64::from(count);
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .caption(format!("{title}: medians"), ("sans-serif", 18))
        .x_label_area_size(30)
        .build_cartesian_2d(range.clone().log_scale(), end..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|micros| time(*micros))
        .light_line_style(WHITE)
        .draw()?;
    for (place, row) in (0u32..).zip(&rows) {
        let (top, middle) = (f64::from(place), f64::from(place) + 0.5);
        match row {
            Row::Case(case) => {
                let style = text(14).color(&BLACK);
                chart.draw_series([Text::new((*case).to_owned(), (range.start, middle), style)])?;
            }
            Row::Bar { name, micros, ours } => {
                let color = if *ours { OURS } else { THEIRS };
                let corners = [(range.start, top + 0.12), (micros.max(range.start), top + 0.88)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
                let words = format!("  {} {name}", time(*micros));
                chart.draw_series([Text::new(
                    words,
                    (micros.max(range.start), middle),
                    text(12).color(&BLACK),
                )])?;
            }
        }
    }
    area.present()
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_text_style(&(WIDTH, ROW)).pos(Pos::new(HPos::Left, VPos::Center))
}
