//! The size of a page of the host.

/// Bytes in one page of the host; 4096, the smallest page of any supported host, if the host does not say.
pub(super) fn page_bytes() -> usize {
    let answer = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    answer.ok().flatten().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096)
}
