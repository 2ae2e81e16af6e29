//! What this host can do for the pool: the facts behind `cofferdam doctor`.
//!
//! The same binary runs on very different hosts: an old kernel, a container without userfaultfd, a machine with swap. Most
//! missing features only make the pool slower. An operator needs to know which features are missing, before the first block. So
//! every feature is tried for real, on a few pages or on a temporary descriptor. Nothing is concluded from a version number:
//! distributions backport features, and seccomp profiles remove them.

mod addresses;
pub mod admission;
mod calls;
pub mod cgroup;
mod container;
mod kernel;
mod memory;
mod pages;
mod probe;
pub(crate) mod proc_file;
mod report;
mod tracking;

use admission::{Budget, Need};
use cgroup::Cgroup;

pub use report::{Finding, Level, Report};

/// Examines this host for a pool with the given need.
///
/// Takes some milliseconds and at most a few MiB, and changes nothing: it maps and unmaps memory, opens and closes descriptors,
/// starts a thread that ends at once, and writes its own `oom_score_adj` and its limit on core dumps back unchanged.
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
}
