//! Whether there is enough memory, and whether committed memory stays resident.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::admission::{Budget, Need, meminfo};
use super::cgroup::Cgroup;
use super::probe::{Area, setting};
use super::report::{Finding, Level};
use cofferdam_base::size::Bytes;

/// The number of workers with this need that can be started now.
pub(super) fn fit(budget: &Budget, need: &Need) -> Finding {
    let topic = "memory";
    let fit = budget.workers_that_fit(need);
    let available = match budget.available() {
        u64::MAX => "an unknown amount".into(),
        bytes => Bytes(bytes).to_string(),
    };
    let noun = if fit == 1 { "worker fits" } else { "workers fit" };
    let memory = Bytes(need.memory_bytes);
    let value = match fit {
        u32::MAX => format!("{available} available"),
        _ => format!("{available} available: {fit} {noun} at {memory} each"),
    };
    match budget.fits(need) {
        Ok(()) => Finding::new(topic, Level::Good, value, format!("{need}, and that is available")),
        Err(refused) => {
            let level = if fit == 0 { Level::Bad } else { Level::Warning };
            Finding::new(topic, level, value, refused.to_string())
        }
    }
}

/// Whether committed memory can be swapped out.
pub(super) fn swap(cgroup: Option<&Cgroup>) -> Finding {
    let forbidden = cgroup.and_then(Cgroup::swap_limit).filter(|limit| limit.bytes == 0);
    let (level, value, meaning) = match (meminfo("SwapTotal"), forbidden) {
        (Some(0), _) => (Level::Good, "off".into(), "committed memory stays resident"),
        (_, Some(limit)) => (
            Level::Good,
            format!("forbidden by memory.swap.max of {}", limit.path.display()),
            "committed memory stays resident",
        ),
        (total, None) => (
            Level::Warning,
            total.map_or_else(|| "unknown".into(), |bytes| format!("{} configured", Bytes(bytes))),
            "committed memory may be swapped out: use --mlock, swapoff, or memory.swap.max=0 for the cgroup",
        ),
    };
    Finding::new("swap", level, value, meaning)
}

/// Whether the kernel refuses to reserve more memory than it has (Documentation/mm/overcommit-accounting.rst).
pub(super) fn overcommit(need: &Need) -> Finding {
    let topic = "overcommit";
    let mode = setting("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let usual = "the kernel does not refuse reservations; the commit proves the memory";
    match mode.as_str() {
        "0" => Finding::new(topic, Level::Good, "vm.overcommit_memory=0 (heuristic)", usual),
        "1" => Finding::new(topic, Level::Good, "vm.overcommit_memory=1 (always)", usual),
        "2" => strict(need, meminfo("CommitLimit"), meminfo("Committed_AS")),
        _ => Finding::new(topic, Level::Info, "vm.overcommit_memory cannot be read", usual),
    }
}

/// In strict mode, all memory counts against CommitLimit when it becomes writable, with MAP_NORESERVE or without.
fn strict(need: &Need, limit: Option<u64>, charged: Option<u64>) -> Finding {
    let left = limit.unwrap_or(0).saturating_sub(charged.unwrap_or(0));
    let value = format!("vm.overcommit_memory=2 (strict), {} left of CommitLimit", Bytes(left));
    let (level, meaning) = if left >= need.total() {
        (Level::Good, format!("{need}, and that can still be reserved"))
    } else {
        let level = if left < (Need { workers: 1, ..*need }).total() { Level::Bad } else { Level::Warning };
        let advice =
            "but only less can still be reserved: raise vm.overcommit_ratio, or set vm.overcommit_memory=0";
        (level, format!("{need}, {advice}"))
    };
    Finding::new("overcommit", level, value, meaning)
}

/// Whether `--mlock` would work. That option locks a worker's memory and its arenas. This function tries to lock a mapping of
/// that size that has no pages. The size includes a small part of a worker's memory that `--mlock` does not lock.
pub(super) fn mlock(need: &Need) -> Finding {
    let bytes = need.memory_bytes.saturating_add(need.overhead_bytes);
    let memory = Bytes(bytes);
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((libc::RLIM_INFINITY, _)) => "unlimited".into(),
        Ok((soft, _)) => Bytes(soft).to_string(),
        Err(error) => format!("unknown ({error})"),
    };
    let len = usize::try_from(bytes).unwrap_or(usize::MAX);
    let locked = Area::inaccessible(len).and_then(|area| area.lock_on_fault());
    let (level, value, meaning) = match locked {
        Ok(()) => {
            (Level::Good, format!("{memory} can be locked (RLIMIT_MEMLOCK {limit})"), "--mlock works".into())
        }
        Err(error) => (
            Level::Info,
            format!("{memory} cannot be locked (RLIMIT_MEMLOCK {limit}): {error:?}"),
            format!("--mlock needs CAP_IPC_LOCK, or ulimit -l {} or more", bytes.div_ceil(1024)),
        ),
    };
    Finding::new("mlock", level, value, meaning)
}

/// Whether workers can make themselves the first choice of the OOM killer. Tried by writing the present value back.
pub(super) fn oom_score() -> Finding {
    let path = "/proc/self/oom_score_adj";
    let (level, value, meaning) = match fs::read_to_string(path).and_then(|score| fs::write(path, score)) {
        Ok(()) => {
            let score = setting(path).unwrap_or_default();
            (
                Level::Good,
                format!("{score}, writable"),
                "when memory runs out, the kernel kills a worker first",
            )
        }
        Err(error) => (
            Level::Warning,
            format!("not writable: {error}"),
            "when memory runs out, the kernel may kill the supervisor: mount /proc writable",
        ),
    };
    Finding::new("oom-score-adj", level, value, meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_is_bad_only_when_not_one_worker_fits() {
        let level = |available| {
            let budget = Budget { host_available: Some(available), cgroup: None };
            fit(&budget, &Need::of(2, 4 * GIB, 0)).level
        };
        assert_eq!(level(9 * GIB), Level::Good);
        assert_eq!(level(8 * GIB), Level::Warning);
        assert_eq!(level(4 * GIB), Level::Bad);
        assert_eq!(fit(&Budget::default(), &Need::of(2, 4 * GIB, 0)).level, Level::Good);
    }

    #[test]
    fn strict_overcommit_is_compared_with_the_need() {
        let need = Need::of(2, 4 * GIB, 0);
        let level = |limit| strict(&need, Some(limit), Some(GIB)).level;
        assert_eq!(
            [level(10 * GIB), level(6 * GIB), level(5 * GIB)],
            [Level::Good, Level::Warning, Level::Bad]
        );
        assert_eq!(strict(&need, None, None).level, Level::Bad);
    }

    #[test]
    fn what_can_never_be_locked_is_told_and_not_bad() {
        let finding = mlock(&Need::of(1, u64::MAX, 0));
        assert_eq!(finding.level, Level::Info);
        assert!(finding.meaning.contains("ulimit -l 18014398509481984"), "{}", finding.meaning);
    }
}
