//! Samples in Prometheus' text format.

use std::collections::BTreeMap;

/// Samples of Prometheus' text format, by name and labels as they are written.
#[derive(Debug)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Parses the text, and takes nothing that is not in the format
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
    pub fn parse(text: &str) -> Self {
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) = (words.next(), words.next(), words.next());
                assert!(matches!(kind, Some("HELP" | "TYPE")), "{line:?}");
                assert!(
                    is_name(name.unwrap_or_default()) && rest.is_some_and(|rest| !rest.is_empty()),
                    "{line:?}"
                );
                let is_counter = kind == Some("TYPE") && rest == Some("counter");
                assert!(!is_counter || name.is_some_and(|name| name.ends_with("_total")), "{line:?}");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
            let name = match sample.split_once('{') {
                None => sample,
                Some((name, labels)) => {
                    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end: {line:?}"));
                    for label in labels.split(',') {
                        let (label, value) = label.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
                        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                        let plain = quoted.is_some_and(|value| !value.contains(['"', '\\', '\n']));
                        assert!(is_name(label) && plain, "{line:?}");
                    }
                    name
                }
            };
            assert!(is_name(name), "{line:?}");
            let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line:?}"));
            assert_eq!(samples.insert(sample.to_owned(), value), None, "twice: {line:?}");
        }
        Self(samples)
    }

    /// A sample; 0 if there is none, for what never happened is not listed.
    pub fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
