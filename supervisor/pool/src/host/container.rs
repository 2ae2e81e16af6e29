//! The memory cgroup of this process, and what the kernel does when the cgroup is full.

use super::cgroup::{Cgroup, CgroupError, Version};
use super::report::{Finding, Level};
use cofferdam_base::size::Bytes;

/// The limit of the memory cgroup.
pub(super) fn limit(cgroup: &Result<Cgroup, CgroupError>) -> Finding {
    let topic = "cgroup";
    let cgroup = match cgroup {
        Ok(cgroup) => cgroup,
        Err(error) => {
            let meaning = "only the memory of the host is taken into account";
            return Finding::new(topic, Level::Info, error.to_string(), meaning);
        }
    };
    let place = format!("{} {}", cgroup.version(), cgroup.dir().display());
    let Some(limit) = cgroup.limit_bytes() else {
        let meaning = "only the memory of the host limits the workers";
        return Finding::new(topic, Level::Good, format!("{place}: no limit"), meaning);
    };
    let setter = if limit.path == cgroup.dir() { "itself".into() } else { limit.path.display().to_string() };
    let left =
        cgroup.headroom().map_or_else(|| "unknown".into(), |budget| Bytes(budget.headroom).to_string());
    let value = format!("{place}: limit {} set by {setter}, {left} left", Bytes(limit.bytes));
    Finding::new(topic, Level::Info, value, "above the limit the kernel kills a process of the cgroup")
}

/// Whether child cgroups can be made, as the harness and `check` do for a worker with a memory limit.
pub(super) fn delegation(cgroup: Option<&Cgroup>) -> Finding {
    let value = match cgroup.map(Cgroup::delegation) {
        Some(Ok(())) => "child cgroups can be made".into(),
        Some(Err(obstacle)) => obstacle.to_string(),
        None => "no memory cgroup".into(),
    };
    let meaning = "the harness and `check` need child cgroups to limit the memory of a worker; the workers of a pool share \
                   the supervisor's cgroup, its limit and its count of OOM kills";
    Finding::new("cgroup-delegation", Level::Info, value, meaning)
}

/// Whether one worker that runs out of memory ends the whole container.
pub(super) fn oom_group(cgroup: Option<&Cgroup>) -> Finding {
    let topic = "oom-group";
    if let Some(dir) = cgroup.and_then(Cgroup::oom_group) {
        let value = format!("memory.oom.group=1 in {}", dir.display());
        let meaning = "when one worker runs out of memory, the kernel kills the supervisor too: on Kubernetes set the kubelet's \
                       singleProcessOOMKill, elsewhere write 0 to that file";
        return Finding::new(topic, Level::Warning, value, meaning);
    }
    let value = match cgroup.map(Cgroup::version) {
        Some(Version::V2) => "off",
        Some(Version::V1) => "cgroup v1 has no such setting",
        None => "no memory cgroup",
    };
    Finding::new(topic, Level::Good, value, "when a worker runs out of memory, only that worker dies")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Cgroup, CgroupError>) {
        let root = tempfile::tempdir().unwrap();
        let found = [
            ("proc/self/cgroup", "0::/pod\n"),
            ("proc/self/mountinfo", "1 0 0:1 / /cg rw - cgroup2 none rw\n"),
            ("cg/pod/cgroup.procs", ""),
        ];
        for (path, text) in found.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let cgroup = Cgroup::discover_in(root.path(), "self");
        (root, cgroup)
    }

    #[test]
    fn a_pod_on_v2_is_told_its_limit_its_setter_and_that_it_dies_as_a_whole() {
        let files = [
            ("cg/memory.max", "8589934592"),
            ("cg/memory.current", "1073741824"),
            ("cg/pod/memory.max", "max"),
            ("cg/pod/memory.oom.group", "1"),
            ("cg/pod/cgroup.controllers", "cpu memory"),
            ("cg/pod/cgroup.subtree_control", ""),
        ];
        let (root, cgroup) = v2(&files);
        let dir = root.path().join("cg");
        let value = limit(&cgroup).value;
        assert!(value.ends_with(&format!("limit 8 GiB set by {}, 7 GiB left", dir.display())), "{value}");
        assert_eq!(oom_group(cgroup.as_ref().ok()).level, Level::Warning);
        let delegated = delegation(cgroup.as_ref().ok());
        assert_eq!((delegated.level, delegated.value.as_str()), (Level::Info, "child cgroups can be made"));
    }

    #[test]
    fn without_a_limit_or_a_cgroup_nothing_is_bad() {
        let (_root, cgroup) = v2(&[]);
        assert_eq!(limit(&cgroup).level, Level::Good);
        assert_eq!(delegation(cgroup.as_ref().ok()).level, Level::Info);
        assert_eq!(oom_group(cgroup.as_ref().ok()).level, Level::Good);
        let none = Err(CgroupError::NotMounted { name: "/x".into() });
        assert_eq!((limit(&none).level, delegation(None).level), (Level::Info, Level::Info));
    }
}
