//! What this host can do for the pool: the facts behind `cofferdam doctor`.
//!
//! The same binary meets very different hosts (an old kernel, a container without userfaultfd, a machine with
//! swap), and most of what is missing only makes it slower. An operator needs to know which, before the first
//! block. So everything is tried for real, on a few pages or a throw-away descriptor, and nothing is concluded
//! from a version number: distributions backport, and seccomp profiles take away.

mod addresses;
pub mod admission;
mod calls;
pub mod cgroup;
mod container;
mod kernel;
mod memory;
mod pages;
mod probe;
mod sandbox;
mod tracking;

use std::fmt;

use serde::Serialize;

use crate::host::admission::{Budget, Need};
use crate::host::cgroup::Cgroup;

/// How much a finding matters, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Neither good nor bad: for the record.
    Info,
    /// Workers run, but slower, less confined, or without one of the guarantees.
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
    /// What it is about: lower case, words joined by hyphens, stable for scripts.
    pub topic: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub value: String,
    /// What that means for the pool and, if something should be done, what: one sentence.
    pub meaning: String,
}

impl Finding {
    fn new(topic: &'static str, level: Level, value: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { topic, level, value: value.into(), meaning: meaning.into() }
    }
}

/// Everything that was found. Displayed with two lines for each finding, the topics aligned.
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

/// Examines this host for a pool with the given need.
///
/// Takes some milliseconds and at most a few MiB, and changes nothing: it maps and unmaps memory, opens and
/// closes descriptors, starts a thread and forks a child that exit at once, and writes its own `oom_score_adj` and its limit
/// on core dumps back unchanged.
#[must_use]
pub fn examine(need: &Need) -> Report {
    let cgroup = Cgroup::discover();
    let visible = cgroup.as_ref().ok();
    let findings = vec![
        memory::fit(&Budget::read(None), need),
        container::limit(&cgroup),
        container::delegation(visible),
        container::oom_group(visible),
        memory::swap(visible),
        memory::overcommit(need),
        memory::mlock(need),
        memory::oom_score(),
        addresses::addresses(),
        kernel::version(),
        calls::needed(),
        kernel::populate(),
        calls::mincore(),
        pages::huge(),
        pages::ksm(),
        tracking::tracking(),
        kernel::memfd_seals(),
        kernel::close_range(),
        sandbox::seccomp(),
        sandbox::landlock(),
        sandbox::user_namespaces(),
    ];
    Report { findings }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn this_host_is_examined_without_harm_and_each_topic_once() {
        let report = examine(&Need::of(2, 4 << 30, 72 << 20));
        eprintln!("{report}");
        let topics: HashSet<_> = report.findings.iter().map(|finding| finding.topic).collect();
        assert_eq!(topics.len(), report.findings.len());
        for Finding { topic, value, meaning, .. } in &report.findings {
            assert!(!value.is_empty() && !meaning.is_empty(), "{topic}");
            assert!(!meaning.ends_with('.') && !meaning.contains('\n'), "{topic}: {meaning}");
            assert!(topic.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{topic}");
        }
    }

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
