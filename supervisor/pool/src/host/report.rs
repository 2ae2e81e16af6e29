//! Findings about the host, and the report that they make up.

use std::fmt;

use serde::Serialize;

/// How much a finding matters, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The host is as it should be.
    Good,
    /// Neither good nor bad: information only.
    Info,
    /// Workers run, but slower or without one of the guarantees.
    Warning,
    /// A worker cannot work here.
    Bad,
}

impl Level {
    /// The sign in front of a line, as in the health endpoints.
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "[+]",
            Self::Info => "[i]",
            Self::Warning => "[!]",
            Self::Bad => "[-]",
        }
    }
}

/// One fact about the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The topic: lower case, words joined by hyphens, stable for scripts.
    pub topic: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub value: String,
    /// What the value means for the pool and, if something should be done, what to do. One sentence.
    pub meaning: String,
}

impl Finding {
    pub(super) fn new(
        topic: &'static str,
        level: Level,
        value: impl Into<String>,
        meaning: impl Into<String>,
    ) -> Self {
        Self { topic, level, value: value.into(), meaning: meaning.into() }
    }
}

/// All findings. Displayed with two lines for each finding, the topics aligned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of a worker's life: memory first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst level among the findings; [`Level::Good`] when there are none.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.findings.iter().map(|finding| finding.topic.len()).max().unwrap_or(0);
        for Finding { topic, level, value, meaning } in &self.findings {
            writeln!(f, "{} {topic:width$}  {value}", level.sign())?;
            writeln!(f, "    {:width$}  {meaning}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_aligned_for_people_and_plain_for_machines() {
        let findings = vec![
            Finding::new("swap", Level::Good, "off", "committed memory stays"),
            Finding::new("huge-pages", Level::Warning, "never", "commits are slower"),
        ];
        let report = Report { findings };
        let lines = "[+] swap        off\n                committed memory stays\n\
                     [!] huge-pages  never\n                commits are slower\n";
        assert_eq!(report.to_string(), lines);
        assert_eq!(report.worst(), Level::Warning);
        assert_eq!(
            serde_json::to_value(&report).unwrap()["findings"][1],
            serde_json::json!({
                "topic": "huge-pages", "level": "warning", "value": "never", "meaning": "commits are slower",
            })
        );
    }
}
