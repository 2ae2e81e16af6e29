//! From what /proc says about cgroups to a directory that can be opened.
//!
//! /proc/PID/cgroup names a path within a hierarchy, mountinfo says which part of the hierarchy is mounted where.
//! In a container neither is enough: without a cgroup namespace the path is the host's and the mount shows only
//! the container's part; with one, both are relative to the namespace.

use std::path::{Component, Path, PathBuf};

use super::Version;

/// The memory hierarchy and the path in it, from /proc/PID/cgroup (lines `id:controllers:path`).
pub(super) fn membership(text: &str) -> Option<(Version, String)> {
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.split(',').any(|name| name == "memory") {
            return Some((Version::V1, path.to_string()));
        }
        if id == "0" && controllers.is_empty() {
            unified = Some((Version::V2, path.to_string()));
        }
    }
    unified
}

/// One mount of the memory hierarchy.
struct Mount {
    /// Which cgroup is mounted: "/" ordinarily, the container's own with a bind mount.
    root: String,
    point: PathBuf,
}

impl Mount {
    /// Reads a line of /proc/self/mountinfo (proc_pid_mountinfo(5)) if it mounts the hierarchy looked for.
    fn parse(line: &str, version: Version) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let found = match version {
            Version::V1 => kind == "cgroup" && filesystem.nth(1)?.split(',').any(|name| name == "memory"),
            Version::V2 => kind == "cgroup2",
        };
        let mut fields = mount.split(' ').skip(3).map(unescape);
        found.then_some(Self { root: fields.next()?, point: PathBuf::from(fields.next()?) })
    }

    /// The path of a cgroup below the mount point, if it is there.
    fn below(&self, name: &str) -> Option<PathBuf> {
        // "/../x" is a cgroup outside our cgroup namespace: joined to a mount point it would leave the mount.
        let below = Path::new(name).strip_prefix(&self.root).ok()?;
        (!below.components().any(|part| part == Component::ParentDir)).then(|| below.to_path_buf())
    }
}

/// The mount point through which a cgroup is visible, and the cgroup's path below it.
///
/// When its path is outside every mount (a bind mount seen from within a cgroup namespace) that is the mount
/// itself: as far as can be told from in here, it is the cgroup or an ancestor, whose limit binds as well.
pub(super) fn visible(mountinfo: &str, version: Version, name: &str) -> Option<(PathBuf, PathBuf)> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(|line| Mount::parse(line, version)).collect();
    let inside = mounts.iter().find_map(|mount| Some((mount.point.clone(), mount.below(name)?)));
    inside.or_else(|| Some((mounts.first()?.point.clone(), PathBuf::new())))
}

/// Undoes mountinfo's `\040` for a space, `\134` for a backslash and so on.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_string(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_wins_over_the_unified_hierarchy() {
        let hybrid = "0::/u\n5:cpuset,memory:/a:b\n";
        assert_eq!(membership(hybrid), Some((Version::V1, "/a:b".into())));
        assert_eq!(membership("1:name=systemd:/s\n0::/u\n"), Some((Version::V2, "/u".into())));
        assert_eq!(membership("3:cpu:/c\n"), None);
        assert_eq!(membership("garbage\n"), None);
    }

    #[test]
    fn a_mount_of_a_part_is_preferred_when_the_cgroup_lies_in_it() {
        let mounts = "1 0 0:1 /other /mnt/other rw - cgroup2 none rw\n2 0 0:1 /pod /mnt/my\\040pod rw a:1 - cgroup2 none rw";
        let found = visible(mounts, Version::V2, "/pod/app");
        assert_eq!(found, Some(("/mnt/my pod".into(), "app".into())));
        assert_eq!(visible(mounts, Version::V2, "/../x"), Some(("/mnt/other".into(), "".into())));
        assert_eq!(visible(mounts, Version::V1, "/pod/app"), None);
    }
}
