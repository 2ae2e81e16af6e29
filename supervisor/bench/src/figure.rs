//! A figure: one measured time, and the alternatives that were measured in the same run.

use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeStruct, Serializer};

/// One figure and its alternatives.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) section: &'static str,
    pub(super) case: String,
    pub(super) ours: Spread,
    /// The alternatives. The main ratio of the figure is the ratio to the first alternative.
    pub(super) beside: Vec<Beside>,
    /// The unit that one sample consists of, and the number of units in a sample, for example `("page", 1000)`.
    pub(super) each: Option<(&'static str, u32)>,
}

/// One alternative.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) name: &'static str,
    pub(super) spread: Spread,
}

/// The spread of a figure over its rounds, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(nanoseconds: &[u64]) -> Self {
        let mut sorted = nanoseconds.to_vec();
        sorted.sort_unstable();
        let at = |permille: usize| {
            // Rounded up: the 99th percentile of a few samples is the largest sample.
            let index = (sorted.len().saturating_sub(1) * permille).div_ceil(1000);
            sorted.get(index).map_or(f64::NAN, |nanos| Duration::from_nanos(*nanos).as_secs_f64() * 1e6)
        };
        Self { min: at(0), p50: at(500), p99: at(990), max: at(1000) }
    }
}

impl Figure {
    /// A figure from samples in nanoseconds.
    pub(super) fn new(section: &'static str, case: impl Into<String>, ours: &[u64]) -> Self {
        Self { section, case: case.into(), ours: Spread::of(ours), beside: Vec::new(), each: None }
    }

    /// Adds an alternative from samples in nanoseconds.
    pub(super) fn beside(mut self, name: &'static str, nanoseconds: &[u64]) -> Self {
        self.beside.push(Beside { name, spread: Spread::of(nanoseconds) });
        self
    }

    /// Sets the unit that one sample consists of.
    pub(super) fn each(mut self, what: &'static str, count: u32) -> Self {
        self.each = (count > 1).then_some((what, count));
        self
    }

    /// The median of this figure divided by the median of an alternative. Below 1, this figure is faster.
    pub(super) fn ratio(&self, beside: &Beside) -> f64 {
        self.ours.p50 / beside.spread.p50
    }

    /// Microseconds for one unit of a sample.
    pub(super) fn each_us(&self) -> Option<(&'static str, f64)> {
        self.each.map(|(what, count)| (what, self.ours.p50 / f64::from(count)))
    }
}

/// Serialises alternatives as an object whose keys are the names of the alternatives.
struct ByName<'a, F>(&'a [Beside], F);

impl<T: Serialize, F: Fn(&Beside) -> T> Serialize for ByName<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for beside in self.0 {
            map.serialize_entry(beside.name, &self.1(beside))?;
        }
        map.end()
    }
}

impl Serialize for Figure {
    /// The medians as `{section, case, ours_us, beside: {name: us}, ratio}`, followed by the details: the ratio to each
    /// alternative, the time of one unit, and the spreads of the figure and of each alternative.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_struct("Figure", 9)?;
        line.serialize_field("section", self.section)?;
        line.serialize_field("case", &self.case)?;
        line.serialize_field("ours_us", &self.ours.p50)?;
        line.serialize_field("beside", &ByName(&self.beside, |beside: &Beside| beside.spread.p50))?;
        line.serialize_field("ratio", &self.beside.first().map(|first| self.ratio(first)))?;
        line.serialize_field("ratios", &ByName(&self.beside, |beside: &Beside| self.ratio(beside)))?;
        line.serialize_field("each_us", &self.each_us().map(|(_, micros)| micros))?;
        line.serialize_field("ours_spread_us", &self.ours)?;
        line.serialize_field("beside_spread_us", &ByName(&self.beside, |beside: &Beside| beside.spread))?;
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_its_medians_and_the_ratio_to_the_first_alternative() {
        let figure = Figure::new("s", "c", &[3_000, 1_000, 2_000])
            .beside("z", &[4_000])
            .beside("a", &[500])
            .each("page", 4);
        let line = serde_json::to_string(&figure).unwrap();
        let start = r#"{"section":"s","case":"c","ours_us":2.0,"beside":{"z":4.0,"a":0.5},"ratio":0.5,"#;
        assert!(line.starts_with(start), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["ratios"]["a"], &value["each_us"]), (&4.0.into(), &0.5.into()));
        assert_eq!(
            (&value["ours_spread_us"]["min"], &value["ours_spread_us"]["max"]),
            (&1.0.into(), &3.0.into())
        );
    }
}
