//! Finding the directory of a cgroup, from the files of /proc.
//!
//! /proc/PID/cgroup names a path within a hierarchy, and mountinfo says which part of the hierarchy is mounted where. In a container
//! neither is enough. Without a cgroup namespace, the path is the host's, and the mount shows only the container's part. With a
//! cgroup namespace, both are relative to the namespace.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The version of a memory cgroup, which decides the names of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of the `memory` controller.
    V1,
    /// The unified hierarchy.
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// The memory hierarchy, and the path of the cgroup in it, from /proc/PID/cgroup (lines `id:controllers:path`).
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
    /// The cgroup that is mounted: "/" ordinarily, the container's own with a bind mount.
    root: String,
    point: PathBuf,
}

impl Mount {
    /// Parses a line of /proc/self/mountinfo (proc_pid_mountinfo(5)). None if it does not mount the memory hierarchy.
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

    /// The path of a cgroup below the mount point, if the cgroup lies there.
    fn below(&self, name: &str) -> Option<PathBuf> {
        // "/../x" is a cgroup outside of our cgroup namespace. Joined to a mount point, it would leave the mount.
        let below = Path::new(name).strip_prefix(&self.root).ok()?;
        (!below.components().any(|part| part == Component::ParentDir)).then(|| below.to_path_buf())
    }
}

/// The mount point through which a cgroup is visible, and the cgroup's path below it.
///
/// If the path is outside of every mount (a bind mount seen from within a cgroup namespace), this is the mount itself. As far as
/// this process can tell, the mount is the cgroup or an ancestor of it, whose limit applies as well.
pub(super) fn visible(mountinfo: &str, version: Version, name: &str) -> Option<(PathBuf, PathBuf)> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(|line| Mount::parse(line, version)).collect();
    let inside = mounts.iter().find_map(|mount| Some((mount.point.clone(), mount.below(name)?)));
    inside.or_else(|| Some((mounts.first()?.point.clone(), PathBuf::new())))
}

/// Replaces the escapes of mountinfo: `\040` for a space, `\134` for a backslash, and so on.
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
